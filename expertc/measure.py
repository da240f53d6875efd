"""Interleaved timing: the one core that the fusion contest and bench share.

Things that are compared run in turns within one loop, so that what slows the machine slows all of them. A *block* gives
every one a turn; the order is drawn at random, from a seed, but so that everyone is equally often at each place, and
equally often after each other one. Where a call is quick, a turn is several calls in a row, the first of them not
counted: it brings the model back into the caches, as a device that runs one model has it.

Percentiles are nearest-rank (a value that was really measured) and are given only with enough samples behind them:
MLPerf's early-stopping rule, 99 % confidence with at most one sample beyond the percentile (11 for the median, 64 for
p90, 130 for p95, 662 for p99).
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, TypeVar

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

SEED = 0  # of the order of turns

Clock = Callable[[], int]
T = TypeVar("T")


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
    """Durations in seconds: ``blocks[name][i]`` are the calls of ``name``'s turn in block ``i``.

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
    least: float = 0.0,
    seed: int = SEED,
    progress: Callable[[Glance], None] | None = None,
    interruptible: bool = False,
    clock: Clock = time.perf_counter_ns,
) -> Samples:
    """Time the callables in turns for ``seconds`` in all, after a warm-up of at most ``warmup`` seconds in all.

    Always measures at least one block, however long that takes. ``clock`` gives nanoseconds. The garbage collector is
    off meanwhile. What a callable raises ends the measurement; a ``KeyboardInterrupt`` too, unless the measurement is
    ``interruptible``: then the blocks that are whole are returned, if there is one. ``progress`` is called between
    blocks, twice a second. Raises ``UsageError`` after the warm-up if ``seconds`` are too few for the ``bearing``-th
    percentile, or if a call takes less than ``least`` seconds, which the clock cannot tell.
    """
    if not callables:
        raise ValueError("nothing to measure")
    with without_collections():
        warmed, medians = warm_up(callables, warmup, seed=seed, clock=clock)
        refuse_too_quick(medians, least)
        lead, calls = (1, TURN) if max(medians.values()) < QUICK else (0, 1)
        if bearing is not None:
            refuse_too_short(bearing, seconds, sum(medians.values()) * (lead + calls) / calls)

        def turn(name: str) -> tuple[float, ...]:
            call = callables[name]
            for _ in range(lead):
                call()
            return tuple(_time(call, clock) for _ in range(calls))

        blocks, complete = take_turns(
            tuple(callables),
            turn,
            seconds=seconds,
            seed=seed,
            progress=None if progress is None else lambda done, left: progress(_glance(done, calls, left)),
            interruptible=interruptible,
            clock=clock,
        )
    return Samples(blocks, warmed, complete)


def take_turns(
    names: Sequence[str],
    turn: Callable[[str], T],
    *,
    seconds: float,
    seed: int = SEED,
    progress: Callable[[Mapping[str, Sequence[T]], float], None] | None = None,
    interruptible: bool = False,
    clock: Clock = time.perf_counter_ns,
) -> tuple[dict[str, tuple[T, ...]], bool]:
    """Give every name its ``turn``, block after block for ``seconds``; what they returned, and whether it was complete.

    This is ``interleave`` for turns of any kind; ``progress`` is shown what there is so far and the seconds left.
    """
    done: dict[str, list[T]] = {name: [] for name in names}
    start = clock()
    glanced, end = start, start + int(seconds * 1e9)
    try:
        for order in orders(names, seed):
            for name in order:
                done[name].append(turn(name))
            if (now := clock()) >= end:
                break
            if progress is not None and now - glanced >= GLANCE * 1e9:
                glanced = now
                progress(done, (end - now) / 1e9)
    except KeyboardInterrupt:
        if not interruptible or not all(done.values()):
            raise
        whole = min(map(len, done.values()))
        return {name: tuple(turns[:whole]) for name, turns in done.items()}, False
    return {name: tuple(turns) for name, turns in done.items()}, True


def orders(names: Sequence[str], seed: int) -> Iterator[tuple[str, ...]]:
    """The order of each block, without end.

    Every 2 n blocks of n names are the rows, shuffled, of a Williams design (Australian Journal of Scientific Research
    A 2, 1949) and of its mirror image, over the names, shuffled: each is twice at each place, and twice after each
    other.
    """
    count, draw = len(names), random.Random(seed)  # noqa: S311 (not numpy's: a Ctrl-C within its compiled code is lost)
    zigzag = [(i + 1) // 2 * (-1) ** (i + 1) % count for i in range(count)]  # 0, 1, -1, 2, -2, …
    rows = [[(place + shift) % count for place in zigzag] for shift in range(count)]
    rows += [row[::-1] for row in rows]
    while True:
        who = draw.sample(range(count), count)
        for row in draw.sample(rows, len(rows)):
            yield tuple(names[who[place]] for place in row)


def _glance(blocks: Mapping[str, Sequence[tuple[float, ...]]], calls: int, left: float) -> Glance:
    recent = {name: tuple(chain.from_iterable(turns[-RECENT // calls :])) for name, turns in blocks.items()}
    return Glance(calls * min(map(len, blocks.values())), recent, left)


def refuse_too_quick(medians: Mapping[str, float], least: float) -> None:
    """Raise ``UsageError`` if a call takes less than ``least`` seconds."""
    name = min(medians, key=lambda name: medians[name])
    if medians[name] < least:
        raise UsageError(
            f"A call of {name} takes {1e6 * medians[name]:.3g} µs; this machine's clock tells nothing shorter than"
            f" {1e6 * least:.3g} µs.",
            "Do more in a call, such as a larger batch.",
        )


def refuse_too_short(q: int, seconds: float, each: float) -> None:
    """Raise ``UsageError`` if ``seconds`` do not bear the ``q``-th percentile, at ``each`` for one call of everyone."""
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


def warm_up(
    callables: Mapping[str, Callable[[], Any]], limit: float, *, seed: int = SEED, clock: Clock = time.perf_counter_ns
) -> tuple[Warmup, dict[str, float]]:
    """Call all until each one's time is stable, for ``limit`` seconds at most; also each one's median in seconds."""
    start = clock()
    calls: dict[str, list[float]] = {name: [] for name in callables}
    spread = math.inf
    for order in orders(tuple(callables), seed):
        for name in order:
            calls[name].append(_time(callables[name], clock))
        if len(next(iter(calls.values()))) % WINDOW == 0:
            spread = max(_spread(durations) for durations in calls.values())
        if spread <= STABLE or clock() - start >= limit * 1e9:
            break
    warmed = Warmup((clock() - start) / 1e9, spread <= STABLE, spread)
    return warmed, {name: statistics.median(durations) for name, durations in calls.items()}


def _spread(durations: Sequence[float]) -> float:
    if len(durations) < WINDOWS * WINDOW:
        return math.inf
    last = durations[-WINDOWS * WINDOW :]
    medians = [statistics.median(last[i : i + WINDOW]) for i in range(0, len(last), WINDOW)]
    return max(medians) / max(min(medians), 1e-9) - 1


def _time(call: Callable[[], Any], clock: Clock) -> float:
    start = clock()
    call()
    return (clock() - start) / 1e9


@contextmanager
def without_collections() -> Iterator[None]:
    """The garbage collector is off, and afterwards as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
