"""The scenario of a camera: frames come at a fixed rate whether anybody is ready or not, and only the newest counts.

This is how a model on a device is used. A frame that was not begun when the next one came is dropped; a result that
comes later than one frame interval after its frame was taken is *late*. What a person sees is the age of the newest
result, so that is what is reported beside them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..measure import Clock, Summary


@dataclass(frozen=True)
class Stream:
    """What became of a stream of ``frames`` frames at ``rate`` per second.

    ``taken`` frames were worked on, ``dropped`` never begun, ``late`` results came after the next frame. ``work`` and
    ``age`` are distributions in seconds: of the call, and from taking the frame to its result.
    """

    rate: float
    frames: int
    taken: int
    dropped: int
    late: int
    work: Summary
    age: Summary

    @property
    def missed(self) -> float:
        """The share of frames without a result in time."""
        return (self.dropped + self.late) / self.frames


def stream(
    call: Callable[[], Any],
    *,
    rate: float,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Stream:
    """Feed ``call`` the newest of ``rate`` frames per second for ``seconds``; at least one frame.

    Frame k is taken k / ``rate`` seconds after the start. ``clock`` gives nanoseconds, ``sleep`` takes seconds.
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError("the rate must be a positive number")
    frames = max(1, math.floor(seconds * rate))
    start = clock()

    def now() -> float:
        return (clock() - start) / 1e9

    frame, late = 0, 0
    work: list[float] = []
    age: list[float] = []
    while frame < frames:
        due = frame / rate
        while (wait := due - now()) > 0:
            sleep(wait)
        begun = now()
        newest = min(frames - 1, max(frame, math.floor(begun * rate + 1e-9)))
        call()
        done = now()
        work.append(done - begun)
        age.append(done - newest / rate)
        late += done > (newest + 1) / rate
        frame = newest + 1
    return Stream(rate, frames, len(work), frames - len(work), late, Summary.of(work), Summary.of(age))
