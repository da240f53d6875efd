"""``expertc build``: forms, precisions, preprocessing inside, and the same build again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from forest import forest
from rainbow import CLASSES, photos, picture

from expertc.runtime import Expert
from expertc.targets import load_target

QUICK = ("--measure", "0")
HALF = onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four branches below two."""
    path = tmp_path_factory.mktemp("tree") / "forest.onnx"
    path.write_bytes(forest("separate").bytes())
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("pictures"), each=8)


def operators(bundle: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(bundle / "expert.onnx").graph.node)


def scores(bundle: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle / "expert.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def manifest(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


def test_fused_branches_say_the_same(cli, tree, tmp_path):
    for name, form in (("apart", "off"), ("wide", "on")):
        code, text, err = cli("build", tree, "--classes", "warm,cold", "--fuse", form, "-o", tmp_path / name, *QUICK)
        assert (code, err) == (0, ""), text
        assert ("form" in text) is (form == "on")
    apart, wide = operators(tmp_path / "apart"), operators(tmp_path / "wide")
    assert (apart["Conv"], wide["Conv"]) == (15, 5)  # the trunk, and for each level of the tree and the heads one
    assert manifest(tmp_path / "wide")["forms"]["fuse"] == "grouped"
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(scores(tmp_path / "wide", x), scores(tmp_path / "apart", x), rtol=1e-5, atol=1e-6)
    assert cli("verify", tmp_path / "wide", "--against", tree)[0] == 0


def test_a_small_expert_is_not_worth_a_contest(cli, tree, tmp_path):
    code, text, _ = cli("build", tree, "--classes", "warm,cold", "-o", tmp_path / "a", "--measure", "0.02", "--json")
    assert code == 0
    assert (json.loads(text)["fuse"], json.loads(text)["contest"]) == ("off", None)


def test_a_contest_is_held_where_measuring_is_wanted(cli, tree, tmp_path, monkeypatch):
    """And the form that won is written, verified and told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("expertc.contest.FEWEST_MACS", 0)
    monkeypatch.setattr("expertc.contest._wins", lambda ratio: ratio.value != 1)  # whatever is not the plain one
    monkeypatch.setattr("expertc.contest._may_win", lambda ratio: True)
    build = ("build", tree, "--classes", "warm,cold")
    code, text, err = cli(*build, "-o", tmp_path / "a", "--measure", "0.02")
    assert (code, err) == (0, "")
    chosen = manifest(tmp_path / "a")["forms"]["fuse"]
    assert chosen in ("dense", "heads", "grouped", "batched")
    assert f"form          {chosen}, " in text
    report = json.loads((tmp_path / "a" / "report.json").read_text())["contest"]
    assert (report["chosen"], report["remembered"]) == (chosen, False)
    assert set(report["time_over_unfused"]) >= {"off", chosen}
    code, text, _ = cli(*build, "-o", tmp_path / "b", "--measure", "0.02", "--json")
    assert json.loads(text)["contest"]["remembered"] is True
    assert (tmp_path / "a" / "expert.onnx").read_bytes() == (tmp_path / "b" / "expert.onnx").read_bytes()
    code, text, _ = cli(*build, "-o", tmp_path / "c", *QUICK, "--json")
    assert json.loads(text)["contest"] is None  # measuring nothing


@pytest.mark.parametrize(
    "options",
    [
        ("--fuse", "on"), ("--fuse", "dense", "--batch", "dynamic"), ("--precision", "fp16"), ("--embed-preprocess",),
        ("--precision", "int8", "--max-drop", "40"), ("--precision", "int8", "--max-drop", "40", "--embed-preprocess"),
        ("--target", "orin-nano-8gb", "--precision", "fp16"), ("--target", "gpu"),
    ],
)  # fmt: skip
def test_an_earlier_build_is_made_again(cli, tree, pictures, tmp_path, options):
    calib = ("--calib", pictures) if "int8" in options else ()
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("build", tree, "--classes", "warm", *options, *calib, "-o", first, *QUICK)[0] == 0
    assert cli("build", tree, "--from", first, "-o", second, *QUICK)[::2] == (0, "")
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    for name in files:
        if name != "report.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    third = tmp_path / "third"
    assert cli("build", tree, "--from", first / "manifest.json", "-o", third, "--verify", "off", *QUICK)[0] == 0
    assert (third / "expert.onnx").read_bytes() == (first / "expert.onnx").read_bytes()


def test_an_earlier_build_of_another_model_is_refused(cli, tree, bundle, tmp_path):
    code, _, err = cli("build", tree, "--from", bundle, "-o", tmp_path / "a", *QUICK)
    assert code == 3
    assert "another model" in err
    code, _, err = cli("build", tree, "--from", bundle, "--classes", "reds", "-o", tmp_path / "a", *QUICK)
    assert code == 2
    assert "Leave out --classes" in err
    code, _, err = cli("build", tree, "--from", bundle, "--fuse", "on", "-o", tmp_path / "a", *QUICK)
    assert code == 2
    assert "--from says how" in err
    assert not (tmp_path / "a").exists()


def test_half_precision_keeps_its_face(cli, tree, tmp_path):
    code, text, err = cli("build", tree, "--classes", "warm", "--precision", "fp16", "-o", tmp_path / "a", *QUICK)
    assert (code, err) == (0, "")
    assert "precision     fp16" in text
    assert "fp16 takes" in text
    model = onnx.load(tmp_path / "a" / "expert.onnx")
    faces = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert set(faces) == {onnx.TensorProto.FLOAT}
    assert any(tensor.data_type == HALF for tensor in model.graph.initializer)
    about = manifest(tmp_path / "a")
    assert about["precision"] == about["conversion"]["precision"] == "fp16"
    assert about["verification"]["steps"][-1]["name"] == "precision"
    assert cli("verify", tmp_path / "a", "--against", tree)[0] == 0


def test_int8_and_what_became_of_its_accuracy(cli, tree, pictures, tmp_path):
    code, text, err = cli("build", tree, "--classes", "warm", "--precision", "int8", "--calib", pictures,
                          "--max-drop", "40", "-o", tmp_path / "a", *QUICK)  # fmt: skip
    assert (code, err) == (0, "")
    assert "int8 (" in text
    assert "times as long as fp32" in text
    assert operators(tmp_path / "a")["QuantizeLinear"] > 0
    assert cli("verify", tmp_path / "a", "--against", tree)[0] == 0
    data = json.loads((tmp_path / "a" / "report.json").read_text())["precisions"]
    assert [each["precision"] for each in data] == ["int8"]


def test_a_lowered_expert_that_was_touched_is_found_out(cli, tree, tmp_path):
    """Whoever changes a weight and every hash in the manifest still has not the conversion's bytes."""
    from hashlib import sha256

    assert cli("build", tree, "--classes", "warm", "--precision", "fp16", "-o", tmp_path / "a", *QUICK)[0] == 0
    file = tmp_path / "a" / "expert.onnx"
    model = onnx.load(file)
    tensor = next(t for t in model.graph.initializer if t.data_type == HALF)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] *= 1.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    file.write_bytes(model.SerializeToString(deterministic=True))
    about = manifest(tmp_path / "a")
    data = file.read_bytes()
    about["files"]["expert.onnx"] = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(about))
    code, _, err = cli("verify", tmp_path / "a", "--against", tree)
    assert code == 5
    assert "not what its conversion makes of it" in err


