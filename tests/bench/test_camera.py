"""The camera's frames against a simulation of a clock that only moves when somebody works or sleeps."""

from __future__ import annotations

import math

import pytest

from expertc.bench.camera import stream


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
        now = max(now, frame / 25)
        frame = min(9, max(frame, math.floor(now * 25 + 1e-9)))
        taken.append((frame, now + 0.070))
        now, frame = now + 0.070, frame + 1
    assert [frame for frame, _ in taken][:3] == [0, 1, 3]
    assert (found.frames, found.taken, found.dropped) == (10, len(taken), 10 - len(taken))
    assert found.late == len(taken)  # 70 ms are always more than a frame's 40
    assert found.missed == 1.0
    assert found.age.least == pytest.approx(min(done - frame / 25 for frame, done in taken), abs=1e-6)


def test_a_hiccup_costs_the_frames_it_covers_and_no_more() -> None:
    found = run([0.005] * 10 + [0.130] + [0.005] * 89, rate=20, seconds=3)  # frames 11 and 12 pass unseen
    assert (found.frames, found.late) == (60, 1)
    assert found.dropped == 1, "frame 11 came and went; frame 12 is begun late but is the newest"
    assert found.taken == 59


def test_one_frame_at_least_and_rates_that_are_none() -> None:
    assert run([0.001], rate=1, seconds=0.1).frames == 1
    for rate in (0.0, -5.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="rate"):
            run([0.001], rate=rate, seconds=1)
