"""The part of ``expertc calibrate`` that sets early exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import data as photos
from . import options, show

if TYPE_CHECKING:
    from ..evaluate.operating import Point, Recorded
    from ..exits import Exits
    from ..runtime import LabelledImages


@dataclass(frozen=True)
class Asked:
    """What is wanted: one of ``min_accuracy`` and ``max_ms``, perhaps a least share of fine answers, a picture."""

    min_accuracy: float | None
    max_ms: float | None
    min_fine: float | None
    picture: str | None

    def check(self) -> None:
        """Raise ``UsageError`` for what is no share, or no time."""
        from ..errors import UsageError

        for name, value in (("--min-accuracy", self.min_accuracy), ("--min-fine", self.min_fine)):
            if value is not None and not 0 <= value <= 1:  # which NaN is not
                raise UsageError(f"{name} {value:g} is not a share from 0 to 1.", f"Write for example {name} 0.9.")
        if self.max_ms is not None and not self.max_ms > 0:
            raise UsageError(f"--max-ms {self.max_ms:g} is not a time.", "Write for example --max-ms 5.")

    @property
    def goal(self) -> dict[str, float]:
        """The numbers, by what they bound."""
        named = {"min_accuracy": self.min_accuracy, "max_ms": self.max_ms, "min_fine": self.min_fine}
        return {name: value for name, value in named.items() if value is not None}


def run(
    bundle: str, data: str, split: str, ignore_unknown: bool, asked: Asked, output: Path, force: bool,
    threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Record, try the grid, choose, write. Raises ``DataError`` if nothing on the grid is as good as is asked."""
    from importlib import import_module

    from ..atomic import refuse_unless
    from ..bundle import open_bundle, reserve
    from ..errors import DataError
    from ..evaluate.calibrate import release_point
    from ..evaluate.judges import of_expert
    from ..evaluate.operating import choose, front, grid
    from ..evaluate.recording import record, require_settable
    from ..runtime import Expert, open_dataset

    asked.check()
    if asked.picture is not None:  # before any work
        import_module("matplotlib")
        if not force:
            refuse_unless(Path(asked.picture), None)
    opened = open_bundle(bundle)
    with reserve(output, force=force) as place:
        images = open_dataset(data, split)
        unreadable: list[tuple[str, str]] = []
        with Expert.open(opened, threads=threads) as expert:
            for notice in expert.notices:
                show.line(notice, error=True)
            exits = require_settable(expert)
            _refuse_coarse(images, exits, ignore_unknown)
            match = photos.match(images, of_expert(expert, opened), ignore_unknown)
            others = photos.left_out(images, match)
            with options.bar(f"running {len(exits.exits)} exits", quiet) as progress:
                found = record(expert, images, match, unreadable, progress=progress)
        points, name = grid(found), Path(bundle).resolve().name
        seconds = None if asked.max_ms is None else asked.max_ms / 1e3
        try:
            chosen = choose(
                points, min_accuracy=asked.min_accuracy, max_seconds=seconds, min_fine=asked.min_fine or 0.0
            )
        except DataError:
            _draw(asked.picture, points, None, name, force)  # of what there is
            raise
        _draw(asked.picture, points, chosen, name, force)
        report = {"goal": asked.goal, **_timed(chosen), "exit_ms": [1e3 * each for each in found.seconds]}
        path = release_point(opened, place, chosen, report | {"front": [_timed(one) for one in front(points)]})
    if as_json:
        lost = [{"image": name, "error": reason} for name, reason in unreadable]
        told = {"settings": len(points), **report, "left_out": others, "unreadable": lost}
        show.json_out({"bundle": str(path), **told})
        return
    _print(path, chosen, found, len(points))
    for remark in photos.remarks(unreadable, others):
        show.line(remark)
    if asked.picture is not None:
        show.line(f"picture: {asked.picture}")


def _refuse_coarse(images: LabelledImages, exits: Exits, ignore_unknown: bool) -> None:
    """Raise ``DataError`` for photos that are labelled with a category and no class."""
    from ..errors import DataError
    from ..selection import fold
    from ..text import shown

    categories = {fold(name) for name in exits.categories}
    coarse = [name for name in images.classes if fold(name) in categories]
    if coarse and not ignore_unknown:
        raise DataError(
            f"The photos of {shown(coarse[0])} have a category, but no class.",
            "Calibration needs both: put the photos of each class into a folder of its name.",
        )


def _draw(picture: str | None, points: Sequence[Point], chosen: Point | None, name: str, force: bool) -> None:
    from ..atomic import save
    from ..evaluate.operating_picture import draw

    if picture is not None:
        save(Path(picture), draw(points, chosen, name), force=force)


def _timed(one: Point) -> dict[str, Any]:
    return {**one.to_mapping(), "mean_ms": 1e3 * one.seconds}


def _print(path: Path, chosen: Point, found: Recorded, settings: int) -> None:
    """What was chosen, and what each exit costs and answers."""
    rows = [
        (str(number), show.duration(each), show.count(count), show.percent(count / chosen.images))
        for number, (each, count) in enumerate(zip(found.seconds, chosen.exits, strict=True), 1)
    ]
    show.table(("exit", "latency", "answers", "share"), rows)
    show.line()
    limits = ", ".join(f"{value:g}" for value in chosen.thresholds)
    set_to = [f"{limits} nats"] if limits else ["none"]
    set_to += [f"tolerance {chosen.tolerance:g} nats"] if found.exits.compares else []
    show.facts({
        "right": f"{show.percent(chosen.accuracy)} of {chosen.images:,} photos "
                 f"({photos.interval(chosen.hits, chosen.images)}), class or category",
        "fine": f"{show.percent(chosen.fine_share)} of the answers name a class",
        "latency": f"{show.duration(chosen.seconds)} on average, without preprocessing",
        "thresholds": "; ".join(set_to),
        "chosen": f"from {settings:,} settings, on these very photos: on others it will be a little less good",
        "bundle": str(path),
    })  # fmt: skip
