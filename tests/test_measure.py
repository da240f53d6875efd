"""The timing core, on clocks and durations that are made up and therefore known."""

from __future__ import annotations

import gc
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertc.errors import UsageError
from expertc.intervals import mean_difference, median_bounds, median_ratio
from expertc.measure import (
    GLANCE,
    MIN_BLOCKS,
    RECENT,
    TURN,
    Glance,
    Ratio,
    Samples,
    Summary,
    Warmup,
    interleave,
    orders,
    percentile,
    samples_for,
)

DONE = Warmup(0.0, True, 0.0)


class Stage:
    """A clock that only the callables on it move, and a record of who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def clock(self) -> int:
        return round(self.now * 1e9)

    def takes(self, name: str, durations: Iterator[float]) -> Callable[[], None]:
        def call() -> None:
            self.ran.append(name)
            self.now += next(durations)

        return call


def steady(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def noisy(seconds: float, spread: float, seed: int) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield float(seconds * rng.lognormal(0, spread))


# -- percentiles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "n"), [(50, 11), (90, 64), (95, 130), (97, 219), (99, 662)])
def test_samples_that_a_percentile_needs(q: int, n: int) -> None:
    """The table that MLPerf's early stopping gives for 99 % confidence and one sample beyond."""
    assert samples_for(q) == n
    assert percentile([1.0] * (n - 1), q) is None
    assert percentile([1.0] * n, q) == 1.0


@pytest.mark.parametrize("q", [50, 90, 95, 99])
def test_percentiles_are_nearest_rank(q: int) -> None:
    """Against numpy's inverted empirical distribution function, which is the nearest rank."""
    rng = np.random.default_rng(q)
    for n in (samples_for(q), 700, 701, 1000):
        values = rng.exponential(size=n).tolist()
        found = percentile(values, q)
        assert found == np.percentile(values, q, method="inverted_cdf")
        assert found in values


def test_a_summary_gives_only_what_its_samples_bear() -> None:
    few, some, many = (Summary.of([float(i) for i in range(1, n + 1)]) for n in (10, 64, 700))
    assert (few.n, few.median, few.p90, few.p99) == (10, None, None, None)
    assert (some.median, some.p90, some.p95, some.p99) == (32, 58, None, None)
    assert (many.median, many.p90, many.p95, many.p99) == (350, 630, 665, 693)
    assert (some.least, some.mean) == (1, 32.5)
    assert some.variation == pytest.approx(statistics.stdev(range(1, 65)) / 32.5)
    assert Summary.of([2.0]).variation == 0


# -- interleaving ------------------------------------------------------------------------------------------------------


