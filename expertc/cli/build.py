"""``expertc build``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..earlier import Earlier
    from ..source import Source

MAX_BATCH = 4096


@click.command(
    epilog=options.example(
        "expertc build --classes sharks,rays",
        "expertc build full.onnx --classes 'fishes,-sharks' -o fishes.expert",
        "expertc build full.onnx --sets beaches.toml -o experts/",
        "expertc build --classes sharks,rays --precision int8 --calib photos/",
        "expertc build --classes sharks,rays --target orin-nano-8gb --precision fp16",
    )
)
@click.argument("model", required=False)
@click.option(
    "--classes", "lists", multiple=True, metavar="LIST",
    help="Classes to keep: names, categories, paths, -exclusions, @files. More than once: an expert each.",
)  # fmt: skip
@click.option("--sets", metavar="FILE", help="TOML file of named class sets: an expert each.")
@click.option(
    "-o", "--output", metavar="DIR",
    help="Bundle directory (default: named after the classes); of several experts the folder they go to.",
)  # fmt: skip
@click.option("--plan", is_flag=True, help="Show what would go and what would stay; write nothing.")
@click.option("--target", metavar="NAME", help="Device profile; see expertc targets.  [default: cpu]")
@click.option("--batch", default="1", show_default=True, metavar="N|dynamic", help="Images per call.")
@click.option(
    "--verify",
    "level",
    default="fast",
    show_default=True,
    metavar="fast|full|off",
    help="How to verify; off also measures the model unguarded.",
)
@click.option("--data", metavar="DIR", help="Verify on these photos instead of noise.")
@click.option(
    "--measure", type=float, metavar="SECONDS", help="Latency window (default: 0.5, none above 1 GiB); 0 for none."
)
@click.option(
    "--fuse", default="auto", show_default=True, metavar="auto|on|off",
    help="Make sibling branches wide layers; auto: the fastest form here (not with --measure 0), by rule for a device.",
)  # fmt: skip
@click.option(
    "--precision", default="fp32", show_default=True, metavar="fp32|fp16|int8|auto",
    help="What the expert computes in; auto: the fastest here within its budget, by rule for a device.",
)  # fmt: skip
@click.option("--calib", metavar="DIR", help="Photos of the expert's classes to calibrate a precision on.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Top-1 agreement a precision may lose (int8: 1).")
@click.option("--embed-preprocess", "bake", is_flag=True, help="The expert takes RGB bytes and scales them itself.")
@click.option(
    "--embed", "--embed-gain", "embed", is_flag=True,
    help="Freeze gains and thresholds of exits into the expert, for engines.",
)  # fmt: skip
@click.option(
    "--exits", metavar="nested|staged|plain",
    help="Where exits are decided: in one graph, between one for each, nowhere.  [default: nested; TensorRT: staged]",
)  # fmt: skip
@options.gain
@options.exits
@click.option(
    "--from", "earlier", metavar="BUNDLE|MANIFEST", help="Make what an earlier build made, measuring nothing."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@options.foreign
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    model: str | None, lists: tuple[str, ...], sets: str | None, output: str | None, plan: bool, target: str | None,
    batch: str, level: str, data: str | None, measure: float | None, fuse: str, precision: str, calib: str | None,
    max_drop: float | None, bake: bool, embed: bool, exits: str | None, gains: tuple[str, ...], threshold: str | None,
    tolerance: float | None, forced: int | None, earlier: str | None, force: bool,
    labels: str | None, taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...], threads: int | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Cut MODEL down to the classes of LIST, verify the expert and write its bundle.

    Without MODEL the bundled one is used: 23 sea animals. Several class sets are read off one model in one go.
    """
    from ..errors import UsageError
    from ..verify import standby

    images_per_call = _batch(batch)
    window = None if measure is None else options.check_seconds(measure, "--measure")
    foreign = options.make_foreign(labels, taxonomy, preprocess, outputs)
    if precision == "fp32" and (calib is not None or max_drop is not None):
        raise UsageError("--calib and --max-drop are for another precision.", "Add --precision int8, fp16 or auto.")
    if earlier is not None and (fuse, precision, batch, bake, embed, exits) != (
        "auto",
        "fp32",
        "1",
        False,
        False,
        None,
    ):
        raise UsageError("--from says how the expert is made.", "Leave out what else says it.")
    repeated = None if earlier is None else _earlier(earlier, lists, sets)
    device = target or ("cpu" if repeated is None else repeated.target)
    wanted = _wanted(lists, sets) if repeated is None else [(None, repeated.classes)]
    frozen = _frozen(gains, embed=embed)
    if not embed and (threshold, tolerance, forced) != (None, None, None):
        raise UsageError("Thresholds are for predict, or for an expert that they are frozen into.", "Add --embed.")
    chosen = options.make_exits(threshold, tolerance, forced) if embed else None
    with ExitStack() as stack:
        progress = stack.enter_context(options.stages(quiet))
        # The verifying process loads its libraries while this one loads its own.
        standing = None if level == "off" or plan else stack.enter_context(standby())
        from ..atomic import reported
        from ..compiler import build
        from ..source import open_source
        from . import built as printing

        progress("read")
        source = open_source(model, foreign)
        if chosen is not None:
            own = source.card.with_defaults(chosen.settings(source.card.settings, source.card.exits))
            source = replace(source, card=own)
        if repeated is not None:
            repeated.require(source)
        places = _places(source, wanted, output, frozen)
        if plan:
            printing.plans(source, [text for _, text in wanted], as_json)
            return
        if len(places) > 1 and output is not None:
            with reported(Path(output)):
                Path(output).mkdir(exist_ok=True)
        done = []
        for (_, text), place in zip(wanted, places, strict=True):
            how: dict[str, Any] = {
                "batch": images_per_call, "embed": frozen, "bake": bake, "fuse": fuse, "exits": exits,
                "precision": precision, "max_drop": max_drop,
            } if repeated is None else repeated.options()  # fmt: skip
            done.append(build(
                source, classes=text, output=place, target=device, verification=level,
                images=partial(options.photos, data=data, baked=how["bake"]),
                calibration=None if calib is None
                else partial(options.calibration, calib, baked=how["bake"], progress=progress),
                force=force, threads=threads, measure_seconds=window, standing=standing, progress=progress, **how,
            ))  # fmt: skip
            standing = None  # it can be used once
    printing.experts(done, as_json, quiet)