def test_auto_leaves_a_small_expert_alone(cli, tree, pictures, tmp_path):
    code, text, _ = cli("build", tree, "--classes", "warm", "--precision", "auto", "--calib", pictures,
                        "-o", tmp_path / "a", *QUICK)  # fmt: skip
    assert code == 0
    assert "too small" in text
    assert manifest(tmp_path / "a")["precision"] == "fp32"


def test_a_baked_expert_answers_as_the_other_does(cli, full, tmp_path):
    for name, options in (("plain", ()), ("baked", ("--embed-preprocess",))):
        assert cli("build", full, "--classes", "-blues", *options, "-o", tmp_path / name, *QUICK)[0] == 0
    graph = onnx.load(tmp_path / "baked" / "expert.onnx").graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 8, 8, 3]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    files = [picture(tmp_path / f"{name}.png", name) for name in CLASSES]
    plain, baked = (Expert.open(tmp_path / name).predict(files, top=3) for name in ("plain", "baked"))
    for one, other in zip(plain, baked, strict=True):
        assert [label for label, _ in one.labels] == [label for label, _ in other.labels]
        np.testing.assert_allclose([p for _, p in one.labels], [p for _, p in other.labels], atol=1e-5)
    assert cli("verify", tmp_path / "baked", "--against", full)[0] == 0


def test_a_target_that_reads_an_older_opset(cli, tree, tmp_path, monkeypatch):
    """The forest is of opset 17; a target of opset 13 gets it in those words."""
    old = replace(load_target("cpu"), facts={"max_opset": 13}, sources={"max_opset": "made up"})
    monkeypatch.setattr("expertc.compiler.load_target", lambda name: old)
    assert cli("build", tree, "--classes", "warm,cold", "--fuse", "on", "-o", tmp_path / "a", *QUICK)[0] == 0
    model = onnx.load(tmp_path / "a" / "expert.onnx")
    assert [opset.version for opset in model.opset_import] == [13]
    onnx.checker.check_model(model, full_check=True)
    assert manifest(tmp_path / "a")["forms"]["opset"] == 13
    assert cli("verify", tmp_path / "a", "--against", tree)[0] == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--fuse", "sideways"), 2, "Choose from auto, on, off"),
        (("--precision", "int4"), 2, "Choose from fp32, fp16, int8, auto"),
        (("--precision", "int8"), 2, "--calib"),
        (("--calib", "photos"), 2, "Add --precision"),
        (("--max-drop", "1"), 2, "Add --precision"),
        (("--precision", "fp16", "--max-drop", "-1"), 2, "no budget"),
        (("--precision", "fp16", "--max-drop", "nan"), 2, "no budget"),
        (("--precision", "int8", "--calib", "nowhere"), 10, "nowhere"),
    ],
)
def test_what_cannot_be(cli, tree, tmp_path, options, code, said):
    found = cli("build", tree, "--classes", "warm", *options, "-o", tmp_path / "a", *QUICK)
    assert found.code == code
    assert said in found.err
    assert not (tmp_path / "a").exists()


def test_a_model_in_half_precision_is_not_converted_again(cli, tree, tmp_path):
    assert cli("build", tree, "--classes", "warm,cold", "--precision", "fp16", "-o", tmp_path / "a", *QUICK)[0] == 0
    again = tmp_path / "a" / "expert.onnx"
    found = cli("build", again, "--classes", "warm", "--precision", "fp16", "-o", tmp_path / "b", *QUICK)
    assert found.code == 2
    assert "half precision or quantised already" in found.err
