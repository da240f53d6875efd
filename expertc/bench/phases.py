"""Where the time of a prediction goes: reading the photo, making its tensor, the model, the answer.

The model is a part of it, on a small device often not the largest. ``decode`` is from the encoded photo in memory to
upright RGB pixels, ``preprocess`` from there to the tensor, ``compute`` the call of the session, and ``postprocess``
from raw scores to ranked classes with probabilities: what ``Expert.predict`` does, one photo after the other.
``end to end`` is measured around all of them.

What a session knows of its device it may tell (``predictions.Timed``), by trtexec's names (``DEVICE``). A CPU has no
copies, so there they are not given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..measure import Summary

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

# trtexec's own hint, by medians: from this share of the compute time on, launching may be what takes the time.
LAUNCH_BOUND = 0.8

DEFINITIONS = (
    "decode: encoded photo in memory to upright RGB; preprocess: to the model's tensor; compute: the call of the"
    " session; postprocess: scores to ranked classes; one photo at a time, as predict does it"
)
NO_COPIES = "a CPU has no copies to a device and back (H2D and D2H Latency in trtexec), so compute is all of the call"


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
        known = {key: s.mean if s.median is None else s.median for key, s in self.device.items()}
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
