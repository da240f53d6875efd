"""``expertc evaluate`` and ``expertc bench``."""

from __future__ import annotations

import json

import pytest
from rainbow import photos, picture, rainbow


def test_accuracy_with_intervals(cli, bundle, tmp_path):
    folder = photos(tmp_path / "photos", ("reds", "yellows"))
    picture(folder / "reds" / "wrong.png", "yellows")
    (folder / "reds" / "broken.png").write_bytes(b"no image")
    picture(folder / "trees" / "a.png", (1, 2, 3))
    code, out, err = cli("evaluate", bundle, "--data", folder)
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["class", "photos", "right", "accuracy", "95", "%", "interval"]
    # Wilson's interval for 3 of 4: 30.1 to 95.4 %, for 6 of 7: 48.7 to 97.4 %
    assert ["reds", "4", "3", "75.0", "%", "30.1", "to", "95.4", "%"] in rows
    assert ["all", "7", "6", "85.7", "%", "48.7", "to", "97.4", "%"] in rows
    assert "broken.png" in out
    assert "left out: 1 photos of 1 other classes" in out


def test_as_json_and_restricted(cli, full, tmp_path):
    folder = photos(tmp_path / "photos")
    found = json.loads(cli("evaluate", full, "--data", folder, "--classes", "cold", "--json").out)
    assert [item["label"] for item in found["classes"]] == ["greens", "blues"]
    assert (found["images"], found["hits"]) == (6, 6)
    assert found["left_out"] == {"reds": 3, "yellows": 3}
    assert json.loads(cli("evaluate", full, "--data", folder, "--json").out)["images"] == 12


def test_agreement_with_the_full_model(cli, bundle, full, tmp_path):
    folder = photos(tmp_path / "photos")
    code, out, _ = cli("evaluate", bundle, "--data", folder, "--against", full)
    assert code == 0
    assert "agreement: 6 of 6 decisions" in out
    found = json.loads(cli("evaluate", bundle, "--data", folder, "--against", full, "--json").out)
    assert found["agreement"]["agreed"] == found["agreement"]["images"] == 6
    assert found["agreement"]["max_abs_difference"] < 1e-5


def test_a_model_with_a_fixed_batch(cli, tmp_path):
    """5 photos a class do not fill batches of 4: the rest is filled up and taken away again."""
    (tmp_path / "four.onnx").write_bytes(rainbow(batch=4).bytes())
    folder = photos(tmp_path / "photos", each=5)
    found = json.loads(cli("evaluate", tmp_path / "four.onnx", "--data", folder, "--json").out)
    assert (found["images"], found["hits"]) == (20, 20)


def test_packed_photos(cli, full, data_dir):
    """The real packed set is read, although none of its classes is one of the colours."""
    code, _, err = cli("evaluate", full, "--data", data_dir / "sea-animals-128")
    assert code == 10
    assert "No image is of a class that the model knows" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--data", "nowhere"), 10, "'nowhere' does not exist"),
        (("--data", "empty"), 10, "holds no images"),
        (("--data", "photos", "--classes", "red, mauve"), 2, "'mauve'"),
        (("--data", "photos", "--against", "nothing.onnx"), 3, "'nothing.onnx' cannot be read"),
    ],
)
def test_what_cannot_be_evaluated(cli, full, tmp_path, monkeypatch, arguments, code, words):
    photos(tmp_path / "photos", ("reds",))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    found = cli("evaluate", full, *arguments)
    assert (found.code, found.out) == (code, "")
    assert words in found.err


def test_models_of_other_classes_cannot_be_compared(cli, bundle, full, tmp_path):
    folder = photos(tmp_path / "photos")
    code, _, err = cli("evaluate", full, "--data", folder, "--against", bundle)
    assert code == 2
    assert "has no class 'greens'" in err


# -- bench -------------------------------------------------------------------------------------------------------------


def test_bench(cli, full, bundle, tmp_path):
    code, out, err = cli("bench", full, bundle, "--duration", "0.2", "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:2] == ["model", "calls"]
    assert rows[2][0] == "rainbow.onnx"
    assert rows[3][0] == "warm.expert"
    assert "1.000" in rows[2]  # the first over itself
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json", "report.md"]


def test_bench_offline_as_json(cli, full):
    found = json.loads(cli("bench", full, "--duration", "0.05", "--scenario", "offline", "--json").out)
    assert found["scenario"] == "offline"
    assert found["models"][0]["shape"] == [32, 3, 8, 8]
    assert "images/s" in cli("bench", full, "--duration", "0.05", "--scenario", "offline").out


@pytest.mark.parametrize("duration", ["nan", "inf", "0", "-1", "1e9", "long"])
def test_a_duration_is_a_number_of_seconds(cli, full, duration):
    code, out, err = cli("bench", full, "--duration", duration)
    assert (code, out) == (2, "")
    assert "duration" in err
