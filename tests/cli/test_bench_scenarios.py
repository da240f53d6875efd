"""``expertc bench`` as a camera, offline and with ``--phases``: tables, reports, interrupts and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rainbow import photos, rainbow

from expertc.bench import predictions
from expertc.cli import bench as command_module


def stop(*_, **__):
    """A Ctrl-C."""
    raise KeyboardInterrupt


def rows(out: str) -> list[list[str]]:
    """The cells of all tables; within a cell there is at most one space."""
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]


def test_camera(cli, full: Path, bundle: Path, tmp_path: Path) -> None:
    options = ("--scenario", "camera", "--fps", "250", "--duration", "0.6", "--report", tmp_path / "r")
    code, out, err = cli("bench", full, bundle, *options)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    head, _, first, second = rows(out)[:4]
    assert " ".join(head) == "model frames missed dropped late age p50 age p90 age p99 work p90"
    assert (first[0], second[0]) == (full.name, bundle.name)
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    assert found["scenario"] == "camera"
    for name, row in ((full.name, first), (bundle.name, second)):
        stream = found["streams"][name]
        assert stream["frames"] == int(row[1]) >= 6 * 10
        assert stream["taken"] + stream["dropped"] == stream["frames"]
        assert stream["missed"] == pytest.approx((stream["dropped"] + stream["late"]) / stream["frames"])
        assert stream["age"]["n"] == stream["work"]["n"] == stream["taken"]
    assert "250 frames per second" in " ".join(out.split())
    assert "## Camera" in (tmp_path / "r" / "report.md").read_text()
    assert "<h2>Camera</h2>" in (tmp_path / "r" / "report.html").read_text()


def test_a_camera_can_be_interrupted(cli, full: Path, bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(command_module, "_line", stop)  # called after half a second of measuring
    code, out, err = cli("bench", full, bundle, "--scenario", "camera", "--fps", "100", "--duration", "60", "--json")
    assert code == 130
    found = json.loads(out)
    assert found["complete"] is False
    frames = [stream["frames"] for stream in found["streams"].values()]
    assert frames[0] == frames[1] >= 100  # a slice of a second each
    assert "Interrupted" in err


def test_offline_sweeps_what_takes_any_batch(cli, full: Path, tmp_path: Path) -> None:
    (tmp_path / "three.onnx").write_bytes(rainbow(batch=3).bytes())
    options = ("--scenario", "offline", "--duration", "0.4", "--report", tmp_path / "r")
    code, out, _ = cli("bench", full, tmp_path / "three.onnx", *options)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    free, fixed = found["models"]
    assert "three.onnx is made for a batch of 3: no other was tried." in found["warnings"]
    sweep = found["sweeps"][full.name]
    assert found["sweeps"].keys() == {full.name}
    assert fixed["shape"][0] == 3
    assert free["shape"][0] == sweep["chosen"]
    assert [step["batch"] for step in sweep["steps"]] == [2**i for i in range(len(sweep["steps"]))]
    assert [full.name, f"{sweep['chosen']} *"] in [row[:2] for row in rows(out)]
    assert sweep["stopped"] in " ".join(out.split())
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<title>Images per second by batch</title>" in page
    out = cli("bench", full, tmp_path / "three.onnx", *options[:4], "--batch-size", "7", "--json").out
    assert [model["shape"][0] for model in json.loads(out)["models"]] == [7, 3]


def test_phases(cli, full: Path, bundle: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", ("reds", "yellows"))
    options = ("--phases", "--data", folder, "--duration", "0.3", "--report", tmp_path / "r")
    code, out, _ = cli("bench", full, bundle, *options)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    phase_rows = [row[1] for row in rows(out) if row[0] == bundle.name and len(row) == 5 and row[1][0].isalpha()]
    assert phase_rows == ["decode", "preprocess", "compute", "postprocess", "end to end"]
    said = " ".join(out.split())
    assert "a CPU has no copies" in said
    assert json.loads((tmp_path / "r" / "report.json").read_text())["phases"]["photos"].startswith(f"6 of {folder}")
    for name in ("report.md", "report.html"):
        assert "Phases of a prediction" in (tmp_path / "r" / name).read_text()
    assert "a made JPEG of 1280 × 720" in " ".join(cli("bench", bundle, "--phases", "--duration", "0.1").out.split())


def test_an_interrupt_while_phases_are_taken_keeps_the_rest(cli, full: Path, monkeypatch) -> None:
    monkeypatch.setattr(predictions, "apply", stop)
    code, out, _ = cli("bench", full, "--phases", "--duration", "0.1", "--json")
    assert code == 130
    found = json.loads(out)
    assert (found["complete"], "phases" in found) == (False, False)
    assert found["models"][0]["summary"]["n"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fps", "30"), "single-stream has no frame rate"),
        (("--scenario", "camera", "--fps", "0"), "0 frames per second is not a camera's rate"),
        (("--scenario", "camera", "--fps", "nan"), "not a camera's rate"),
        (("--scenario", "camera", "--fps", "-30"), "not a camera's rate"),
        (("--scenario", "camera", "--fps", "1e9"), "not a camera's rate"),
        (("--scenario", "camera", "--fps", "thirty"), "thirty"),
        (("--scenario", "camera", "--batch-size", "2"), "camera takes one image at a time"),
        (("--batch-size", "2"), "single-stream takes one image at a time"),
        (("--scenario", "offline", "--batch-size", "0"), "not a batch size"),
        (("--data", "photos"), "Use --data with --phases"),
        (("--scenario", "film"), "no scenario 'film'"),
    ],
)
def test_what_is_refused(cli, full: Path, options: tuple[str, ...], words: str) -> None:
    code, out, err = cli("bench", full, *options)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())


def test_nothing_is_measured_in_vain(cli, full: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = cli("bench", full, "--phases", "--data", tmp_path / "empty", "--duration", "60")
    assert (code, out) == (10, "")
    assert "empty" in err
    (tmp_path / "bare.onnx").write_bytes(rainbow(described=False).bytes())
    code, _, err = cli("bench", tmp_path / "bare.onnx", "--phases", "--duration", "60")
    assert code == 3
    assert "no model card" in err
