"""``expertc bench`` with everything around the measuring: interrupts, reports, accuracies, ``bench compare``."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from rainbow import photos
from test_terminal import COMMAND, environment, on_a_terminal

from expertc.backends.cpu import CpuSession
from expertc.cli import bench as command_module


def stop(*_):
    """A Ctrl-C."""
    raise KeyboardInterrupt


def test_an_interrupted_run_is_reported(cli, full, tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "_line", stop)  # which is called after half a second of measuring
    code, out, err = cli("bench", full, "--duration", "600", "--json", "--report", tmp_path / "r", "--percentile", "99")
    assert code == 130
    found = json.loads(out)
    assert found["complete"] is False
    assert found["warnings"][0] == "The run was interrupted before its 600 s were over."
    assert found["models"][0]["summary"]["n"] == len(found["models"][0]["durations_ns"]) > 100
    assert "Interrupted" in err
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == found
    assert "interrupted" in (tmp_path / "r" / "report.html").read_text()
    assert "interrupted" in (tmp_path / "r" / "report.md").read_text()


def test_before_anything_is_measured_there_is_nothing_to_report(cli, full, tmp_path, monkeypatch):
    monkeypatch.setattr(CpuSession, "run", stop)
    code, out, err = cli("bench", full, "--duration", "60", "--json", "--report", tmp_path / "r")
    assert (code, out) == (130, "")
    assert "Interrupted; nothing half-written was left." in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_interrupt_at_a_live_line(full, tmp_path, number):
    """A process on a terminal is stopped as soon as its line shows samples, percentiles and the time that is left."""
    ours, theirs = pty.openpty()
    arguments = ("bench", full, "--duration", "600", "--json", "--report", tmp_path / "report")
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment(),
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell that runs the tests behind it ignores it
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = ""
        while not re.search(r"\d+ s left · [\d,]+ calls · rainbow.onnx p50 \S+ .?s p90 \S+ .?s", seen):
            seen += os.read(ours, 65536).decode()
        process.send_signal(number)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        assert process.wait(timeout=60) == 130
    os.close(ours)
    found = json.loads(out)
    assert (found["complete"], found["seconds"]) == (False, 600)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_the_live_line_is_taken_away(full):
    code, seen, out = on_a_terminal("bench", full, "--duration", "1.2", "--json", piped=True)
    assert code == 0
    assert "s left" in seen
    assert json.loads(out)["complete"] is True
    assert re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen).rpartition("\r")[2].strip() == ""
    _, seen, _ = on_a_terminal("bench", full, "--duration", "0.6", "-q", piped=True)
    assert seen == ""


def test_too_short_for_the_percentile(cli, full, tmp_path):
    code, out, err = cli("bench", full, "--duration", "0.01", "--percentile", "99", "--report", tmp_path / "r")
    assert (code, out) == (2, "")
    assert "too short for a p99: it needs 662 calls" in err
    assert "Measure for" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("place", ["file", "folder", "missing/report"])
def test_a_report_that_cannot_be_written_is_known_before(cli, full, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").touch()
    monkeypatch.setattr(CpuSession, "run", lambda *_: pytest.fail("measured in vain"))
    code, out, err = cli("bench", full, "--duration", "60", "--report", tmp_path / place)
    assert (code, out) == (9, "")
    assert place.partition("/")[0] in err


def test_an_older_report_is_replaced(cli, full, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "report.json").write_text('{"format": "expertc.bench/1"}')
    (tmp_path / "r" / "report.md").touch()
    assert cli("bench", full, "--duration", "0.02", "--report", tmp_path / "r").code == 0
    assert json.loads((tmp_path / "r" / "report.json").read_text())["complete"]


def test_accuracy_beside_latency(cli, full, bundle, tmp_path):
    folder = photos(tmp_path / "photos", ("reds", "yellows"))
    for path, name in ((full, "full.json"), (bundle, "expert.json")):
        options = ("--classes", "warm") if path == full else ()
        (tmp_path / name).write_text(cli("evaluate", path, "--data", folder, "--json", *options).out)
    options = ("--accuracy", tmp_path / "full.json", "--accuracy", f"{bundle}={tmp_path / 'expert.json'}")
    out = cli("bench", full, bundle, "--duration", "0.1", "--report", tmp_path / "r", "--json", *options).out
    first, second = json.loads(out)["models"]
    assert first["accuracy"]["top1"] == second["accuracy"]["top1"] == 1
    assert (first["accuracy"]["images"], first["accuracy"]["classes"]) == (6, 2)
    out = cli("bench", full, bundle, "--duration", "0.05", *options).out
    assert f"{full.name}: 100.0 % top-1 (61.0 to 100.0 %), 6 photos of 2 classes" in " ".join(out.split())
    assert "accuracy of warm.expert: 100.0 % top-1" in (tmp_path / "r" / "report.md").read_text()
    assert "Accuracy against latency" in (tmp_path / "r" / "report.html").read_text()
    (tmp_path / "full.json").write_text(cli("evaluate", full, "--data", folder, "--json", "--classes", "reds").out)
    code, _, err = cli("bench", full, bundle, *options)
    assert code == 10
    assert "different tasks" in err


# -- bench compare -----------------------------------------------------------------------------------------------------


def slowed(path: Path, factor: float) -> Path:
    """The report with every call so many times as long."""
    report = json.loads(path.read_text())
    report["verdict"] = {"name": "clean", "reasons": []}  # whatever this machine was like
    for model in report["models"]:
        model["durations_ns"] = [round(factor * ns) for ns in model["durations_ns"]]
    other = path.with_name(f"{factor}.json")
    other.write_text(json.dumps(report))
    return other


def test_compare_ends_in_the_code_for_a_regression(cli, full, tmp_path):
    (tmp_path / "run.json").write_text(cli("bench", full, "--duration", "0.2", "--json").out)
    old, slow = slowed(tmp_path / "run.json", 1), slowed(tmp_path / "run.json", 1.5)
    assert cli("bench", "compare", old, old).code == 0
    code, out, err = cli("bench", "compare", old, slow)
    assert code == 11
    assert out.splitlines()[2].split()[0] == "rainbow.onnx"
    assert out.splitlines()[2].split()[-1] == "slower"
    assert "Slower by more than 5 %: rainbow.onnx." in err
    code, out, _ = cli("bench", "compare", old, slow, "--json")
    assert code == 11
    assert json.loads(out)["models"][0]["ratio"] == pytest.approx(1.5, rel=1e-3)
    assert cli("bench", "compare", old, slow, "--tolerance", "0.6").code == 0
    code, out, _ = cli("bench", "compare", slow, old)
    assert (code, out.splitlines()[2].split()[-1]) == (0, "faster")


def test_doubtful_runs_are_not_compared(cli, full, tmp_path):
    report = json.loads(cli("bench", full, "--duration", "0.2", "--json").out)
    report["verdict"] = {"name": "noisy", "reasons": ["Other processes took 40.0% of the cores (limit 2.5%)."]}
    (tmp_path / "old.json").write_text(json.dumps(report))
    code, out, err = cli("bench", "compare", tmp_path / "old.json", tmp_path / "old.json")
    assert (code, out) == (2, "")
    assert "The old run is noisy: Other processes took 40.0% of the cores" in err
    code, out, _ = cli("bench", "compare", tmp_path / "old.json", tmp_path / "old.json", "--allow-noisy")
    assert code == 0
    assert "the new run: Other processes took 40.0% of the cores" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    slow = slowed(tmp_path / "old.json", 1.5)
    assert cli("bench", "compare", tmp_path / "old.json", slow, "--allow-noisy").code == 11


def test_compare_has_help_of_its_own(cli):
    code, out, err = cli("bench", "compare", "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: expertc bench compare [OPTIONS] OLD NEW")
    assert max(map(len, out.splitlines())) <= 80
    assert "Example:" in out
    code, _, err = cli("bench", "compare", "one")
    assert code == 2
    assert "NEW" in err


def test_a_model_called_compare_can_be_measured(cli, full, tmp_path, monkeypatch):
    shutil.copy(full, tmp_path / "compare")
    monkeypatch.chdir(tmp_path)
    assert json.loads(cli("bench", "./compare", "--duration", "0.02", "--json").out)["models"][0]["name"] == "compare"
    assert cli("bench", "--duration", "0.02", "compare").code == 0
