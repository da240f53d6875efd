"""Interleaved timing: the one core that the fusion contest and bench share.

Things that are compared run in turns within one loop, so that what slows the machine slows all of them. A *block* gives
every one a turn; the order rotates from block to block and is reversed every other round, so that nobody always runs
first or after the same neighbour. Where a call is quick, a turn is several calls in a row, the first of them not
counted: it brings the model back into the caches, as a device that runs one model has it.

Percentiles are nearest-rank (a value that was really measured) and are given only with enough samples behind them:
MLPerf's early-stopping rule, 99 % confidence with at most one sample beyond the percentile (11 for the median, 64 for
p90, 130 for p95, 662 for p99).
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from .errors import UsageError
from .intervals import median_ratio

STABLE = 0.03  # warm-up ends when the medians of the last windows are this close to each other
WINDOWS = 3
WINDOW = 5  # calls

TURN = 4  # counted calls in a turn of quick callables
QUICK = 0.02  # seconds; slower ones fill the caches by themselves

MIN_BLOCKS = 6  # below, no 95 % interval of a median exists: 2 × 0.5 ** 5 > 5 %

GLANCE = 0.5  # seconds between two looks at a measurement that runs: more would disturb it, fewer would look stuck
RECENT = 1024  # calls of each that a look is about, so that its cost does not grow

Clock = Callable[[], int]


@dataclass(frozen=True)
class Warmup:
    """How the warm-up ended: after ``seconds``, ``stable`` or by its time limit.

    ``spread`` is the largest difference among the medians of the last windows, as a share of the smallest; infinite
    if there was no time for enough windows.
    """

    seconds: float
    stable: bool
    spread: float


@dataclass(frozen=True)
class Summary:
    """A distribution of durations in seconds; a percentile without enough samples behind it is None."""

    n: int
    median: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    least: float
    mean: float
    variation: float  # coefficient of variation: standard deviation / mean

    @classmethod
    def of(cls, durations: Sequence[float]) -> Summary:
        """Summarise at least one duration."""
        mean = statistics.fmean(durations)
        deviation = statistics.stdev(durations) if len(durations) > 1 else 0.0
        p50, p90, p95, p99 = (percentile(durations, q) for q in (50, 90, 95, 99))
        return cls(len(durations), p50, p90, p95, p99, min(durations), mean, deviation / mean if mean else 0.0)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another, with its 95 % interval (None with fewer than 6 blocks)."""

    value: float
    low: float | None
    high: float | None
    blocks: int

    def scaled(self, factor: float) -> Ratio:
        """The ratio of the same durations counted in other units, such as images instead of batches."""
        low, high = (None if bound is None else bound * factor for bound in (self.low, self.high))
        return Ratio(self.value * factor, low, high, self.blocks)


@dataclass(frozen=True)
class Samples:
    """Durations in seconds: ``blocks[name][i]`` are the calls of ``name``'s turn in block ``i``, equally many each.

    Not ``complete`` if the measurement was interrupted; the blocks that are here are whole.
    """

    blocks: Mapping[str, tuple[tuple[float, ...], ...]]
    warmup: Warmup
    complete: bool = True

    def durations(self, name: str) -> tuple[float, ...]:
        """All durations of ``name`` in the order they were measured."""
        return tuple(duration for turn in self.blocks[name] for duration in turn)

    def summary(self, name: str) -> Summary:
        """The distribution of ``name``'s durations."""
        return Summary.of(self.durations(name))

    def ratio(self, name: str, base: str) -> Ratio:
        """Time of ``name`` over time of ``base``: of the medians over blocks of each block's median, paired by block.

        The calls within a turn are not independent, so blocks and not calls are what is resampled.
        """
        above, below = ([statistics.median(turn) for turn in self.blocks[each]] for each in (name, base))
        value, low, high = median_ratio(above, below)
        return Ratio(value, low, high, len(above)) if len(above) >= MIN_BLOCKS else Ratio(value, None, None, len(above))


@dataclass(frozen=True)
class Glance:
    """A look at a measurement that runs: calls of each so far, their last ones in seconds, and the seconds left."""

    calls: int
    recent: Mapping[str, tuple[float, ...]]
    left: float


