"""The scenario of a camera: frames come at a fixed rate whether anybody is ready or not, and only the newest counts.

This is how a model on a device is used. A frame that was not begun when the next one came is dropped; a result that
comes later than one frame interval after its frame was taken is *late*. What a person sees is the age of the newest
result, so that is what is reported beside them.

Several models take turns by slices of their streams, as they do by calls elsewhere.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from ..errors import UsageError
from ..measure import (
    MIN_BLOCKS,
    RECENT,
    SEED,
    Clock,
    Glance,
    Samples,
    Summary,
    refuse_too_quick,
    refuse_too_short,
    take_turns,
    warm_up,
    without_collections,
)

RATE = 30.0  # frames per second of most cameras
RATES = (0.01, 10_000.0)

SLICE = 1.0  # seconds of a stream in one turn
FEWEST = 10  # frames, or calls where they take longer, in a slice: where it is cut, a frame may fall out of the count


@dataclass(frozen=True)
class Stream:
    """What became of a stream of ``frames`` frames at ``rate`` per second.

    ``works`` and ``ages`` are seconds, one for each frame that was taken: of the call, and from taking the frame to its
    result. ``late`` results came after the next frame. ``slices`` are the parts of a stream that was measured in turns.
    """

    rate: float
    frames: int
    late: int
    works: tuple[float, ...]
    ages: tuple[float, ...]
    slices: tuple[Stream, ...] = ()

    @classmethod
    def joined(cls, slices: Sequence[Stream]) -> Stream:
        """The slices of one stream, one after the other."""
        frames, late = (sum(counts) for counts in zip(*((each.frames, each.late) for each in slices), strict=True))
        works, ages = (
            tuple(chain(*parts)) for parts in zip(*((each.works, each.ages) for each in slices), strict=True)
        )
        return cls(slices[0].rate, frames, late, works, ages, tuple(slices))

    @property
    def taken(self) -> int:
        """Frames that were worked on."""
        return len(self.works)

    @property
    def dropped(self) -> int:
        """Frames that were never begun."""
        return self.frames - self.taken

    @property
    def missed(self) -> float:
        """The share of frames without a result in time."""
        return (self.dropped + self.late) / self.frames

    @property
    def results_per_second(self) -> float:
        """Results in a second of the stream, late ones too."""
        return self.rate * self.taken / self.frames

    @property
    def work(self) -> Summary:
        """The distribution of the calls' durations."""
        return Summary.of(self.works)

    @property
    def age(self) -> Summary:
        """The distribution of the results' ages."""
        return Summary.of(self.ages)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; times in seconds."""
        counts = {key: getattr(self, key) for key in ("rate", "frames", "taken", "dropped", "late", "missed")}
        slices = self.slices or (self,)
        return counts | {
            "work": asdict(self.work),
            "age": asdict(self.age),
            "slices": {
                "missed": [each.missed for each in slices],
                "age": [statistics.median(each.ages) for each in slices],
            },
        }


def check_rate(rate: float) -> float:
    """Raise ``UsageError`` for a rate that no camera has, NaN too."""
    if not RATES[0] <= rate <= RATES[1]:
        raise UsageError(
            f"{rate:g} frames per second is not a camera's rate ({RATES[0]:g} to {RATES[1]:g}).", "Write --fps 30."
        )
    return rate


def stream(
    call: Callable[[], Any],
    *,
    rate: float,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Stream:
    """Feed ``call`` the newest of ``rate`` frames per second for ``seconds``; at least one frame.

    Frame k is taken k / ``rate`` seconds after the start. Nothing is begun when the frame after the last one has come:
    that belongs to what follows. ``clock`` gives nanoseconds, ``sleep`` takes seconds. Raises ``UsageError`` like
    ``check_rate``.
    """
    frames = max(1, math.floor(seconds * check_rate(rate) + 1e-9))
    start = clock()

    def now() -> float:
        return (clock() - start) / 1e9

    frame, late = 0, 0
    works: list[float] = []
    ages: list[float] = []
    while frame < frames:
        due = frame / rate
        while (wait := due - now()) > 0:
            sleep(wait)
        begun = now()
        frame = max(frame, math.floor(begun * rate + 1e-9))
        if works and frame >= frames:
            break
        call()
        done = now()
        works.append(done - begun)
        ages.append(done - frame / rate)
        late += done > (frame + 1) / rate
        frame += 1
    return Stream(rate, frames, late, tuple(works), tuple(ages))


def streams(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rate: float,
    seconds: float,
    warmup: float = 1.0,
    bearing: int | None = None,
    least: float = 0.0,
    seed: int = SEED,
    progress: Callable[[Glance], None] | None = None,
    interruptible: bool = False,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Samples, dict[str, Stream]]:
    """Let the models take turns by slices of their streams: the calls of each slice, and all slices of each joined.

    The arguments are ``interleave``'s, and it raises the same. Before a slice there is one call that is not counted, as
    before a turn there. A slice is a second; shorter where the run would not hold ``MIN_BLOCKS`` of each, longer where
    it would not hold ``FEWEST`` frames or calls. At least one slice of each is measured.
    """
    with without_collections():
        warmed, medians = warm_up(calls, warmup, seed=seed, clock=clock)
        refuse_too_quick(medians, least)
        apart = [max(1 / check_rate(rate), median) for median in medians.values()]  # seconds between two results
        if bearing is not None:
            refuse_too_short(bearing, seconds, sum(apart))
        length = max(FEWEST * max(apart), min(SLICE, seconds / MIN_BLOCKS / len(calls)))

        def turn(name: str) -> Stream:
            calls[name]()
            return stream(calls[name], rate=rate, seconds=length, clock=clock, sleep=sleep)

        def glance(done: Mapping[str, Sequence[Stream]], left: float) -> None:
            if progress is not None:
                recent = {name: Stream.joined(slices[-RECENT:]).works[-RECENT:] for name, slices in done.items()}
                progress(Glance(min(sum(each.taken for each in slices) for slices in done.values()), recent, left))

        slices, complete = take_turns(
            tuple(calls), turn, seconds=seconds, seed=seed, progress=glance, interruptible=interruptible, clock=clock
        )
    blocks = {name: tuple(each.works for each in turns) for name, turns in slices.items()}
    return Samples(blocks, warmed, complete), {name: Stream.joined(turns) for name, turns in slices.items()}
