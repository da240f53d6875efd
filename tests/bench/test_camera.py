"""The camera's frames against a simulation of a clock that only moves when somebody works or sleeps."""

from __future__ import annotations

import math
from functools import partial

import pytest

from expertc.bench.camera import stream, streams
from expertc.errors import UsageError
from expertc.measure import Glance


class Time:
    """A clock that stands still but for ``sleep`` and work."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def clock(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.ns += max(1, round(seconds * 1e9))


def run(durations: list[float], rate: float, seconds: float):
    """A stream whose calls take ``durations``, over and over."""
    time, calls = Time(), iter(durations * 1000)
    return stream(lambda: time.sleep(next(calls)), rate=rate, seconds=seconds, clock=time.clock, sleep=time.sleep)


def test_a_quick_model_works_on_every_frame() -> None:
    found = run([0.010], rate=25, seconds=4)
    assert (found.frames, found.taken, found.dropped, found.late, found.missed) == (100, 100, 0, 0, 0.0)
    assert found.work.median == pytest.approx(0.010)
    assert found.age.median == pytest.approx(0.010, abs=1e-6)


def test_a_slow_model_drops_frames_and_is_late() -> None:
    """70 ms for a frame every 40 ms: at 0 frame 0 is taken, at 70 frame 1 (of 40), at 140 frame 3 (of 120), ..."""
    found = run([0.070], rate=25, seconds=0.4)
    taken, now = [], 0.0
    frame = 0
    while frame < 10:
        taken.append((frame, now + 0.070))
        now += 0.070
        frame = max(frame + 1, math.floor(now * 25 + 1e-9))
    assert [frame for frame, _ in taken] == [0, 1, 3, 5, 7, 8]
    assert (found.frames, found.taken, found.dropped) == (10, len(taken), 10 - len(taken))
    assert found.late == len(taken)  # 70 ms are always more than a frame's 40
    assert found.missed == 1.0
    assert found.ages == pytest.approx([done - frame / 25 for frame, done in taken], abs=1e-6)
    assert max(found.ages) < 0.070 + 1 / 25  # never older than a frame that waited for the one before, and the work


def test_a_hiccup_costs_the_frames_it_covers_and_no_more() -> None:
    found = run([0.005] * 10 + [0.130] + [0.005] * 89, rate=20, seconds=3)  # frames 11 and 12 pass unseen
    assert (found.frames, found.late) == (60, 1)
    assert found.dropped == 1, "frame 11 came and went; frame 12 is begun late but is the newest"
    assert found.taken == 59


def test_one_frame_at_least_and_rates_that_are_none() -> None:
    assert run([0.001], rate=1, seconds=0.1).frames == 1
    for rate in (0.0, -5.0, math.nan, math.inf, 1e9):
        with pytest.raises(UsageError, match="camera's rate"):
            run([0.001], rate=rate, seconds=1)


# -- several models ----------------------------------------------------------------------------------------------------


def together(durations: dict[str, float], stop_after: int | None = None, **options):
    """``streams`` of models that take that long, who ran, and what the progress was told."""
    time, ran, seen = Time(), list[str](), list[Glance]()

    def call(name: str) -> None:
        ran.append(name)
        if len(ran) == stop_after:
            raise KeyboardInterrupt
        time.sleep(durations[name])

    calls = {name: partial(call, name) for name in durations}
    options = {"rate": 25, "seconds": 60, "warmup": 1, "progress": seen.append} | options
    return *streams(calls, clock=time.clock, sleep=time.sleep, **options), ran, seen


def test_models_take_turns_by_slices() -> None:
    samples, found, ran, seen = together({"quick": 0.010, "slow": 0.070})
    assert (found["quick"].missed, found["slow"].missed) == (0, 1)
    assert found["quick"].frames == found["slow"].frames == 25 * len(samples.blocks["slow"])
    assert len(samples.blocks["slow"]) == pytest.approx(60 / 2, abs=2)  # one second each
    assert {len(turn) for turn in samples.blocks["quick"]} == {25}
    assert samples.ratio("slow", "quick").value == pytest.approx(7)
    # Cut into slices, a stream loses at most a frame at each cut: 70 ms for a frame every 40 leave 4 of 7.
    assert found["slow"].taken / found["slow"].frames == pytest.approx(4 / 7, abs=1 / 25)
    assert found["slow"].works == samples.durations("slow")
    places = [name for name, before in zip(ran[1:], ran, strict=False) if name != before]
    assert len(places) > len(samples.blocks["slow"])
    assert seen[-1].calls > 0
    assert seen[-1].recent["slow"] == pytest.approx([0.070] * len(seen[-1].recent["slow"]))


def test_what_fills_the_caches_is_not_counted() -> None:
    """The first call after another model's is slow; a device that runs one model never sees it."""
    time, last = Time(), [""]

    def call(name: str) -> None:
        time.sleep(0.010 if last[0] == name else 0.030)
        last[0] = name

    calls = {name: partial(call, name) for name in "ab"}
    samples, _ = streams(calls, rate=25, seconds=12, clock=time.clock, sleep=time.sleep)
    assert max(samples.durations("a") + samples.durations("b")) == pytest.approx(0.010)


@pytest.mark.parametrize(("durations", "length"), [({"a": 0.01}, 1.0), ({"a": 0.5, "b": 0.01}, 5.0)])
def test_a_slice_holds_enough_calls(durations: dict[str, float], length: float) -> None:
    samples, found, *_ = together(durations)
    assert found["a"].frames / len(samples.blocks["a"]) == length * 25
    samples, found, *_ = together({"a": 0.001, "b": 0.001}, seconds=6)
    assert len(samples.blocks["a"]) >= 6  # shorter ones, so that there is an interval


def test_an_interrupted_camera_keeps_whole_slices() -> None:
    samples, found, *_ = together({"a": 0.001, "b": 0.001}, stop_after=300, interruptible=True)
    assert not samples.complete
    assert found["a"].frames == found["b"].frames == 25 * len(samples.blocks["a"])
    with pytest.raises(KeyboardInterrupt):
        together({"a": 0.001, "b": 0.001}, stop_after=300)
    with pytest.raises(UsageError, match="too short for a p99: it needs 662"):
        together({"a": 0.001}, bearing=99, seconds=26)  # 650 frames
    assert together({"a": 0.001}, bearing=99, seconds=27)[1]["a"].age.p99 is not None