def interleave(
    callables: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    warmup: float = 1.0,
    bearing: int | None = None,
    progress: Callable[[Glance], None] | None = None,
    interruptible: bool = False,
    clock: Clock = time.perf_counter_ns,
) -> Samples:
    """Time the callables in turns for ``seconds`` in all, after a warm-up of at most ``warmup`` seconds in all.

    Always measures at least one block, however long that takes. ``clock`` gives nanoseconds. The garbage collector is
    off meanwhile. What a callable raises ends the measurement; a ``KeyboardInterrupt`` too, unless the measurement is
    ``interruptible``: then the blocks that are whole are returned, if there is one. ``progress`` is called between
    blocks, twice a second. Raises ``UsageError`` after the warm-up if ``seconds`` are too few for the ``bearing``-th
    percentile.
    """
    if not callables:
        raise ValueError("nothing to measure")
    names = tuple(callables)
    blocks: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    with _no_collections():
        warmed, medians = _warm_up(callables, warmup, clock)
        lead, turn = (1, TURN) if max(medians) < QUICK else (0, 1)
        if bearing is not None:
            _refuse_too_short(bearing, seconds, sum(medians) * (lead + turn) / turn)
        start = clock()
        glanced, end = start, start + int(seconds * 1e9)
        try:
            for order in _orders(names):
                for name in order:
                    for _ in range(lead):
                        callables[name]()
                    blocks[name].append(tuple(_time(callables[name], clock) for _ in range(turn)))
                if (now := clock()) >= end:
                    break
                if progress is not None and now - glanced >= GLANCE * 1e9:
                    glanced = now
                    progress(_glance(blocks, turn, (end - now) / 1e9))
        except KeyboardInterrupt:
            if not interruptible or not all(blocks.values()):
                raise
            whole = min(map(len, blocks.values()))
            return Samples({name: tuple(turns[:whole]) for name, turns in blocks.items()}, warmed, complete=False)
    return Samples({name: tuple(turns) for name, turns in blocks.items()}, warmed)


def _glance(blocks: Mapping[str, list[tuple[float, ...]]], turn: int, left: float) -> Glance:
    recent = {name: tuple(chain.from_iterable(turns[-RECENT // turn :])) for name, turns in blocks.items()}
    return Glance(turn * min(map(len, blocks.values())), recent, left)


def _refuse_too_short(q: int, seconds: float, each: float) -> None:
    """``each`` are the seconds that one call of every callable takes."""
    needed = samples_for(q)
    if seconds < needed * each:
        raise UsageError(
            f"{seconds:g} s are too short for a p{q}: it needs {needed} calls of each model, about {seconds / each:.0f}"
            " would fit.",
            f"Measure for {math.ceil(1.2 * needed * each)} s or more, or ask for a lower percentile.",
        )


@cache
def samples_for(q: int) -> int:
    """Samples that the ``q``-th percentile needs: fewest n with P(at most 1 of n beyond it) ≤ 1 %."""
    p, n = q / 100, 2
    while p**n + n * (1 - p) * p ** (n - 1) > 0.01:
        n += 1
    return n


def percentile(durations: Sequence[float], q: int) -> float | None:
    """The nearest-rank ``q``-th percentile, or None with fewer than ``samples_for(q)`` values."""
    if len(durations) < samples_for(q):
        return None
    return sorted(durations)[math.ceil(len(durations) * q / 100) - 1]


def _warm_up(callables: Mapping[str, Callable[[], Any]], limit: float, clock: Clock) -> tuple[Warmup, list[float]]:
    """Call all until each one's time is stable; also returns each one's median in seconds."""
    start = clock()
    calls: dict[str, list[float]] = {name: [] for name in callables}
    spread = math.inf
    for order in _orders(tuple(callables)):
        for name in order:
            calls[name].append(_time(callables[name], clock))
        if len(next(iter(calls.values()))) % WINDOW == 0:
            spread = max(_spread(durations) for durations in calls.values())
        if spread <= STABLE or clock() - start >= limit * 1e9:
            break
    warmed = Warmup((clock() - start) / 1e9, spread <= STABLE, spread)
    return warmed, [statistics.median(durations) for durations in calls.values()]


def _spread(durations: Sequence[float]) -> float:
    if len(durations) < WINDOWS * WINDOW:
        return math.inf
    last = durations[-WINDOWS * WINDOW :]
    medians = [statistics.median(last[i : i + WINDOW]) for i in range(0, len(last), WINDOW)]
    return max(medians) / max(min(medians), 1e-9) - 1


def _orders(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every rotation of the names, then every rotation of their reverse, and again without end."""
    while True:
        for forward in (names, names[::-1]):
            for first in range(len(names)):
                yield forward[first:] + forward[:first]


def _time(call: Callable[[], Any], clock: Clock) -> float:
    start = clock()
    call()
    return (clock() - start) / 1e9


@contextmanager
def _no_collections() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
