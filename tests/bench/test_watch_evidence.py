"""Evidence out of samples, and the verdict out of evidence."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from expertc.bench.watch import UNWATCHED, VERDICTS, Energy, Evidence, Throttle, judge
from expertc.bench.watch.evidence import Track, summarise
from expertc.bench.watch.ina import power
from expertc.bench.watch.load import Load
from expertc.bench.watch.sample import Channel, Sample

CLOCK = Channel("cpu clock", "MHz")


def track(samples: Iterable[tuple[float, Sample]], ended: str | None = None) -> Track:
    return Track("sensor", tuple(samples), ended)


def ticking(sample: Sample, count: int = 11, step: float = 1.0) -> Track:
    return track((i * step, sample) for i in range(count))


def test_series_are_of_the_window_only() -> None:
    clocks = [100.0, 1500.0, 1200.0, 1400.0, 90.0]
    seen = summarise([track((i, Sample({CLOCK: clock})) for i, clock in enumerate(clocks))], 1.0, 3.0)
    (series,) = seen.series
    assert (series.name, series.unit, series.samples) == ("cpu clock", "MHz", 3)
    assert (series.least, series.median, series.most) == (1200, 1400, 1500)
    assert seen.died is None
    assert not seen.tells_throttling


def test_energy_is_the_integral_of_power() -> None:
    moments = np.sort(np.random.default_rng(0).uniform(0, 10, 40))
    watts = 5 + np.sin(moments)
    tracks = [
        track((t, Sample({power("VDD_IN"): w, power("VDD_SOC"): 1.0})) for t, w in zip(moments, watts, strict=True))
    ]
    (energy,) = summarise(tracks, 0.0, 10.0).energy
    padded = np.concatenate([[watts[0]], watts, [watts[-1]]])
    assert energy.source == "module (VDD_IN, sensor)"
    trapezoid = getattr(np, "trapezoid", None) or np.trapz  # numpy 2 renamed it
    assert energy.joules == pytest.approx(trapezoid(padded, np.concatenate([[0], moments, [10]])))
    assert energy.watts == pytest.approx(energy.joules / 10)


def test_energy_of_several_parts() -> None:
    agx = {
        power("VDD_GPU_SOC"): 3.0,
        power("VDD_CPU_CV"): 2.0,
        power("VIN_SYS_5V0"): 4.0,
        power("VDDQ_VDD2_1V8AO"): 1.0,
    }
    cards = {Channel("gpu 0 power", "W"): 60.0, Channel("gpu 1 power", "W"): 30.0}
    seen = summarise([ticking(Sample(agx)), ticking(Sample(cards))], 0.0, 10.0)
    assert seen.energy == (
        Energy("module (VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0, sensor)", 90.0, 9.0),
        Energy("gpu 0", 600.0, 60.0),
        Energy("gpu 1", 300.0, 30.0),
    )
    assert summarise([ticking(Sample({power("CV"): 1.0}))], 0.0, 10.0).energy == ()


def test_throttling() -> None:
    hot, calm = Sample(held_back=frozenset({"gpu 0: too hot (driver)"}), tells=True), Sample(tells=True)
    seen = summarise([track((i, hot if i == 2 else calm) for i in range(4))], 0.0, 3.0)
    assert seen.throttles == (Throttle("gpu 0: too hot (driver)", 1, 4),)
    assert seen.tells_throttling
    counts = [track((i, Sample(counters={"oc2": 15, "oc3": 37 + (i > 1)}, tells=True)) for i in range(4))]
    seen = summarise(counts, 0.0, 3.0)
    assert seen.throttles == (Throttle("oc3", 1, None),)
    assert [str(throttle) for throttle in seen.throttles] == ["oc3: 1 times"]
    # What was counted before the window is not ours.
    assert summarise(counts, 2.0, 3.0).throttles == ()
    # One look that did not answer, and nobody can vouch for the whole.
    assert not summarise([track([(0, calm), (1, Sample({CLOCK: 1.0})), (2, calm)])], 0.0, 2.0).tells_throttling


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (track([]), "sensor: it gave no sample"),
        (ticking(Sample(tells=True), count=8), "sensor: it was silent for 3.0 s"),  # until the end at 10
        (track([(0, Sample(tells=True)), (10, Sample(tells=True))]), "silent for 10.0 s"),
        (track([(-5, Sample(tells=True)), (20, Sample(tells=True))]), "it gave no sample"),
        (replace(ticking(Sample(tells=True)), ended="it ended with code 9"), "sensor: it ended with code 9"),
    ],
)
def test_a_dead_sensor(found: Track, words: str) -> None:
    seen = summarise([ticking(Sample(tells=True)), found], 0.0, 10.0)
    assert seen.died is not None
    assert words in seen.died
    certain = Evidence(seconds=10, tells_throttling=seen.tells_throttling, died=seen.died)
    assert judge(certain, {}).name == "unknown"


GOOD = Evidence(seconds=10.0, sensors=("cooling devices",), tells_throttling=True, load=Load(0.01, 0.0))
HELD = (Throttle("cooling by cpu-throttle-alert", 3, 50),)


@pytest.mark.parametrize(
    ("evidence", "variation", "verdict", "words"),
    [
        (GOOD, 0.01, "clean", []),
        (GOOD, 0.025, "clean", []),
        (replace(GOOD, load=None), 0.01, "clean", []),  # a short run; its times say whether it was disturbed
        (GOOD, 0.0251, "noisy", ["times of a vary by 2.5%"]),
        (replace(GOOD, load=Load(0.026, 0.0)), 0.0, "noisy", ["Other processes took 2.6%"]),
        (replace(GOOD, load=Load(0.0, 0.03)), 0.0, "noisy", ["hypervisor gave 3.0%"]),
        (replace(GOOD, throttles=HELD), 0.0, "throttled", ["cooling by cpu-throttle-alert: in 3 of 50 samples"]),
        (replace(GOOD, throttles=HELD, died="x"), 0.3, "throttled", ["held back", "vary by 30", "watch failed (x)"]),
        (replace(GOOD, died="nvidia-smi: it ended with code 9"), 0.0, "unknown", ["nvidia-smi: it ended with code 9"]),
        (replace(GOOD, died="x"), 0.1, "noisy", ["vary by 10", "watch failed"]),
        (replace(GOOD, tells_throttling=False), 0.0, "unknown", ["No sensor"]),
        (UNWATCHED, 0.0, "unknown", ["nobody watched"]),
    ],
)
def test_verdicts(evidence: Evidence, variation: float, verdict: str, words: list[str]) -> None:
    found = judge(evidence, {"a": variation, "b": 0.0})
    assert found.name == verdict
    assert verdict in VERDICTS
    assert len(found.reasons) == len(words)
    for reason, word in zip(found.reasons, words, strict=True):
        assert word in reason


def test_the_peak_of_each_card() -> None:
    """Memory in use by all, at its highest within the window; other numbers of a card are none."""
    used = (512.0, 9000.0, 18364.0, 700.0, 20000.0)
    looks = (
        (i, Sample({Channel("gpu 0 memory", "MiB"): n, Channel("gpu 1 memory", "MiB"): 3.0, CLOCK: 1e6}))
        for i, n in enumerate(used)
    )
    seen = summarise([track(looks)], 0.0, 3.0)
    assert Evidence(series=seen.series).peak_device_memory == {"gpu 0": 18364 * 2**20, "gpu 1": 3 * 2**20}
    assert UNWATCHED.peak_device_memory == {}


def test_evidence_is_plain_json() -> None:
    evidence = replace(GOOD, throttles=HELD, energy=(Energy("gpu 0", 2.0, 1.0),), locked=("x",), governor="schedutil")
    mapping = evidence.to_mapping()
    assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
    assert mapping["load"] == {"others": 0.01, "stolen": 0.0}
    assert mapping["throttles"] == [{"reason": "cooling by cpu-throttle-alert", "count": 3, "samples": 50}]
