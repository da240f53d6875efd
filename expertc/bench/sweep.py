"""Which batch is large enough: doubled until more images at once bring hardly more images per second.

Each batch is timed in turns with the best one so far, within one run. One doubling that brings nothing is no reason to
stop: runtimes choose other kernels for other batches, and the next may be better again.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import OutOfMemoryError
from ..measure import SEED, Clock, interleave
from .watch import memory
from .watch.verdict import MAX_VARIATION

GROWTH = 2 * MAX_VARIATION  # less than this is not growth: each of two steady measurements may vary by that much
PATIENCE = 2  # doublings without growth
LARGEST = 1024
STEPS = 10  # in which the time for the sweep is spent, if all take as long
SPARE = 0.5  # share of the memory that is left which a batch may be expected to take


@dataclass(frozen=True)
class Step:
    """A batch that was tried: images per second, and its ``growth`` over the best before, None for the first.

    Growth is measured in turns, and ``images_per_second`` follow from it: only the first one's are measured by itself.
    """

    batch: int
    images_per_second: float
    growth: float | None


@dataclass(frozen=True)
class Sweep:
    """The batches in the order in which they were tried, the one ``chosen``, and why there are no more."""

    steps: tuple[Step, ...]
    chosen: int
    stopped: str

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"steps": [asdict(step) for step in self.steps]}


def saturate(
    calls: Callable[[int], Callable[[], Any]],
    *,
    seconds: float,
    seed: int = SEED,
    available: Callable[[], int | None] = memory.available,
    clock: Clock = time.perf_counter_ns,
) -> Sweep:
    """Double the batch until ``PATIENCE`` doublings in a row bring less than ``GROWTH``; choose the best.

    ``calls`` makes the call for a batch. The sweep ends earlier where the next step would not fit into ``seconds`` or
    into the memory that is ``available`` (bytes; None if unknown), at ``LARGEST``, and where a call raises
    ``OutOfMemoryError``. Batches 1 and 2 are tried in any case.
    """
    end = clock() + int(seconds * 1e9)
    memory.reset_peak()
    before = memory.peak()
    best, best_call, batch, vain = Step(1, 0.0, None), calls(1), 2, 0
    steps: list[Step] = []
    while True:
        pair = {"best": best_call, "next": calls(batch)}
        try:
            samples = interleave(pair, seconds=seconds / STEPS, warmup=seconds / STEPS / 4, seed=seed, clock=clock)
        except OutOfMemoryError:
            stopped = f"{batch} images at once need more memory than there is"
            break
        if not steps:
            steps.append(best := Step(1, 1 / statistics.median(samples.durations("best")), None))
        growth = samples.ratio("best", "next").value * batch / best.batch - 1
        steps.append(Step(batch, best.images_per_second * (1 + growth), growth))
        if growth >= GROWTH:
            best, best_call, vain = steps[-1], pair["next"], 0
        else:
            vain += 1
        block = (best.batch + 2 * batch) / best.images_per_second
        if vain == PATIENCE:
            stopped = f"{PATIENCE} doublings in a row brought less than {GROWTH:.0%} more images per second"
            break
        if 2 * batch > LARGEST:
            stopped = f"more than {LARGEST} images at once are not tried"
            break
        if clock() + 2e9 * block > end:  # once to warm up, once to measure
            stopped = f"the {seconds:.3g} s for choosing were over"
            break
        if 2 * _grown(before) > SPARE * (available() or math.inf):
            stopped = f"{2 * batch} images at once may need more memory than is left"
            break
        batch *= 2
    return Sweep(tuple(steps), best.batch, stopped)


def _grown(before: int | None) -> int:
    """Bytes that this process took since; twice the batch may take twice as many. 0 where the system does not say."""
    now = memory.peak()
    return 0 if before is None or now is None else max(0, now - before)
