"""``classes``, ``inspect``, ``diff``, ``targets``, ``doctor``: looking without changing anything."""

from __future__ import annotations

import json

import pytest
from rainbow import CLASSES, SPEC, rainbow

from expertc.source import BUNDLED

bundled = pytest.mark.skipif(not BUNDLED.is_file(), reason="the trained model is not in this checkout")


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80 and all(line == line.rstrip() for line in text.splitlines())


# -- classes -----------------------------------------------------------------------------------------------------------


def test_classes_is_a_tree_with_costs(cli, full):
    code, out, err = cli("classes", full)
    assert (code, err) == (0, "")
    assert fits(out)
    lines = out.splitlines()
    assert lines[0].split() == ["rainbow", "index", "parameters", "MACs"]
    # MACs by hand: trunk 9 weights at 64 pixels, a branch 6 weights at 64, a head 2
    assert [line.split() for line in lines[2:]] == [
        ["(trunk)", "9", "576"],
        ["warm", "6", "384"],
        ["reds", "(Red", "Things)", "0", "3", "2"],
        ["yellows", "3", "3", "2"],
        ["cold", "6", "384"],
        ["greens", "1", "3", "2"],
        ["blues", "2", "3", "2"],
    ]
    assert [len(line) - len(line.lstrip()) for line in lines[2:]] == [0, 0, 2, 2, 0, 2, 2]


def test_classes_as_json(cli, full):
    found = json.loads(cli("classes", full, "--json").out)
    assert found["name"] == "rainbow"
    assert found["trunk"]["parameters"] == 9
    assert found["shared"] == []
    warm, cold = found["tree"]
    assert (warm["name"], warm["parameters"], warm["macs"]) == ("warm", 6, 384)
    assert [child["index"] for child in warm["children"] + cold["children"]] == [0, 3, 1, 2]
    assert warm["children"][0]["label"] == "Red Things"


def test_classes_of_a_bundle(cli, bundle):
    """Of the classes that are left, warm is everything, so it is the trunk."""
    lines = cli("classes", bundle).out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["(trunk)", "warm", "reds", "yellows"]
    assert lines[2].split()[1] == "15"


def test_classes_of_the_bundled_model(cli):
    code, out, _ = cli("classes")
    assert code == 0
    assert fits(out)
    assert "cartilaginous-fishes" in out


# -- inspect -----------------------------------------------------------------------------------------------------------


def test_inspect_a_model(cli, full):
    code, out, err = cli("inspect", full, "--explain")
    assert (code, err) == (0, "")
    assert fits(out)
    for words in ("rainbow.onnx", "4: reds, greens, blues, yellows", "image [batch x 3 x 8 x 8]",
                  "'scores', logits, one per class along axis 1", "mean [0.0, 0.0, 0.0]", "Made up, for tests.",
                  "origin: tests", "opset 17", "kept whole  nothing"):  # fmt: skip
        assert words in out
    table = [line.split() for line in out.splitlines()]
    assert ["all", "33", "1,352", "132", "B"] in table
    assert ["warm", "2", "6", "384", "24", "B"] in table


def test_inspect_a_model_as_json(cli, full):
    found = json.loads(cli("inspect", full, "--json", "--explain").out)
    assert found["classes"] == list(CLASSES)
    assert found["inputs"] == {"image": ["batch", 3, 8, 8]}
    assert found["outputs"] == [{"name": "scores", "kind": "logits", "axis": 1}]
    assert (found["parameters"], found["macs"], found["weight_bytes"]) == (33, 1352, 132)
    assert found["trunk"]["parameters"] + sum(branch["parameters"] for branch in found["branches"]) == 33
    assert {branch["name"] for branch in found["branches"]} == {"warm", "cold", *CLASSES}
    assert found["preprocess"] == SPEC.to_mapping()
    assert found["kept_whole"] == {}


def test_inspect_says_what_was_kept_whole(cli, tmp_path):
    """No rule says what part of its input a part of Trilu's output needs."""
    net = rainbow()
    net.outputs.clear()
    net.node("Mul", "scores", net.node("Trilu", "scores", upper=0), out="weighted")
    net.result("weighted", len(CLASSES))
    net.metadata["expertc.card"] = net.metadata["expertc.card"].replace('"name":"scores"', '"name":"weighted"')
    (tmp_path / "full.onnx").write_bytes(net.bytes())
    out = cli("inspect", tmp_path / "full.onnx", "--explain").out
    assert "kept whole  once: " in out


def test_inspect_a_bundle(cli, bundle):
    code, out, err = cli("inspect", bundle, "--explain")
    assert (code, err) == (0, "")
    assert fits(out)
    for words in ("2 of 4: reds, yellows", "cpu, fp32", "image [1 x 3 x 8 x 8]", "passed; 3 of 3 steps",
                  "expert.onnx, ", "onnxruntime", "Made up, for tests.", "kept whole  nothing"):  # fmt: skip
        assert words in out
    assert ["parameters", "33", "21", "-36.4", "%"] in [line.split() for line in out.splitlines()]


