"""Where the time of a prediction goes: reading the photo, making its tensor, the model, the answer.

The model is a part of it, on a small device often not the largest. ``decode`` is from the encoded photo in memory to
upright RGB pixels, ``preprocess`` from there to the tensor, ``compute`` the call of the session, and ``postprocess``
from raw scores to ranked classes with probabilities: what ``Expert.predict`` does, one photo after the other.
``end to end`` is measured around all of them.

What a session knows of its device it may tell (``Timed``), by trtexec's names (``DEVICE``). A CPU has no copies, so
there they are not given.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

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

PHASES = ("decode", "preprocess", "compute", "postprocess")
END_TO_END = "end to end"

H2D, COMPUTE, D2H, LATENCY, ENQUEUE = "H2D Latency", "GPU Compute Time", "D2H Latency", "Latency", "Enqueue Time"
DEVICE = {
    H2D: "copying the input to the device",
    COMPUTE: "the device's work",
    D2H: "copying the outputs back",
    LATENCY: "the sum of these three",
    ENQUEUE: "the host's time to hand the work over",
}
"""What trtexec calls the parts of a call on a device, and what it means."""

# trtexec's own hint: from this share of the compute time on, launching the work may be what takes the time.
LAUNCH_BOUND = 0.8

MADE_SIZE = 1280, 720  # what most cameras on a board give

DEFINITIONS = (
    "decode: encoded photo in memory to upright RGB; preprocess: to the model's tensor; compute: the call of the"
    " session; postprocess: scores to ranked classes; one photo at a time, as predict does it"
)
NO_COPIES = "a CPU has no copies to a device and back (H2D and D2H Latency in trtexec), so compute is all of the call"

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


@dataclass(frozen=True)
class Phases:
    """Distributions in seconds by ``PHASES`` and ``END_TO_END``, and by ``DEVICE``'s names as far as these are told."""

    summaries: Mapping[str, Summary]
    device: Mapping[str, Summary]

    @property
    def shares(self) -> dict[str, float]:
        """Each phase's part of the mean time end to end."""
        return {name: self.summaries[name].mean / self.summaries[END_TO_END].mean for name in PHASES}

    def hints(self, name: str) -> Iterator[str]:
        """Sentences on where the time of the model ``name`` is lost."""
        before = self.summaries["decode"].mean + self.summaries["preprocess"].mean
        model = self.summaries["compute"].mean
        if before >= model:
            yield (
                f"Decoding and preprocessing take longer than the model {name} itself ({1e3 * before:.3g} and"
                f" {1e3 * model:.3g} ms): a smaller model saves little."
            )
        known = {key: summary.mean for key, summary in self.device.items()}
        if not known.get(COMPUTE):
            return
        copies = known.get(H2D, 0.0) + known.get(D2H, 0.0)
        if copies >= known[COMPUTE]:
            yield f"Copies to the device and back take longer than {name} itself: keep the data there, or send less."
        if known.get(ENQUEUE, 0.0) > LAUNCH_BOUND * known[COMPUTE]:
            yield f"Launching the work of {name} takes about as long as the work: try CUDA graphs or larger batches."

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; times in seconds."""
        shares = self.shares
        parts = {name: asdict(summary) | {"share": shares.get(name, 1.0)} for name, summary in self.summaries.items()}
        return {"phases": parts, "device": {name: asdict(summary) for name, summary in self.device.items()}}


def described(found: Mapping[str, Phases], photos: str) -> dict[str, Any]:
    """The phases of several models, what was predicted, and what the names mean: plain JSON types."""
    told = [name for name in DEVICE if any(name in each.device for each in found.values())]
    device = "; ".join(f"{name}: {DEVICE[name]}" for name in told)
    definitions = f"{DEFINITIONS}; {f'as in trtexec, {device}' if told else NO_COPIES}"
    return {
        "photos": photos,
        "definitions": definitions,
        "models": {name: each.to_mapping() for name, each in found.items()},
    }


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
        if isinstance(source, (Path, io.BytesIO)):
            encoded = source.read_bytes() if isinstance(source, Path) else source.getvalue()
            if _readable(encoded):
                found.append(encoded)
    if not found:
        raise DataError(f"None of the photos in {shown(str(data))} can be read.", "Give a folder with photos.")
    size = sum(map(len, found)) / len(found)
    return Photos(tuple(found), f"{len(found)} of {clean_text(str(data))}, {size / 1e3:.0f} kB each on average")


def open_expert(path: Path, threads: int | None = None) -> Expert:
    """A bundle, or a model with a card, as an expert. Raises ``BundleError`` or ``CardError`` for one that does not say
    how images become tensors, and what opening them raises."""
    if path.is_dir():
        expert = Expert.open(path, threads=threads)
        lacking: BundleError | CardError = BundleError(
            f"The bundle {shown(str(path))} does not say how images become tensors.", "Build it with preprocessing."
        )
    else:
        try:
            source = open_source(path)
        except CardError as error:
            raise CardError(error.message, "Take the times of a bundle, or of a model with a card.") from error
        card, output = source.card, source.card.outputs[0]
        session = open_session(source.runnable, threads=threads)
        expert = Expert(session, card.classes, card.preprocess, output.name, output.kind, card.controls)
        lacking = CardError(
            f"The model {shown(str(path))} does not say how images become tensors.", "Take the times of a bundle."
        )
    if expert.preprocess is None:
        expert.close()
        raise lacking
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


def _readable(encoded: bytes) -> bool:
    try:
        load_image(encoded)
    except DataError:
        return False
    return True


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
