"""``expertc build`` where everything is as it should be; what is wrong is in test_bad_input."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from rainbow import LICENCE, SPEC, photos, picture, rainbow, tree

from expertc.runtime.images import load_image
from expertc.runtime.preprocess import apply

QUICK = ("--verify", "off", "--measure", "0")


def test_the_table_and_the_next_command(cli, full, tmp_path):
    out = tmp_path / "warm.expert"
    code, text, err = cli("build", full, "--classes", "warm", "-o", out, "--measure", "0.05")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0].split() == ["full", "model", "expert", "change"]
    rows = {line.split("  ")[0]: line for line in lines[2 : lines.index("")]}
    assert rows["classes"].split()[1:] == ["4", "2"]
    assert rows["branches"].split()[1:] == ["6", "3"]  # warm, reds, yellows
    assert rows["parameters"].split()[1:] == ["33", "21", "-36.4", "%"]  # 9 + 2 * 6 + 4 * 3 and 9 + 6 + 2 * 3
    assert rows["latency"].split()[-1] in ("faster", "slower", "fast")
    assert "verification  passed; 3 of 3 steps on 8 noise images (fast)" in lines
    assert f"bundle: {out}" in lines
    assert lines[-1] == f"next:   expertc predict {out} photo.jpg"
    assert max(len(line) for line in lines if str(out) not in line) <= 80


def test_json(cli, full, tmp_path):
    code, text, err = cli("build", full, "--classes", "warm", "-o", tmp_path / "a.expert", *QUICK, "--json")
    found = json.loads(text)
    assert (code, err) == (0, "")
    assert found["bundle"] == str(tmp_path / "a.expert")
    assert found["classes"] == ["reds", "yellows"]
    assert found["full"]["cost"]["parameters"] == 33
    assert found["expert"]["classes"] == 2
    assert found["verification"]["verdict"] == "off"
    assert found["timing"] is None


def test_quiet_prints_the_bundle_alone(cli, full, tmp_path):
    assert cli("build", full, "--classes", "reds", "-o", tmp_path / "a.expert", *QUICK, "-q") == (
        0,
        f"{tmp_path / 'a.expert'}\n",
        "",
    )


def test_an_odd_path_is_printed_as_it_is(cli, full, tmp_path):
    """A script takes it from there, or somebody copies the next command."""
    out = tmp_path / "two  spaces; [/].expert"
    (tmp_path / "two  spaces; [").mkdir()
    assert cli("build", full, "--classes", "reds", "-o", out, *QUICK, "-q").out == f"{out}\n"
    text = cli("build", full, "--classes", "reds", "-o", out, *QUICK, "--force").out
    assert shlex.split(text.splitlines()[-1])[1:] == ["expertc", "predict", str(out), "photo.jpg"]


def test_the_default_name_is_the_classes_as_asked(cli, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("build", full, "--classes", "yellows,reds", *QUICK).code == 0
    assert cli("build", full, "--classes", "#0-3", *QUICK).code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[1] == "yellows-reds.expert"
    assert names[0].startswith("4-classes-")


def test_what_is_in_the_bundle(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.txt", "expert.onnx", "golden.npz", "labels.txt", "manifest.json", "preprocess.json", "report.json",
    ]  # fmt: skip
    assert (bundle / "labels.txt").read_text() == "reds\nyellows\n"
    assert json.loads((bundle / "preprocess.json").read_text()) == SPEC.to_mapping()
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["selection"] == {"indices": [0, 3], "classes": ["reds", "yellows"], "of": 4}
    assert manifest["input"] == {"name": "image", "shape": [1, 3, 8, 8]}
    assert manifest["forms"] == {
        "passes": manifest["forms"]["passes"], "fuse": "off", "batch": 1, "embed": False, "bake": False, "opset": None,
        "strength": True, "exits": "plain",
    }  # fmt: skip
    assert manifest["verification"]["verdict"] == "verified"
    assert manifest["weights_licence"] == LICENCE
    report = json.loads((bundle / "report.json").read_text())
    assert report["requested"] == "warm"
    assert set(report["seconds"]) >= {"cut", "finish", "verify", "measure"}
    assert report["timing"]["speedup"]["value"] > 0
    model = onnx.load(bundle / "expert.onnx")
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]


SPECS = {
    "usual": SPEC,
    "odd": replace(SPEC, resize=11, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)),
    "squashed": replace(SPEC, resize=(9, 13)),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("batch", ["1", "2", "dynamic"])
def test_the_readme_of_a_bundle_runs(cli, tmp_path, monkeypatch, spec, batch):
    """Its snippet for ONNX Runtime alone, as it stands there, makes the same input and names the class."""
    (tmp_path / "full.onnx").write_bytes(rainbow(spec=spec).bytes())
    bundle = tmp_path / "a.expert"
    assert cli("build", tmp_path / "full.onnx", "--classes", "warm", "-o", bundle, *QUICK, "--batch", batch).code == 0
    text = (bundle / "README.txt").read_text()
    assert LICENCE in text
    snippet = text.partition("With ONNX Runtime alone")[2].partition("\n")[2].partition("With TensorRT")[0]
    for file in ("expert.onnx", "labels.txt"):
        (tmp_path / file).write_bytes((bundle / file).read_bytes())
    noise = np.random.default_rng(0).integers(0, 60, (13, 21, 3), dtype=np.uint8)
    Image.fromarray(noise + np.array([190, 190, 0], np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    printed: list[object] = []
    names = {"print": printed.append}
    exec(compile("\n".join(line[2:] for line in snippet.splitlines()), "README.txt", "exec"), names)
    assert printed == ["yellows"]
    np.testing.assert_allclose(names["x"][0], apply(load_image("photo.jpg"), spec), atol=1e-6)


@pytest.mark.parametrize(("batch", "shape"), [("3", [3, 3, 8, 8]), ("dynamic", ["batch", 3, 8, 8])])
def test_batch(cli, full, tmp_path, batch, shape):
    """The expert takes what was asked for, is measured on it, and answers as the full model does."""
    out = tmp_path / "b.expert"
    arguments = ("--batch", batch, "--verify", "off", "--measure", "0.02", "--json")
    code, text, _ = cli("build", full, "--classes", "cold", "-o", out, *arguments)
    assert code == 0
    assert json.loads(text)["timing"]["expert"] > 0
    assert json.loads((out / "manifest.json").read_text())["input"]["shape"] == shape
    session = onnxruntime.InferenceSession(out / "expert.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == shape
    x = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
    whole = onnxruntime.InferenceSession(full, providers=["CPUExecutionProvider"]).run(None, {"image": x})[0]
    np.testing.assert_allclose(session.run(None, {"image": x})[0], whole[:, [1, 2]], rtol=1e-5, atol=1e-6)


def test_a_model_with_a_batch_of_its_own_keeps_it(cli, tmp_path):
    (tmp_path / "four.onnx").write_bytes(rainbow(batch=4).bytes())
    out = tmp_path / "a.expert"
    assert cli("build", tmp_path / "four.onnx", "--classes", "warm", "-o", out, "--measure", "0.02").code == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["forms"]["batch"] == 4
    assert manifest["input"]["shape"] == [4, 3, 8, 8]
    pictures = photos(tmp_path / "photos", ("reds", "yellows"))
    found = json.loads(cli("predict", out, pictures, "--json").out)
    assert [item["predictions"][0]["label"] for item in found] == ["reds"] * 3 + ["yellows"] * 3


def test_verified_on_photos(cli, full, tmp_path):
    pictures = photos(tmp_path / "photos")
    arguments = ("--data", pictures, "--measure", "0", "--json", "--verify", "full")
    code, text, _ = cli("build", full, "--classes", "warm", "-o", tmp_path / "a.expert", *arguments)
    certificate = json.loads(text)["verification"]
    assert code == 0
    assert (certificate["verdict"], certificate["level"]) == ("verified", "full")
    assert certificate["inputs"]["kind"] == "images"
    assert certificate["inputs"]["count"] == 12
    assert [step["name"] for step in certificate["steps"]][-1] == "decisions"


def test_force_replaces_a_bundle(cli, full, tmp_path):
    out = tmp_path / "a.expert"
    assert cli("build", full, "--classes", "reds", "-o", out, *QUICK).code == 0
    assert cli("build", full, "--classes", "cold", "-o", out, *QUICK, "--force").code == 0
    assert (out / "labels.txt").read_text() == "greens\nblues\n"
    assert list(tmp_path.iterdir()) == [out]


def test_every_class_may_be_selected_and_that_is_said(cli, full, tmp_path):
    code, text, _ = cli("build", full, "--classes", "warm,cold", "-o", tmp_path / "a.expert", *QUICK)
    assert code == 0
    assert "Every class is selected, so nothing was cut away." in text
    assert (tmp_path / "a.expert" / "labels.txt").read_text().split() == ["reds", "greens", "blues", "yellows"]


def test_one_class_may_be_selected_and_gives_its_raw_score(cli, full, tmp_path):
    code, text, _ = cli("build", full, "--classes", "reds", "-o", tmp_path / "a.expert", *QUICK)
    assert code == 0
    assert "A single class cannot be told from others" in " ".join(text.split())
    photo = picture(tmp_path / "a.png", "reds")
    code, text, _ = cli("predict", tmp_path / "a.expert", photo)
    assert (code, text) == (0, f"{photo}: reds (raw score 8.1750)\n")  # 8 * 1 + 0.25 * 0.7, by hand
    found = json.loads(cli("predict", tmp_path / "a.expert", photo, "--json").out)
    assert found[0]["predictions"] == [{"label": "reds", "score": pytest.approx(8.175)}]


def test_a_softmax_is_renormalised_over_the_selection(cli, tmp_path):
    (tmp_path / "full.onnx").write_bytes(rainbow(end="Softmax", kind="probabilities").bytes())
    arguments = ("--classes", "greens,yellows", "-o", tmp_path / "a.expert", "--measure", "0", "--json")
    code, text, _ = cli("build", tmp_path / "full.onnx", *arguments)
    assert (code, json.loads(text)["verification"]["verdict"]) == (0, "verified")
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    sessions = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (tmp_path / "full.onnx", tmp_path / "a.expert" / "expert.onnx")
    ]
    whole, part = (session.run(None, {"image": x})[0] for session in sessions)
    np.testing.assert_allclose(part, whole[:, [1, 3]] / whole[:, [1, 3]].sum(), rtol=1e-5)
    assert json.loads((tmp_path / "a.expert" / "manifest.json").read_text())["renormalised"] is True


def test_an_index_output_is_cut_before_the_index(cli, tmp_path):
    """ArgMax over the scores, no card: the expert gives the scores, and that is said."""
    net = rainbow(described=False)
    net.outputs.clear()
    net.node("ArgMax", "scores", out="best", axis=1, keepdims=0)
    net.result("best", dtype=onnx.TensorProto.INT64)
    (tmp_path / "full.onnx").write_bytes(net.bytes())
    (tmp_path / "labels.txt").write_text("reds\ngreens\nblues\nyellows\n")
    arguments = ("--labels", tmp_path / "labels.txt", "--classes", "reds,blues", "-o", tmp_path / "a.expert", *QUICK)
    code, text, err = cli("build", tmp_path / "full.onnx", *arguments)
    assert (code, err) == (0, "")
    assert "was an index of a class; the expert gives the scores" in " ".join(text.split())


def test_a_bundle_can_be_cut_further(cli, bundle, tmp_path):
    assert cli("build", bundle, "--classes", "yellows", "-o", tmp_path / "y.expert", *QUICK).code == 0
    manifest = json.loads((tmp_path / "y.expert" / "manifest.json").read_text())
    assert manifest["selection"] == {"indices": [1], "classes": ["yellows"], "of": 2}


def test_progress_is_told(full, tmp_path):
    from expertc import build

    heard: list[str] = []
    options = {"output": tmp_path / "a.expert", "verification": "off", "measure_seconds": 0}
    build(full, classes=["reds", "blues"], progress=heard.append, **options)
    assert heard == ["read", "cut", "finish", "verify", "write"]
    assert set(tree(tmp_path / "a.expert")) >= {"expert.onnx", "manifest.json"}