def test_inspect_a_bundle_as_json(cli, bundle):
    found = json.loads(cli("inspect", bundle, "--json").out)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert found["selection"] == manifest["selection"]
    assert found["costs"] == manifest["costs"]
    assert found["source"]["kept_tensors"] == len(manifest["source"]["kept_tensors"])
    assert found["files"] == manifest["files"]


def test_inspect_without_preprocessing(cli, tmp_path):
    (tmp_path / "full.onnx").write_bytes(rainbow(spec=None).bytes())
    assert "not known" in cli("inspect", tmp_path / "full.onnx").out


@bundled
def test_inspect_the_bundled_model(cli):
    code, out, _ = cli("inspect")
    assert code == 0
    assert fits(out)
    assert "more, no larger" in out


def test_inspect_an_architecture(cli):
    torch = pytest.importorskip("torch", reason="needs the train extra")
    code, out, err = cli("inspect", "--arch", "nhl_efficientnet_lite0", "--classes-count", "23", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["classes"] == 23
    from expertc.zoo import import_timm

    with torch.device("meta"):
        network = import_timm().create_model("nhl_efficientnet_lite0", num_classes=23)
    assert found["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    # torchvision's published figures
    out = cli("inspect", "--arch", "resnet50", "--classes-count", "1000").out
    assert "25,557,032" in out
    assert "4,089,184,256" in out


@pytest.mark.parametrize(
    "arguments", [("--arch", "resnet50"), ("--classes-count", "3"), ("x.onnx", "--arch", "a", "--classes-count", "3")]
)
def test_inspect_options_that_do_not_go_together(cli, arguments):
    code, out, err = cli("inspect", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: --arch")


def test_inspect_an_unknown_architecture(cli):
    pytest.importorskip("torch", reason="needs the train extra")
    code, _, err = cli("inspect", "--arch", "resnet5000", "--classes-count", "3")
    assert code == 2
    assert "resnet50" in err


# -- diff --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def other(cli, full, tmp_path):
    path = tmp_path / "other.expert"
    assert cli("build", full, "--classes", "yellows,blues", "-o", path, "--verify", "off", "--measure", "0").code == 0
    return path


def test_diff(cli, bundle, other):
    code, out, err = cli("diff", bundle, other)
    assert (code, err) == (0, "")
    assert fits(out)
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["warm.expert", "other.expert"]
    assert ["parameters", "21", "21"] not in lines  # equal: 9 + 6 + 2 * 3 against 9 + 3 + 3 + 2 * 3
    assert ["verification", "verified", "off"] in lines
    assert "classes in both     yellows" in out
    assert "only in the first   reds" in out


def test_diff_as_json(cli, bundle, other):
    found = json.loads(cli("diff", bundle, other, "--json").out)
    assert found["classes"] == {"both": ["yellows"], "only_first": ["reds"], "only_second": ["blues"]}
    assert found["differences"]["verification"] == ["verified", "off"]
    weights = found["weights"]
    manifests = [json.loads((path / "manifest.json").read_text())["source"]["kept_tensors"] for path in (bundle, other)]
    assert weights["same"] + weights["changed"] + weights["only_first"] == len(manifests[0])
    assert weights["same"] + weights["changed"] + weights["only_second"] == len(manifests[1])


def test_diff_with_itself(cli, bundle):
    code, out, _ = cli("diff", bundle, bundle)
    assert code == 0
    assert out.startswith("The bundles say the same about themselves.")


# -- targets, doctor ---------------------------------------------------------------------------------------------------


def test_targets(cli):
    code, out, _ = cli("targets")
    assert code == 0
    assert fits(out)
    assert {"cpu", "orin-nano-8gb"} <= {line.split()[0] for line in out.splitlines() if line}
    assert {"cpu", "orin-nano-8gb"} <= {target["name"] for target in json.loads(cli("targets", "--json").out)}


def test_a_target_gives_its_sources(cli):
    code, out, _ = cli("targets", "orin-nano-8gb")
    assert code == 0
    assert fits(out)
    found = json.loads(cli("targets", "orin-nano-8gb", "--json").out)
    for key, source in found["sources"].items():
        assert key in out
        assert " ".join(source.split()) in " ".join(out.split())


@bundled
def test_doctor(cli):
    code, out, err = cli("doctor", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["self-test"].startswith("ok")
    import numpy

    assert found["numpy"] == numpy.__version__


def test_doctor_ends_with_the_code_of_what_failed(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("expertc.source.BUNDLED", tmp_path / "missing.onnx")
    code, out, _ = cli("doctor")
    assert code == 3
    assert "self-test" in out
    assert "FAILED: The model" in out