def test_known_durations_are_found() -> None:
    stage = Stage()
    calls = {"slow": stage.takes("slow", steady(0.25)), "quick": stage.takes("quick", steady(0.125))}
    samples = interleave(calls, seconds=30, clock=stage.clock)
    assert samples.summary("slow").median == 0.25
    assert samples.summary("quick").median == 0.125
    assert samples.ratio("slow", "quick") == Ratio(2.0, 2.0, 2.0, 80)
    assert samples.ratio("quick", "slow").value == 0.5
    assert samples.ratio("slow", "slow") == Ratio(1.0, 1.0, 1.0, 80)


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
@pytest.mark.parametrize("seconds", [0.001, 0.1])
def test_everyone_gets_the_same_turns_everywhere(names: str, seconds: float) -> None:
    stage = Stage()
    samples = interleave(
        {name: stage.takes(name, steady(seconds)) for name in names}, seconds=seconds * 400, warmup=0, clock=stage.clock
    )
    lengths = {len(samples.durations(name)) for name in names}
    assert len(lengths) == 1
    calls = 1 + TURN if seconds < 0.02 else 1  # quick ones first fill the caches, uncounted
    assert {len(turn) for name in names for turn in samples.blocks[name]} == {TURN if calls > 1 else 1}
    turns = stage.ran[len(names) :: calls]
    blocks = [turns[i : i + len(names)] for i in range(0, len(turns), len(names))]
    assert all(sorted(block) == list(names) for block in blocks)
    whole = blocks[: len(blocks) // (2 * len(names)) * 2 * len(names)]
    for place in range(len(names)):
        assert set(Counter(block[place] for block in whole).values()) == {len(whole) // len(names)}
    if len(names) > 2:
        pairs = Counter(pair for block in whole for pair in pairwise(block))
        assert set(pairs.values()) == {pairs[("a", "b")]}
        assert pairs[("a", "b")] == pairs[("b", "a")]


def test_the_order_is_random_and_repeatable() -> None:
    """All orders of four come, none of them far more often than by chance; the seed says when."""
    drawn = list(islice(orders("abcd", 7), 960))
    assert drawn == list(islice(orders("abcd", 7), 960))
    assert drawn != list(islice(orders("abcd", 8), 960))
    counts = Counter(drawn)
    assert set(counts) == set(permutations("abcd"))
    assert max(counts.values()) < 2 * 960 / 24
    mirrored = [drawn[block + 4] == drawn[block][::-1] for block in range(0, 960, 8)]
    assert 0 < sum(mirrored) < 60  # nor do the rows of a design come in the order in which it is written
    for block in range(0, 960, 8):  # in all 2 n blocks, each is first twice, and twice after each other
        assert Counter(order[0] for order in drawn[block : block + 8]) == dict.fromkeys("abcd", 2)
        pairs = Counter(pair for order in drawn[block : block + 8] for pair in pairwise(order))
        assert pairs == dict.fromkeys(permutations("abcd", 2), 2)


def test_calls_that_the_clock_cannot_tell_are_refused() -> None:
    stage = Stage()
    calls = {"slow": stage.takes("slow", steady(0.001)), "quick": stage.takes("quick", steady(3e-6))}
    with pytest.raises(UsageError, match=r"A call of quick takes 3 µs; .* nothing shorter than 4 µs"):
        interleave(calls, seconds=1, least=4e-6, clock=stage.clock)
    assert interleave(calls, seconds=0.1, least=2e-6, clock=stage.clock).summary("quick").median == 3e-6


def test_the_first_call_of_a_turn_is_not_counted() -> None:
    """Whoever comes after another finds cold caches once; a device that runs one model does not."""
    stage = Stage()

    def call(name: str) -> None:
        cold = not stage.ran or stage.ran[-1] != name
        stage.ran.append(name)
        stage.now += 0.008 if cold else 0.001

    samples = interleave({name: lambda name=name: call(name) for name in "ab"}, seconds=1, clock=stage.clock)
    assert max(samples.durations("a") + samples.durations("b")) == pytest.approx(0.001)


def test_it_ends_when_the_time_is_over() -> None:
    stage = Stage()
    interleave({"a": stage.takes("a", steady(0.5)), "b": stage.takes("b", steady(0.5))}, seconds=10, clock=stage.clock)
    assert 10 <= stage.now <= 10 + 1 + 2  # at most a block and the warm-up beyond
    stage = Stage()
    samples = interleave({"a": stage.takes("a", steady(60))}, seconds=1, warmup=1, clock=stage.clock)
    assert samples.durations("a") == (60,)
    assert stage.ran == ["a", "a"]


def test_warm_up_ends_when_times_are_stable() -> None:
    def settling() -> Iterator[float]:
        yield from (0.1 / 1.2**i + 0.02 for i in range(30))
        yield from steady(0.02)

    stage = Stage()
    calls = {"a": stage.takes("a", settling()), "b": stage.takes("b", steady(0.03))}
    samples = interleave(calls, seconds=1, warmup=100, clock=stage.clock)
    assert samples.warmup.stable
    assert samples.warmup.spread <= 0.03
    assert max(samples.durations("a")) < 0.021
    assert 15 < stage.ran.count("a") - len(samples.durations("a")) < 60


def test_warm_up_says_when_it_ran_out_of_time() -> None:
    stage = Stage()
    growing = (0.01 * 1.1**i for i in range(1000))
    samples = interleave({"a": stage.takes("a", growing)}, seconds=0.1, warmup=5, clock=stage.clock)
    assert not samples.warmup.stable
    assert samples.warmup.spread > 0.5
    assert 5 <= samples.warmup.seconds < 6
    stage = Stage()
    samples = interleave({"a": stage.takes("a", steady(1))}, seconds=1, warmup=2, clock=stage.clock)
    assert samples.warmup == Warmup(2.0, False, math.inf)


def test_the_collector_is_off_meanwhile_and_on_again() -> None:
    seen: list[bool] = []

    def fail() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 30:
            raise RuntimeError("the model fails")

    with pytest.raises(RuntimeError, match="the model fails"):
        interleave({"a": fail}, seconds=60)
    assert set(seen) == {False}
    assert gc.isenabled()


def interrupted(stage: Stage, after: int) -> Callable[[], None]:
    """Like a Ctrl-C in the midst of a call."""
    call = stage.takes("a", steady(0.001))

    def or_stop() -> None:
        call()
        if stage.ran.count("a") == after:
            raise KeyboardInterrupt

    return or_stop


@pytest.mark.parametrize("after", [40, 41, 42, 46, 47, 51, 52])  # before and after the other one's turn
def test_an_interrupted_run_keeps_the_blocks_that_are_whole(after: int) -> None:
    stage = Stage()
    calls = {"a": interrupted(stage, after), "b": stage.takes("b", steady(0.002))}
    samples = interleave(calls, seconds=60, warmup=0, interruptible=True, clock=stage.clock)
    assert not samples.complete
    assert len(samples.blocks["a"]) == len(samples.blocks["b"]) == (after - 2) // (1 + TURN)
    assert {len(turn) for turns in samples.blocks.values() for turn in turns} == {TURN}
    assert set(samples.durations("b")) == {0.002}
    assert gc.isenabled()


def test_an_interrupt_ends_everything_where_nobody_asked_for_less() -> None:
    """As during a build, or before there is anything whole."""
    for options, after in (({}, 40), ({"interruptible": True}, 3), ({"interruptible": True}, 1)):
        stage = Stage()
        calls = {"b": stage.takes("b", steady(0.002)), "a": interrupted(stage, after)}
        with pytest.raises(KeyboardInterrupt):
            interleave(calls, seconds=60, warmup=0, clock=stage.clock, **options)  # type: ignore[arg-type]
    assert interleave({"a": lambda: None}, seconds=0.001, warmup=0).complete


def test_progress_is_told_now_and_then() -> None:
    stage, seen, times = Stage(), list[Glance](), list[float]()

    def note(glance: Glance) -> None:
        seen.append(glance)
        times.append(stage.now)

    calls = {"a": stage.takes("a", steady(0.001)), "b": stage.takes("b", steady(0.002))}
    samples = interleave(calls, seconds=20, warmup=0, progress=note, clock=stage.clock)
    assert len(seen) == pytest.approx(20 / GLANCE, abs=2)
    assert all(GLANCE <= later - sooner < GLANCE + 0.1 for sooner, later in pairwise(times))
    assert [glance.left for glance in seen] == [pytest.approx(20.003 - now) for now in times]
    assert sorted(glance.calls for glance in seen) == [glance.calls for glance in seen]
    assert seen[-1].calls < len(samples.durations("a"))
    assert len(seen[-1].recent["a"]) == len(seen[-1].recent["b"]) == RECENT
    assert seen[-1].recent["a"] == samples.durations("a")[seen[-1].calls - RECENT : seen[-1].calls]


def test_too_short_for_the_percentile_is_said_at_once() -> None:
    """p90 needs 64 calls; one of each takes 5 / 4 × (0.002 + 0.006) s with the calls that fill the caches."""
    for seconds in (0.63, 0.65):
        stage = Stage()
        calls = {"a": stage.takes("a", steady(0.002)), "b": stage.takes("b", steady(0.006))}
        if seconds > 0.64:
            samples = interleave(calls, seconds=seconds, warmup=0.2, bearing=90, clock=stage.clock)
            assert samples.summary("a").p90 == 0.002
            continue
        with pytest.raises(
            UsageError, match=r"0\.63 s are too short for a p90: it needs 64 calls .* about 63 would fit"
        ):
            interleave(calls, seconds=seconds, warmup=0.2, bearing=90, clock=stage.clock)
        assert stage.now < 0.3


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="nothing"):
        interleave({}, seconds=1)


def test_real_time() -> None:
    samples = interleave({"a": lambda: sum(range(1000)), "b": lambda: None}, seconds=0.05, warmup=0.05)
    assert 0 < samples.summary("b").least < samples.summary("a").mean
    assert samples.ratio("a", "b").value > 0


# -- ratios ------------------------------------------------------------------------------------------------------------


def draw(truth: float, blocks: int, seed: int) -> Samples:
    """Turns of two models on a machine whose speed drifts for both, with noise and outliers of their own."""
    rng = np.random.default_rng(seed)
    drift = np.exp(np.cumsum(rng.normal(0, 0.02, blocks)))[:, None]

    def turns(seconds: float) -> tuple[tuple[float, ...], ...]:
        noise = rng.lognormal(0, 0.1, (blocks, 4)) + (rng.random((blocks, 4)) < 0.02) * 3
        return tuple(map(tuple, (seconds * drift * noise).tolist()))

    return Samples({"a": turns(truth), "b": turns(1.0)}, DONE)


def test_the_interval_covers_the_truth() -> None:
    covered, widths = 0, []
    for seed in range(60):
        ratio = draw(2.0, 50, seed).ratio("a", "b")
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 2.0 <= ratio.high
        widths.append(ratio.high - ratio.low)
    assert covered >= 52  # of 57 expected; fewer than 52 has a chance of 1 %
    assert statistics.median(widths) < 0.4


def test_the_interval_shrinks_with_more_blocks() -> None:
    def width(blocks: int) -> float:
        ratios = [draw(1.0, blocks, seed).ratio("a", "b") for seed in range(10)]
        return statistics.median((ratio.high or 0) - (ratio.low or 0) for ratio in ratios)

    assert width(400) < 0.6 * width(40)


def test_what_slows_both_does_not_move_the_ratio() -> None:
    slow = [1.0 + 9.0 * (i % 3 == 0) for i in range(60)]
    blocks = {name: tuple((factor * each,) for each in slow) for name, factor in (("a", 3.0), ("b", 1.0))}
    assert Samples(blocks, DONE).ratio("a", "b") == Ratio(3.0, 3.0, 3.0, 60)


def test_too_few_blocks_have_no_interval() -> None:
    blocks = {"a": ((2.0,),) * (MIN_BLOCKS - 1), "b": ((1.0,),) * (MIN_BLOCKS - 1)}
    assert Samples(blocks, DONE).ratio("a", "b") == Ratio(2.0, None, None, MIN_BLOCKS - 1)


def test_a_ratio_in_other_units() -> None:
    assert Ratio(2.0, 1.0, 3.0, 9).scaled(0.5) == Ratio(1.0, 0.5, 1.5, 9)
    assert Ratio(2.0, None, None, 3).scaled(2) == Ratio(4.0, None, None, 3)


def test_noise_of_the_clock_is_the_same_for_all() -> None:
    stage = Stage()
    calls = {"a": stage.takes("a", noisy(0.02, 0.2, 1)), "b": stage.takes("b", noisy(0.01, 0.2, 2))}
    ratio = interleave(calls, seconds=20, clock=stage.clock).ratio("a", "b")
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < 2 < ratio.high
    assert ratio.value == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("count", [6, 7, 9, 20, 63, 64, 500, 1001])
def test_bounds_of_a_median(count: int) -> None:
    """The chance that the median is within, from the binomial distribution: at least 95 %, and not much more."""
    low, high = median_bounds([float(i) for i in range(count)][::-1])
    assert low + high == count - 1
    outside = 2 * sum(math.comb(count, i) for i in range(int(low) + 1)) / 2**count
    assert outside <= 0.05
    if count >= 63:
        assert outside > 0.02


def test_bounds_need_six() -> None:
    with pytest.raises(ValueError, match="median of 5"):
        median_bounds([1.0] * 5)


def test_separate_runs_are_resampled_separately() -> None:
    """Their interval covers the truth; that of pairs would be far too narrow where the noise is not shared."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        a, b = 2 * rng.lognormal(0, 0.1, 80), rng.lognormal(0, 0.1, 50)
        value, low, high = median_ratio(a.tolist(), b.tolist(), paired=False)
        assert low <= value <= high
        assert high - low < 0.35  # 4 × 1.96 × 1.25 × 0.1 × sqrt(1 / 80 + 1 / 50) is 0.18
        covered += low <= 2 <= high
    assert covered >= 52  # of 57 expected; fewer than 52 has a chance of 1 %
    shared = rng.lognormal(0, 0.1, 80).tolist()
    assert median_ratio(shared, shared)[1:] == (1, 1)
    _, low, high = median_ratio(shared, shared, paired=False)
    assert low < 1 < high
    with pytest.raises(ValueError, match="none empty"):
        median_ratio([1.0], [], paired=False)


def test_the_difference_of_means_has_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.binomial(25, 0.2, 200) / 25, rng.binomial(25, 0.1, 100) / 25
    value, low, high = mean_difference(a.tolist(), b.tolist(), 4000)
    half = 1.96 * np.sqrt(a.var() / 200 + b.var() / 100)
    assert value == pytest.approx(a.mean() - b.mean())
    assert (low, high) == (pytest.approx(value - half, abs=half / 10), pytest.approx(value + half, abs=half / 10))
    assert mean_difference([0.0] * 9, [0.0] * 6) == (0, 0, 0)
    with pytest.raises(ValueError, match="none empty"):
        mean_difference([1.0], [])


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.floats(0.01, 100))
def test_a_constant_factor_is_recovered_exactly(durations: list[float], factor: float) -> None:
    value, low, high = median_ratio([factor * each for each in durations], durations, resamples=20)
    assert value == pytest.approx(factor)
    assert low == pytest.approx(factor)
    assert high == pytest.approx(factor)


def test_resampling_is_repeatable_in_slices() -> None:
    """More pairs than fit one slice of the resampling; bounds against the order statistics of the median."""
    rng = np.random.default_rng(0)
    a = rng.normal(10, 1, 30_000)
    first = median_ratio(a.tolist(), [1.0] * len(a), resamples=200)
    assert first == median_ratio(a.tolist(), [1.0] * len(a), resamples=200)
    ranked, half = np.sort(a), 0.98 * math.sqrt(len(a))  # binomial interval of the median's rank
    low, high = ranked[round(len(a) / 2 - half)], ranked[round(len(a) / 2 + half)]
    assert first[1] == pytest.approx(low, abs=0.3 * (high - low))
    assert first[2] == pytest.approx(high, abs=0.3 * (high - low))


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([math.nan], [1.0]), ([1.0], [math.inf])]
)
def test_pairs_that_are_none(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired samples|durations must"):
        median_ratio(a, b)
