"""Anybody's ONNX model, through the command line: labels, taxonomy, preprocessing, the output to cut."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import Net
from rainbow import CLASSES, SPEC, photos, picture, rainbow

QUICK = ("--verify", "off", "--measure", "0")


@pytest.fixture
def their(tmp_path):
    """A flat network with a softmax and a second output, from nobody we know."""
    net = Net(17)
    x = net.image(3, 16, 16)
    scores = net.head(net.node("Relu", net.conv(x, 3, 8, kernel=3)), 8, 5, name="logits")
    net.result(scores, 5)
    net.result(net.node("Softmax", scores, axis=-1, out="shares"), 5)
    (tmp_path / "their.onnx").write_bytes(net.bytes())
    (tmp_path / "labels.txt").write_text('tabby\ntiger cat\n"crane, bird"\nno\n007\n')
    return tmp_path


def test_build_and_predict(cli, their, monkeypatch):
    monkeypatch.chdir(their)
    described = ("--labels", "labels.txt", "--preprocess", "imagenet", "--scores", "shares:1")
    arguments = ("--classes", "tiger cats, no, tabby", *described, "--measure", "0", "--json")
    code, out, err = cli("build", "their.onnx", *arguments)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["classes"] == ["tabby", "tiger cat", "no"]
    assert found["verification"]["verdict"] == "verified"
    assert found["bundle"] == "tiger-cat-no-tabby.expert"
    assert any("'logits' is not a class score" in note for note in found["notes"])
    code, out, _ = cli("predict", found["bundle"], picture(their / "a.png", "reds"), "--json")
    predictions = json.loads(out)[0]["predictions"]
    assert code == 0
    assert sum(item["probability"] for item in predictions) == pytest.approx(1)
    model = onnx.load(their / found["bundle"] / "expert.onnx")
    assert {o.name: o.type.tensor_type.shape.dim[1].dim_value for o in model.graph.output} == {"logits": 5, "shares": 3}
    x = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    [whole] = onnxruntime.InferenceSession(their / "their.onnx").run(["shares"], {"image": x})
    [part] = onnxruntime.InferenceSession(their / found["bundle"] / "expert.onnx").run(["shares"], {"image": x})
    np.testing.assert_allclose(part, whole[:, [0, 1, 3]] / whole[:, [0, 1, 3]].sum(), rtol=1e-4)
    described = described[:4]  # what reads the model again needs the description again
    code, _, err = cli("verify", found["bundle"], "--against", "their.onnx", *described, "--scores", "shares:1")
    assert (code, err) == (0, "")


def test_classes_and_inspect(cli, their):
    described = ("--labels", their / "labels.txt", "--scores", "logits:1")
    code, out, err = cli("classes", their / "their.onnx", *described)
    assert (code, err) == (0, "")
    names = ["tabby", "tiger cat", '"crane, bird"', "no", "007"]
    assert [line.split("  ")[0] for line in out.splitlines()[3:8]] == names
    found = json.loads(cli("inspect", their / "their.onnx", *described, "--json").out)
    assert found["classes"] == names
    assert found["preprocess"] is None


def test_taxonomy_and_preprocessing_from_files(cli, tmp_path):
    (tmp_path / "their.onnx").write_bytes(rainbow(described=False).bytes())
    (tmp_path / "tree.yaml").write_text(
        "tree:\n  warm: {reds: {index: 0}, yellows: {index: 3}}\n  cold: {greens: {index: 1}, blues: {index: 2}}\n"
    )
    (tmp_path / "p.json").write_text(json.dumps(SPEC.to_mapping()))
    described = ("--taxonomy", tmp_path / "tree.yaml", "--preprocess", tmp_path / "p.json")
    out = tmp_path / "cold.expert"
    assert cli("build", tmp_path / "their.onnx", "--classes", "cold", *described, "-o", out, *QUICK).code == 0
    folder = photos(tmp_path / "photos")
    found = json.loads(cli("evaluate", tmp_path / "their.onnx", "--data", folder, *described, "--json").out)
    assert (found["hits"], found["images"]) == (12, 12)
    found = json.loads(
        cli("evaluate", out, "--data", folder, "--against", tmp_path / "their.onnx", *described, "--json").out
    )
    assert (found["hits"], found["images"]) == (6, 6)
    assert found["agreement"]["agreed"] == 6


def test_evaluate_needs_preprocessing(cli, tmp_path):
    (tmp_path / "their.onnx").write_bytes(rainbow(described=False).bytes())
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    arguments = ("--data", photos(tmp_path / "photos"), "--labels", tmp_path / "labels.txt")
    code, _, err = cli("evaluate", tmp_path / "their.onnx", *arguments)
    assert code == 3
    assert "--preprocess" in err