def _earlier(path: str, lists: tuple[str, ...], sets: str | None) -> Earlier:
    from ..earlier import read_earlier
    from ..errors import UsageError

    if lists or sets is not None:
        raise UsageError("--from brings its classes along.", "Leave out --classes and --sets.")
    return read_earlier(path)


Wanted = Sequence[tuple[str | None, str]]  # a name or none, and the text of --classes


def _wanted(lists: Sequence[str], sets: str | None) -> Wanted:
    from ..errors import UsageError
    from ..sets import read_sets

    named: Mapping[str, str] = {} if sets is None else read_sets(sets)
    wanted = [*((None, text) for text in lists), *named.items()]
    if not wanted:
        raise UsageError("No class set is given.", "Say --classes LIST, or --sets FILE.")
    return wanted


Frozen = Mapping[str, Mapping[str, float]] | None  # what the controls are frozen at, None if they are not


def _frozen(gains: tuple[str, ...], *, embed: bool) -> Frozen:
    from ..errors import UsageError

    if gains and not embed:
        raise UsageError("--gain is for predict, or for an expert that it is frozen into.", "Add --embed.")
    return options.make_controls(gains) if embed else None


def _places(source: Source, wanted: Wanted, output: str | None, frozen: Frozen) -> list[Path]:
    """Where each expert goes; every selection is resolved first, so that the last one's typo is found at once."""
    from ..compiler import bundle_name, set_controls
    from ..errors import UsageError
    from ..selection import resolve

    chosen = [resolve(source.card.taxonomy, text) for _, text in wanted]
    if frozen is not None:
        for selection in chosen:
            set_controls(source, selection, frozen)
    own = [bundle_name(selection, name) for selection, (name, _) in zip(chosen, wanted, strict=True)]
    if len(own) == 1:
        return [Path(own[0] if output is None else output)]
    twice = next((name for name in own if own.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two class sets would be written to '{twice}'.", "Name them in a file, and use --sets.")
    return [Path(output or "") / name for name in own]


def _batch(value: str) -> int | None:
    from ..errors import UsageError
    from ..text import shown

    if value == "dynamic":
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 4 or not 1 <= int(value) <= MAX_BATCH:
        raise UsageError(
            f"The batch {shown(value)} is neither a number from 1 to {MAX_BATCH} nor 'dynamic'.", "Use --batch 1."
        )
    return int(value)
