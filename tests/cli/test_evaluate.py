"""``expertc evaluate`` and ``expertc bench``."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from networks import Net
from PIL import Image
from rainbow import SIDE, card, photos, picture, rainbow, tree

from expertc.card import CARD_KEY
from expertc.taxonomy import Taxonomy


def test_accuracy_with_intervals(cli, bundle, tmp_path):
    folder = photos(tmp_path / "photos", ("reds", "yellows"))
    picture(folder / "reds" / "wrong.png", "yellows")
    (folder / "reds" / "broken.png").write_bytes(b"no image")
    picture(folder / "trees" / "a.png", (1, 2, 3))
    code, out, err = cli("evaluate", bundle, "--data", folder, "--ignore-unknown")
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["class", "photos", "right", "accuracy", "95", "%", "interval"]
    # Wilson's interval for 3 of 4: 30.1 to 95.4 %, for 6 of 7: 48.7 to 97.4 %
    assert ["reds", "4", "3", "75.0", "%", "30.1", "to", "95.4", "%"] in rows
    assert ["all", "7", "6", "85.7", "%", "48.7", "to", "97.4", "%"] in rows
    assert "broken.png" in out
    assert "left out: 1 photos of 1 other classes" in out


def test_folders_that_name_no_class_are_refused(cli, bundle, full, tmp_path):
    """Those that name a class of the full model are only left out, also by an expert that does not have it."""
    folder = photos(tmp_path / "photos", ("reds", "greens"), each=1)
    picture(folder / "Yellow" / "a.png", "yellows")  # in another number: the same class
    (folder / "unused").mkdir()  # no photos, no harm
    assert json.loads(cli("evaluate", bundle, "--data", folder, "--json").out)["left_out"] == {"greens": 1}
    for number in range(12):
        picture(folder / f"tree[b]{number:02}\u202e" / "a.png", (1, 2, 3))
    picture(folder / "warm" / "a.png", "reds")  # a category
    for model in (bundle, full):
        code, out, err = cli("evaluate", model, "--data", folder)
        assert (code, out) == (10, "")
        assert "photos of 'tree[b]00', 'tree[b]01'" in err
        assert "'tree[b]09' and 3 more, which the model does not know" in err
        assert "--ignore-unknown" in err
    found = json.loads(cli("evaluate", bundle, "--data", folder, "--ignore-unknown", "--json").out)
    assert (found["images"], found["hits"], sum(found["left_out"].values())) == (2, 2, 14)


def test_a_bundle_that_does_not_name_the_full_models_classes(cli, bundle, tmp_path):
    """One of an older expertc: what is not its own is not known."""
    old = tmp_path / "old.expert"
    shutil.copytree(bundle, old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["source"]["taxonomy"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    folder = photos(tmp_path / "photos", ("reds", "greens"), each=1)
    assert "'greens', which the model does not know" in cli("evaluate", old, "--data", folder).err
    assert cli("evaluate", old, "--data", folder, "--ignore-unknown").code == 0
    manifest["source"]["taxonomy"] = {"tree": {"reds": 3}}
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert cli("evaluate", old, "--data", folder).code == 3


def test_calibration_and_coverage(cli, full, tmp_path):
    """Logits by hand for a plain red photo: reds 8.25 - 0.075, yellows 0.5 + 4.9 + 0.1875."""
    folder = photos(tmp_path / "photos", ("reds",), each=1)
    picture(folder / "yellows" / "red.png", "reds")
    arguments = ("evaluate", full, "--data", folder, "--classes", "warm", "--reject", "0.9")
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert "calibration error: 43.0 % (expected; 15 bins)" in out  # 93.0 % sure, half of them right
    assert "with at least 0.9: 2 of 2 photos, 100.0 %\nof these right: 50.0 %" in out
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads(cli(*arguments, "--json").out)
    assert found["calibration"] == {"error": pytest.approx(1 / (1 + math.exp(5.5875 - 8.175)) - 0.5), "bins": 15}
    assert (found["coverage"]["covered"], found["coverage"]["hits"], found["top5"]) == (2, 1, None)
    assert found["confusion"] == [[1, 0], [1, 0]]
    none = json.loads(cli(*arguments[:-1], "0.99", "--json").out)["coverage"]
    assert (none["covered"], none["coverage"], none["accuracy"]) == (0, 0, None)


@pytest.mark.parametrize("classes", [(), ("--classes", "warm")])
def test_a_model_that_ends_in_a_softmax_is_as_sure_as_without(cli, full, tmp_path, classes):
    """Of some classes alone, its probabilities are first made to add up to 1."""
    (tmp_path / "soft.onnx").write_bytes(rainbow(kind="probabilities", end="Softmax").bytes())
    folder = photos(tmp_path / "photos", ("reds", "yellows"))
    picture(folder / "reds" / "wrong.png", "yellows")
    plain, soft = (
        json.loads(cli("evaluate", model, "--data", folder, *classes, "--reject", "0.9", "--json").out)
        for model in (full, tmp_path / "soft.onnx")
    )
    assert soft["calibration"]["error"] == pytest.approx(plain["calibration"]["error"], abs=1e-6)
    assert soft["coverage"] == plain["coverage"]
    assert 0 < plain["coverage"]["covered"] < 7


def test_the_best_five_of_many(cli, tmp_path):
    """A flat model of six colours, four of which look alike to it: the table has a line for the best five."""
    net = Net(17)
    weight = net.constant(np.array([[3, 0, 0], [0, 3, 0], [2, 0, 0], [1, 0, 0], [1, 1, 0], [0, 2, 0]], np.float32))
    image = net.image(3, SIDE, SIDE)
    means = net.node("Flatten", net.node("GlobalAveragePool", image), axis=1)
    net.node("Gemm", means, weight, transB=1, out="scores")
    net.result("scores", 6)
    labels = "reds greens ruby pink yellows limes".split()
    net.metadata = {CARD_KEY: card(taxonomy=Taxonomy.flat(labels)).to_json()}
    (tmp_path / "six.onnx").write_bytes(net.bytes())
    folder = photos(tmp_path / "photos", ("reds",), each=2)
    picture(folder / "limes" / "a.png", "greens")  # second best
    picture(folder / "pink" / "a.png", "greens")  # 0 like the others that see red, and the last of these: sixth
    picture(folder / "ruby" / "a.png", "blues")  # everything is 0: third
    code, out, _ = cli("evaluate", tmp_path / "six.onnx", "--data", folder)
    rows = [line.split() for line in out.splitlines()]
    assert ["all,", "among", "the", "best", "5", "5", "4", "80.0", "%", "37.6", "to", "96.4", "%"] in rows
    found = json.loads(cli("evaluate", tmp_path / "six.onnx", "--data", folder, "--json").out)
    assert (code, found["hits"], found["top5"]["hits"], found["top5"]["images"]) == (0, 2, 4, 5)


def test_others(cli, full, tmp_path):
    """The full model, restricted: what it says of its other classes, and of things it never saw."""
    folder = photos(tmp_path / "photos", ("reds", "blues"))
    picture(folder / "trees" / "a.png", (90, 90, 90))
    arguments = ("evaluate", full, "--data", folder, "--classes", "warm", "--ignore-unknown", "--others", folder)
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "left out of the others: 3 photos" in out
    found = json.loads(cli(*arguments, "--json").out)["others"]
    assert (found["images"], found["own_left_out"]) == (4, 3)
    assert {one["score"]: (one["auroc"], one["fpr95"]) for one in found["scores"]} == {
        "max-logit": (1, 0), "energy": (1, 0),
    }  # fmt: skip
    assert "threshold" not in found


def test_a_picture_of_the_confusion(cli, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = photos(tmp_path / "photos")
    code, out, err = cli("evaluate", full, "--data", folder, "--picture", "c.png")
    assert (code, err, out.splitlines()[-1]) == (0, "", "picture: c.png")
    with Image.open(tmp_path / "c.png") as made:
        assert made.format == "PNG"
    before = tree(tmp_path)
    assert cli("evaluate", full, "--data", folder, "--picture", "c.png").code == 9
    assert cli("evaluate", full, "--data", folder, "--picture", "no/such/c.png").code == 9
    assert tree(tmp_path) == before
    assert cli("evaluate", full, "--data", folder, "--picture", "c.png", "--force", "--json").code == 0


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
        (("--data", "photos", "--reject", "nan"), 2, "is not a probability"),
        (("--data", "photos", "--reject", "1.1"), 2, "is not a probability"),
        (("--data", "photos", "--classes", "reds", "--reject", "0.5"), 10, "A single class has no probability"),
        (("--data", "photos", "--force"), 2, "--force belongs to --picture"),
        (("--data", "photos", "--others", "empty"), 10, "holds no images"),
        (("--data", "photos", "--others", "photos"), 10, "own classes"),
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
    options = ("--duration", "0.05", "--scenario", "offline", "--batch-size", "32")
    found = json.loads(cli("bench", full, *options, "--json").out)
    assert found["scenario"] == "offline"
    assert "sweeps" not in found
    assert found["models"][0]["shape"] == [32, 3, 8, 8]
    assert "images/s" in cli("bench", full, "--duration", "0.05", "--scenario", "offline").out


@pytest.mark.parametrize("duration", ["nan", "inf", "0", "-1", "1e9", "long"])
def test_a_duration_is_a_number_of_seconds(cli, full, duration):
    code, out, err = cli("bench", full, "--duration", duration)
    assert (code, out) == (2, "")
    assert "duration" in err
