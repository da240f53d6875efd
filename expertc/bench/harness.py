"""What the harness itself does to the numbers: the steps of the clock, and its own share of each call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..measure import Clock, interleave
from .watch import MAX_VARIATION

READINGS = 1000  # of the clock, of which the smallest step counts
SECONDS = 0.02  # of calls that do nothing

BUDGET = 20e-6  # seconds of a call that may be the harness's own: 1 % of a call of 2 ms

# A duration is wrong by less than one step of the clock. That is to stay below what counts as steady.
LEAST_STEPS = round(1 / MAX_VARIATION)


@dataclass(frozen=True)
class Harness:
    """``clock`` is what the system calls the clock; ``step`` and ``overhead`` are seconds.

    ``step`` is the smallest difference between two readings, ``overhead`` the median time of a call that does nothing
    in the loop in which models are timed: this much of each duration is the harness's own.
    """

    clock: str
    step: float
    overhead: float

    @property
    def least(self) -> float:
        """Seconds that a call must take, so that the clock can tell."""
        return LEAST_STEPS * self.step

    def __str__(self) -> str:
        return (
            f"{1e6 * self.overhead:.2g} µs of each call are its own (budget {1e6 * BUDGET:g} µs);"
            f" the clock's steps are {1e9 * self.step:.0f} ns"
        )

    def warnings(self) -> Iterator[str]:
        """What is doubtful about it, one sentence each."""
        if self.overhead > BUDGET:
            yield f"The harness itself takes {1e6 * self.overhead:.3g} µs of each call (budget {1e6 * BUDGET:g} µs)."

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; times in seconds."""
        return asdict(self) | {"budget": BUDGET, "least": self.least}


def look(clock: Clock = time.perf_counter_ns) -> Harness:
    """Measure the harness on this machine, in ``SECONDS``."""
    nothing = interleave({"nothing": lambda: None}, seconds=SECONDS, warmup=SECONDS / 4, clock=clock).summary("nothing")
    overhead = nothing.mean if nothing.median is None else nothing.median
    return Harness(time.get_clock_info("perf_counter").implementation, step(clock), overhead)


def step(clock: Clock) -> float:
    """The smallest difference between two readings of ``clock``, in seconds."""
    smallest = float("inf")
    for _ in range(READINGS):
        before = after = clock()
        while after == before:
            after = clock()
        smallest = min(smallest, after - before)
    return smallest / 1e9
