"""What ``bench`` makes of the evidence: in the report, as JSON, and on the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench import entry, report

from expertc.backends import cpu
from expertc.backends.cpu import CpuSession
from expertc.bench import bench, run
from expertc.bench.camera import Stream
from expertc.bench.watch import UNWATCHED, VERDICTS, Energy, Evidence, Series, Throttle
from expertc.bench.watch.load import Load
from expertc.cli import benched as command

CALM = Evidence(
    seconds=10.0, sensors=("INA3221", "cooling devices"), tells_throttling=True, load=Load(0.004, 0.0),
    power_mode="15W", governor="schedutil", series=(Series("cpu clock", "MHz", 50, 729.6, 1510.4, 1510.4),),
    peak_memory=2**27, energy=(Energy("module (VDD_IN, INA3221)", 50.0, 5.0),),
)  # fmt: skip


def test_energy_is_of_one_model_alone() -> None:
    alone = replace(report(entry()), evidence=CALM)  # 2 ms per image at 5 W
    assert alone.joules_per_image == {"module (VDD_IN, INA3221)": pytest.approx(0.01)}
    assert alone.joules_missing is None
    several = replace(report(entry("a"), entry("b")), evidence=CALM)
    assert several.joules_per_image == {}
    assert several.to_mapping()["evidence"]["joules_missing"].startswith("the models take turns")
    assert "energy per image: the models take turns" in several.to_markdown()
    assert "no sensor of power" in (report(entry()).joules_missing or "")


def test_energy_of_a_camera_is_by_result_not_by_working_time() -> None:
    """5 W; of 25 frames a second every other is worked on for 2 ms: 12.5 results a second, 0.4 J each."""
    stream = Stream(25.0, 100, 0, (0.002,) * 50, (0.002,) * 50)
    alone = replace(report(entry("a")), evidence=CALM, streams={"a": stream})
    assert alone.joules_per_image == {"module (VDD_IN, INA3221)": pytest.approx(5 / 12.5)}


def test_the_report_holds_the_evidence() -> None:
    mapping = replace(report(entry()), evidence=CALM).to_mapping()
    assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
    assert mapping["verdict"] == {"name": "clean", "reasons": []}
    assert mapping["evidence"]["power_mode"] == "15W"
    assert mapping["evidence"]["joules_per_image"] == {"module (VDD_IN, INA3221)": pytest.approx(0.01)}
    assert report(entry()).verdict.name == "unknown"
    assert report(entry()).evidence == UNWATCHED
    wild = replace(report(entry("wild", (0.001, 0.003) * 50)), evidence=CALM)
    assert wild.verdict.name == "noisy"


def printed(capsys, evidence, *entries) -> str:
    command.show_report(replace(report(*entries), evidence=evidence, environment={
        "cpu": "A", "threads": 2, "runtime": "onnxruntime"}))  # fmt: skip
    return " ".join(capsys.readouterr().out.split())


def test_what_is_printed(capsys) -> None:
    out = printed(capsys, CALM, entry())
    assert "verdict clean seen INA3221, cooling devices" in out
    assert "power mode: 15W" in out
    assert "cpu clock: 1510 MHz (730 to 1510)" in out
    assert "energy of module (VDD_IN, INA3221): 10 mJ per image" in out
    assert "other processes: 0.4 % of the cores" in out
    assert "134.2 MB" in out
    assert "on gpu" not in out
    memory = Series("gpu 1 memory", "MiB", 50, 400.0, 700.0, 1000.0)
    assert "peak memory in use on gpu 1: 1.0 GB" in printed(capsys, replace(CALM, series=(memory,)), entry())
    out = printed(capsys, CALM, entry("a"), entry("b"))
    assert "mean power of module (VDD_IN, INA3221): 5.0 W no energy per image: the models take turns" in out


def test_hostile_text_of_sensors(capsys) -> None:
    bad = "[red]\x1b[2J\nverdict clean"
    evidence = replace(CALM, sensors=(bad,), power_mode=bad, throttles=(Throttle(bad, 3, 50),), died=bad)
    out = printed(capsys, evidence, entry())
    assert "verdict throttled" in out
    assert "\x1b" not in out
    assert "[red]" in out


def test_a_reason_is_said_once(cli, full, monkeypatch) -> None:
    summaries = []

    def vary(entries, *rest):
        summaries.extend(entries)
        return original(entries, *rest)

    original = run.warnings_about
    monkeypatch.setattr(run, "warnings_about", vary)
    out = " ".join(cli("bench", full, "--duration", "0.05").out.split())
    assert out.count("coefficient of variation") == sum(each.summary.variation > 0.025 for each in summaries)


def test_phases_are_watched_too(full: Path) -> None:
    """And the power that was seen is then not that of the model alone."""
    found = bench([full], seconds=0.3, phases=True)
    assert found.evidence.seconds >= 0.6
    powered = replace(found, evidence=replace(found.evidence, energy=CALM.energy))
    assert powered.joules_per_image == {}
    assert "without --phases" in (powered.joules_missing or "")


def test_what_a_device_tells_reaches_every_report(cli, full: Path, tmp_path: Path, monkeypatch) -> None:
    """A session whose device spends its time on copies and launches, as a GPU's would: rows and advice."""
    told = {"H2D Latency": 0.004, "GPU Compute Time": 0.005, "D2H Latency": 0.002, "Enqueue Time": 0.0045}

    class Telling(CpuSession):  # not CpuSession itself: what a class once was stays in the cache of isinstance
        def timings(self) -> dict[str, float]:
            return told

    monkeypatch.setattr(cpu, "CpuSession", Telling)
    out = cli("bench", full, "--phases", "--duration", "0.2", "--report", tmp_path / "r").out
    texts = [out, *((tmp_path / "r" / name).read_text() for name in ("report.md", "report.html", "report.json"))]
    for text in texts:
        said = " ".join(text.split())
        assert "Copies to the device and back take longer" in said
        assert "try CUDA graphs" in said
        assert all(name in said for name in told)
    device = json.loads(texts[-1])["phases"]["models"][full.name]["device"]
    assert {name: each["mean"] for name, each in device.items()} == {n: pytest.approx(s) for n, s in told.items()}


def test_a_real_run(cli, full) -> None:
    found = json.loads(cli("bench", full, "--duration", "0.3", "--json").out)
    assert found["verdict"]["name"] in VERDICTS
    evidence = found["evidence"]
    assert evidence["seconds"] >= 0.3
    assert evidence["died"] is None
    assert evidence["locked"] == []
    assert 0 <= evidence["effort"] < 1
    shown = cli("bench", full, "--duration", "0.05").out.splitlines()
    (line,) = (line for line in shown if line.startswith("verdict"))
    assert line.split()[1] in VERDICTS
