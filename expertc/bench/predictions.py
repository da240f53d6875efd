"""Measuring where the time of predictions goes: the photos, the experts that predict them, and the clock beside them.

Apart from the names of the phases, as it imports what reads images and full models: only who asks waits for that.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from ..backends.cpu import open_session
from ..errors import BundleError, CardError, DataError
from ..evaluate.sampling import photos
from ..measure import RECENT, SEED, TURN, Clock, Glance, Summary, take_turns, without_collections
from ..runtime import Expert, load_image
from ..runtime.preprocess import apply
from ..source import open_source
from ..text import clean_text, shown
from .phases import DEVICE, END_TO_END, PHASES, Phases

MADE_SIZE = 1280, 720  # what most cameras on a board give


Marks: TypeAlias = "tuple[tuple[float, ...], Mapping[str, float]]"


@runtime_checkable
class Timed(Protocol):
    """A session that knows where the time of its last run went."""

    def timings(self) -> Mapping[str, float]:
        """Seconds by ``DEVICE``'s names, as far as they are known."""


@dataclass(frozen=True)
class Photos:
    """Encoded photos, and a few words on what they are."""

    encoded: tuple[bytes, ...]
    what: str


def read_photos(data: str | Path | None) -> Photos:
    """Photos under ``data``, evenly spread, those left out that cannot be read; without ``data`` one that is made.

    Raises ``DataError`` if there are none.
    """
    if data is None:
        made = _made()
        what = (
            f"a made JPEG of {MADE_SIZE[0]} × {MADE_SIZE[1]} pixels, {len(made) / 1e3:.0f} kB; --data DIR takes photos"
        )
        return Photos((made,), what)
    found = []
    for source in photos(data):
        with suppress(DataError):
            load_image(source)
            if isinstance(source, (Path, io.BytesIO)):
                found.append(source.read_bytes() if isinstance(source, Path) else source.getvalue())
    if not found:
        raise DataError(f"None of the photos in {shown(str(data))} can be read.", "Give a folder with photos.")
    size = sum(map(len, found)) / len(found)
    return Photos(tuple(found), f"{len(found)} of {clean_text(str(data))}, {size / 1e3:.0f} kB each on average")


def open_expert(path: Path, threads: int | None = None) -> Expert:
    """A bundle, or a model with a card, as an expert. Raises ``BundleError`` or ``CardError`` for one that does not say
    how images become tensors, and what opening them raises."""
    if path.is_dir():
        expert = Expert.open(path, threads=threads)
    else:
        try:
            source = open_source(path)
        except CardError as error:
            raise CardError(error.message, "Take the times of a bundle, or of a model with a card.") from error
        card, output = source.card, source.card.outputs[0]
        session = open_session(source.runnable, threads=threads)
        expert = Expert(session, card.classes, card.preprocess, output.name, output.kind, card.controls)
    if expert.preprocess is None:
        expert.close()
        kind = BundleError if path.is_dir() else CardError
        raise kind(
            f"{shown(str(path))} does not say how images become tensors.",
            "Take a bundle that was built with --preprocess.",
        )
    return expert


def take_apart(
    experts: Mapping[str, Expert],
    encoded: Sequence[bytes],
    *,
    seconds: float,
    seed: int = SEED,
    progress: Callable[[Glance], None] | None = None,
    interruptible: bool = False,
    clock: Clock = time.perf_counter_ns,
) -> tuple[dict[str, Phases], bool]:
    """Let the experts predict the photos in turns for ``seconds``; what each one's phases took, and whether it was all.

    In each block all experts see the same photos: one that is not counted, then ``TURN`` more. ``progress`` is shown
    the times end to end, twice a second. Raises what reading and predicting raise.
    """
    seen = dict.fromkeys(experts, 0)

    def turn(name: str) -> list[Marks]:
        first = seen[name]
        seen[name] += TURN
        taken = [_once(experts[name], encoded[(first + place) % len(encoded)], clock) for place in range(TURN + 1)]
        return taken[1:]

    def glance(done: Mapping[str, Sequence[list[Marks]]], left: float) -> None:
        if progress is not None:
            last = {name: chain.from_iterable(turns[-RECENT // TURN :]) for name, turns in done.items()}
            recent = {name: tuple(sum(durations) for durations, _ in taken) for name, taken in last.items()}
            progress(Glance(TURN * min(map(len, done.values())), recent, left))

    with without_collections():
        for name in experts:
            turn(name)
        blocks, complete = take_turns(
            tuple(experts), turn, seconds=seconds, seed=seed, progress=glance, interruptible=interruptible, clock=clock
        )
    return {name: _summed([*chain.from_iterable(turns)]) for name, turns in blocks.items()}, complete


def _once(expert: Expert, image: bytes, clock: Clock) -> Marks:
    assert expert.preprocess is not None
    marks = [clock()]
    picture = load_image(image)
    marks.append(clock())
    tensor = apply(picture, expert.preprocess)[None]
    marks.append(clock())
    scores = expert.scores(tensor)
    marks.append(clock())
    list(expert.answers(scores))
    marks.append(clock())
    told = expert.session.timings() if isinstance(expert.session, Timed) else {}
    return tuple((after - before) / 1e9 for before, after in pairwise(marks)), told


def _summed(taken: Sequence[Marks]) -> Phases:
    parts = [durations for durations, _ in taken]
    summaries = {name: Summary.of(column) for name, column in zip(PHASES, zip(*parts, strict=True), strict=True)}
    summaries[END_TO_END] = Summary.of([sum(durations) for durations in parts])
    device = {name: [told[name] for _, told in taken if name in told] for name in DEVICE}
    return Phases(summaries, {name: Summary.of(durations) for name, durations in device.items() if durations})


def _made() -> bytes:
    """A JPEG with texture at every scale, as photos have it: plain noise, or one colour, is decoded in another time."""
    rng, (width, height) = np.random.default_rng(0), MADE_SIZE
    pixels = np.full((height, width, 3), 127.5, np.float32)
    for octave in range(1, 9):  # a photo's amplitude falls with the frequency: each octave has as much contrast
        coarse = rng.integers(0, 256, (max(2, height >> octave), max(2, width >> octave), 3), np.uint8)
        fine = Image.fromarray(coarse).resize(MADE_SIZE, Image.Resampling.BICUBIC)
        pixels += (np.asarray(fine, np.float32) - 127.5) / 8
    saved = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(saved, "JPEG", quality=90)
    return saved.getvalue()
