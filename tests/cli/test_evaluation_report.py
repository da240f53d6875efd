"""``expertc evaluate --report`` and what of it stands on the terminal; ``expertc bench`` beside it."""

from __future__ import annotations

import json
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from rainbow import photos, picture, rainbow, tree

from expertc.backends.cpu import CpuSession
from expertc.cli.confusion import print_confusion
from expertc.evaluate import Evaluation

SCHEMA = json.loads(files("expertc.evaluate").joinpath("schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    folder = photos(tmp_path / "photos", ("reds", "yellows", "blues"))
    picture(folder / "reds" / "wrong.png", "yellows")
    (folder / "reds" / "broken.png").write_bytes(b"no image")
    picture(folder / "trees" / "a.png", (90, 90, 90))
    return folder


def test_a_report_with_everything(cli, full, folder, tmp_path):
    options = ("--classes", "warm", "--reject", "0.9", "--others", folder, "--against", full, "--ignore-unknown")
    arguments = ("evaluate", full, "--data", folder, *options, "--report", tmp_path / "r")
    code, out, err = cli(*arguments)
    assert (code, err, out.splitlines()[-1]) == (0, "", f"report: {tmp_path / 'r'}")
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    Draft202012Validator(SCHEMA).validate(report)
    assert report.keys() == SCHEMA["properties"].keys() - {"answers"}  # of early exits
    assert report["model"] == str(full)
    assert report["data"] == {"path": str(folder), "split": "val"}
    printed = json.loads(cli(*arguments, "--json").out)  # which also replaces the report
    Draft202012Validator(SCHEMA).validate(printed)
    assert printed | {"environment": None} == report | {"environment": None}
    assert "85.7 % of 7 photos of 2 classes" in (tmp_path / "r" / "report.html").read_text()
    assert "| all | 7 | 6 | 85.7 % | 48.7 to 97.4 % |" in (tmp_path / "r" / "report.md").read_text()


@pytest.mark.parametrize("place", ["file", "file/report", "folder", "missing/report", "bench"])
def test_a_report_that_cannot_be_written_is_known_before(cli, full, folder, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").touch()
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "report.json").write_text('{"format": "expertc.bench/4"}')
    monkeypatch.setattr(CpuSession, "run", lambda *_: pytest.fail("evaluated in vain"))
    before = tree(tmp_path)
    code, out, err = cli("evaluate", full, "--data", folder, "--ignore-unknown", "--report", tmp_path / place)
    assert (code, out) == (9, "")
    assert place.partition("/")[0] in err
    assert len(err.splitlines()) == 2
    assert tree(tmp_path) == before


def test_no_right_to_write(cli, full, folder):
    """In /proc nobody may make a folder, not even root."""
    code, out, err = cli("evaluate", full, "--data", folder, "--ignore-unknown", "--report", "/proc/report")
    assert (code, out) == (9, "")
    assert "'/proc/report' cannot be written" in err


def test_one_artefact_both_numbers(cli, full, bundle, folder, tmp_path):
    for path, name, options in ((full, "f", ("--classes", "warm")), (bundle, "e", ())):
        arguments = ("--data", folder, "--ignore-unknown", "--report", tmp_path / name, *options)
        assert cli("evaluate", path, *arguments).code == 0
    bench = ("bench", full, bundle, "--duration", "0.05", "--accuracy", tmp_path / "f")
    code, out, _ = cli(*bench, "--accuracy", tmp_path / "e" / "report.json", "--report", tmp_path / "b", "--json")
    assert code == 0
    assert [model["accuracy"]["top1"] for model in json.loads(out)["models"]] == [6 / 7, 6 / 7]
    assert "Accuracy against latency" in (tmp_path / "b" / "report.html").read_text()


def test_the_accuracy_of_other_bytes_is_refused(cli, folder, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(rainbow().bytes())
    assert cli("evaluate", path, "--data", folder, "--ignore-unknown", "--report", tmp_path / "r").code == 0
    path.write_bytes(rainbow(batch=1).bytes())
    code, out, err = cli("bench", path, "--duration", "0.05", "--accuracy", tmp_path / "r")
    assert (code, out) == (10, "")
    assert "is about another model than" in err
    assert "Evaluate it again." in err


# -- the terminal ------------------------------------------------------------------------------------------------------


def test_a_small_matrix_is_shown(cli, full, folder):
    _, out, _ = cli("evaluate", full, "--data", folder, "--ignore-unknown")
    rows = [line.split() for line in out.splitlines()]
    head = rows.index(["class", "reds", "greens", "blues", "yellows"])
    assert rows[head + 2 : head + 6] == [
        ["reds", "3", "·", "·", "1"], ["greens", "·", "·", "·", "·"], ["blues", "·", "·", "3", "·"],
        ["yellows", "·", "·", "·", "3"],
    ]  # fmt: skip


def shown(capsys, labels, matrix):
    """What is printed of these counts."""
    pairs = [(t, d) for t, row in enumerate(matrix) for d, times in enumerate(row) for _ in range(times)]
    truth, decided = np.array(pairs).T
    print_confusion(Evaluation(tuple(labels), tuple("x" for _ in pairs), truth, decided, (), {}))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()), default=0) <= 80
    return out.splitlines()


@pytest.mark.parametrize("count", range(2, 13))
def test_every_matrix_fits_a_terminal(capsys, count):
    """Names are cut, at last down to numbers, and no row is broken in two; the numbers are those of the matrix."""
    matrix = np.random.default_rng(count).integers(0, 130, (count, count)) + np.eye(count, dtype=int)
    labels = [f"\x1b[31m[red]an animal of a long name {number}" for number in range(count)]
    lines = shown(capsys, labels, matrix.tolist())
    assert len(lines) == count + 4
    for line, row in zip(lines[3:-1], matrix.tolist(), strict=True):
        assert line.split()[-count:] == [str(n) if n else "·" for n in row]
        assert line.startswith(("[31m[red]an", f"{lines.index(line) - 2} [31m[red]"))
    assert ("…" in lines[1]) == (count <= 6)


@pytest.mark.parametrize(("images", "lines"), [(99999, 16), (100000, 0)])
def test_large_numbers_keep_a_row_on_a_line(capsys, images, lines):
    """Six digits of twelve classes leave no place for names: then there is no matrix, and here nothing to list."""
    labels = tuple(f"class {n}" for n in range(12))
    print_confusion(SimpleNamespace(labels=labels, confusion=np.full((12, 12), images), confusions=()))
    out = capsys.readouterr().out.splitlines()
    assert len(out) == lines
    assert max(map(len, out), default=80) == 80


def test_of_many_classes_the_worst_are_listed(cli, capsys, tmp_path):
    matrix = np.eye(13, dtype=int) * 9
    matrix[3, 5], matrix[1, 2], matrix[2, 1] = 4, 2, 6
    lines = shown(capsys, [f"class {n}" for n in range(13)], matrix.tolist())
    assert [line.split() for line in lines[3:]] == [
        ["class", "2", "class", "1", "6", "40.0", "%"], ["class", "3", "class", "5", "4", "30.8", "%"],
        ["class", "1", "class", "2", "2", "18.2", "%"],
    ]  # fmt: skip
    full = np.ones((13, 13), int)
    assert shown(capsys, map(str, range(13)), full.tolist())[-1] == "and 146 other confusions, 146 photos"
    assert shown(capsys, map(str, range(13)), np.eye(13, dtype=int).tolist()) == []
    assert shown(capsys, ["one"], [[5]]) == []
