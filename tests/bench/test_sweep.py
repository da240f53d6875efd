"""The sweep of batches on a clock that only calls move, so that what is best is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from expertc.bench import sweep as module
from expertc.bench.sweep import saturate
from expertc.errors import OutOfMemoryError


def machine(seconds: Callable[[int], float], most: int = 10**9):
    """Calls that take ``seconds(batch)``, and fail above ``most`` images; and their clock."""
    now = [0.0]

    def calls(batch: int) -> Callable[[], None]:
        def call() -> None:
            if batch > most:
                raise OutOfMemoryError("too much")
            now[0] += seconds(batch)

        return call

    return calls, lambda: round(now[0] * 1e9)


def best(seconds: Callable[[int], float]) -> int:
    """The rule, in other words: of the doublings until two in a row are no use, the last that was."""
    rates = {2**i: 2**i / seconds(2**i) for i in range(11)}
    chosen = 1
    for batch in rates:
        if rates[batch] >= 1.05 * rates[chosen]:
            chosen = batch
        elif batch >= 4 * chosen:
            return chosen
    return chosen


@pytest.mark.parametrize(
    "seconds",
    [
        lambda batch: 0.4 + 0.1 * batch,  # a cost per call and one per image
        lambda batch: 0.1 * batch,  # no gain at all
        lambda batch: 0.1 * batch * (1.2 if batch == 2 else 0.7 if batch >= 4 else 1),  # a dip
        lambda batch: 0.1 * batch * (1 + batch / 64),  # worse and worse
        lambda batch: 0.1 * (1 + batch // 33),
    ],
    ids=["saturates", "flat", "dip", "falls", "stairs"],
)
def test_the_batch_from_which_on_more_is_no_use(seconds: Callable[[int], float]) -> None:
    calls, clock = machine(seconds)
    found = saturate(calls, seconds=6000, clock=clock)
    assert found.chosen == best(seconds)
    assert "2 doublings in a row brought less than 5%" in found.stopped
    assert [step.batch for step in found.steps] == [2**i for i in range(len(found.steps))]
    for step in found.steps:
        assert step.images_per_second == pytest.approx(step.batch / seconds(step.batch), rel=1e-6)
    assert found.steps[0].growth is None
    assert found.steps[1].growth == pytest.approx(2 * seconds(1) / seconds(2) - 1, rel=1e-6)


def test_it_ends_in_time() -> None:
    calls, clock = machine(lambda batch: 0.1 + 0.01 * batch)
    found = saturate(calls, seconds=5, clock=clock)
    assert clock() < 6e9
    assert found.stopped == "the 5 s for choosing were over"
    assert found.chosen == found.steps[-1].batch > 1
    calls, clock = machine(lambda batch: 60 + batch)
    assert [step.batch for step in saturate(calls, seconds=1, clock=clock).steps] == [1, 2]


def test_memory_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = lambda batch: 0.1  # noqa: E731 (throughput doubles for ever)
    calls, clock = machine(growing, most=16)
    found = saturate(calls, seconds=600, clock=clock)
    assert (found.chosen, found.stopped) == (16, "32 images at once need more memory than there is")
    calls, clock = machine(growing, most=1)
    assert (saturate(calls, seconds=600, clock=clock).chosen) == 1
    calls, clock = machine(growing)
    assert saturate(calls, seconds=600, clock=clock).chosen == module.LARGEST
    peaks = iter([1000, 1100, 1200, 1400, 1800, 2600])  # before, and after batches of 2, 4, 8, 16, 32: 50 per image
    monkeypatch.setattr(module.memory, "peak", lambda: next(peaks))
    calls, clock = machine(growing)
    found = saturate(calls, seconds=600, clock=clock, available=lambda: 2000)
    assert (found.chosen, found.stopped) == (16, "32 images at once may need more memory than is left")


def test_memory_that_is_left(tmp_path) -> None:
    assert module.memory.available(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nMemAvailable:  4 kB\n")
    assert module.memory.available(tmp_path) == 4096
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    for limit, left in (("max", 4096), ("3000", 2000), ("500", 0), ("100000", 4096)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert module.memory.available(tmp_path) == left
