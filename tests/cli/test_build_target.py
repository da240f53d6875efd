"""``expertc build --target``: for a device that is not here. Nothing is measured, everything else is done."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from forest import forest
from networks import Net
from rainbow import card, photos

from expertc.backends.tensorrt import library
from expertc.card import CARD_KEY
from expertc.contest import FEWEST_SIBLINGS
from expertc.errors import UnsupportedError
from expertc.graph import read_model
from expertc.lint import lint
from expertc.targets import load_target
from expertc.trtexec import GENERATIONS


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four branches below two."""
    path = tmp_path_factory.mktemp("tree") / "forest.onnx"
    path.write_bytes(forest("separate").bytes())
    return path


def read(bundle: Path, name: str) -> dict:
    return json.loads((bundle / name).read_text())


def test_what_can_be_done_without_the_device(cli, tree: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("build", tree, "--classes", "warm,cold", "--target", "orin-nano-8gb", "-o", "a")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    told = " ".join(out.split())
    assert "latency" not in told
    assert "fused by rule" in told
    assert "not measured" in told
    assert "the device has 8,192 MB" in told
    assert told.endswith("next, on the device: expertc compile a")
    manifest, report = read(tmp_path / "a", "manifest.json"), read(tmp_path / "a", "report.json")
    assert (manifest["target"], manifest["forms"]["fuse"], manifest["forms"]["opset"]) == (
        "orin-nano-8gb",
        "grouped",
        17,
    )
    assert manifest["verification"]["verdict"] == "verified"
    assert (report["timing"], report["contest"], report["precisions"]) == (None, None, [])
    assert {finding["level"] for finding in report["lint"]} == {"note"}
    assert cli("verify", tmp_path / "a", "--against", tree)[0] == 0
    arguments = ("--target", "orin-nano-8gb", "--fuse", "off", "--verify", "off", "-o", "b", "--json")
    found = json.loads(cli("build", tree, "--classes", "warm", *arguments).out)
    assert (found["target"], found["fuse"], found["timing"]) == ("orin-nano-8gb", "off", None)
    assert found["findings"] == read(tmp_path / "b", "report.json")["lint"]


@pytest.mark.parametrize(("release", "opset"), [(None, 17), ("8.6.1", 17), ("10.3.0", 20), ("10.13.3", 24)])
def test_a_gpu_that_is_here_says_which_opset_it_reads(
    cli, full: Path, tmp_path: Path, monkeypatch, release: str | None, opset: int
) -> None:
    """Without one, the oldest TensorRT has to do."""

    def load() -> SimpleNamespace:
        if release is None:
            raise UnsupportedError("No TensorRT.", "")
        return SimpleNamespace(__version__=release)

    monkeypatch.setattr(library, "load", load)
    arguments = ("--classes", "warm", "--verify", "off", "-o", tmp_path / "a")
    assert cli("build", full, *arguments, "--target", "gpu").code == 0
    assert read(tmp_path / "a", "manifest.json")["forms"]["opset"] == opset
    guessed = [finding for finding in read(tmp_path / "a", "report.json")["lint"] if "8.5 is taken" in finding["why"]]
    assert len(guessed) == (release is None)


def test_few_branches_stay_apart(cli, full: Path, tmp_path: Path) -> None:
    assert FEWEST_SIBLINGS > 2
    code, out, _ = cli("build", full, "--classes", "warm", "--target", "gpu", "-o", tmp_path / "a")
    assert (code, "by rule" in out) == (0, False)
    assert read(tmp_path / "a", "manifest.json")["forms"]["fuse"] == "off"


@pytest.mark.parametrize("precision", ["fp16", "int8", "auto"])
def test_precisions_run_on_the_processor_too(cli, full: Path, tmp_path: Path, precision: str) -> None:
    """Which is how they are verified: TensorRT's int8 is symmetric, and reads no other."""
    pictures = photos(tmp_path / "photos", each=8)
    code, out, err = cli("build", full, "--classes", "warm,cold", "--target", "orin-nano-8gb", "--precision", precision,
                         "--calib", pictures, "--max-drop", "50", "-o", tmp_path / "a")  # fmt: skip
    assert code == 0, err
    assert "times as long" not in out
    manifest = read(tmp_path / "a", "manifest.json")
    assert read(tmp_path / "a", "report.json")["precisions"] == []
    model = onnx.load(tmp_path / "a" / "expert.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    if manifest["precision"] == "int8":
        assert onnx.TensorProto.UINT8 not in kinds
        assert manifest["conversion"]["flavour"] == "tensorrt"
    assert not [f for f in lint(read_model(tmp_path / "a" / "expert.onnx"), load_target("orin-nano-8gb"))
                if f.level != "note"]  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "a" / "expert.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    assert np.isfinite(session.run(None, {"image": x})[0]).all()
    if precision != "auto":
        assert manifest["precision"] == precision


def test_a_refusal_names_operator_and_branch(cli, tmp_path: Path) -> None:
    """A branch that ends in what TensorRT 8.6 would miscompile without a word."""
    net = Net(17)
    image = net.image(3, 8, 8)
    heads = []
    for name in ("reds", "greens", "blues", "yellows"):
        maps = net.conv(image, 3, 2)
        if name == "blues":
            net.node("ScatterND", maps, net.constant([[0]]), net.constant(np.ones((1, 2, 8, 8), np.float32)),
                     reduction="add", out="scattered")  # fmt: skip
            maps = "scattered"
        heads.append(net.head(net.node("Flatten", net.node("GlobalAveragePool", maps), axis=1), 2, 1))
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 4)
    net.metadata = {CARD_KEY: card().to_json()}
    (tmp_path / "full.onnx").write_bytes(net.bytes())
    arguments = ("build", tmp_path / "full.onnx", "-o", tmp_path / "a", "--verify", "off", "--target")
    code, out, err = cli(*arguments, "orin-nano-8gb", "--classes", "reds,blues")
    assert (code, out) == (4, "")
    assert "ScatterND 'ScatterND:scattered' of the branch 'blues'" in " ".join(err.split())
    assert not (tmp_path / "a").exists()
    assert cli(*arguments, "orin-nano-8gb", "--classes", "reds,greens").code == 0  # it left with its branch


# What ``trtexec --help`` of each release lists, of what we write; from the migration guides of TensorRT 10 and 11
# (docs.nvidia.com) and the tool's sources.
FLAGS = {
    "8.5": "onnx saveEngine fp16 int8 noTF32 memPoolSize minShapes optShapes maxShapes buildOnly",
    "8.6": "onnx saveEngine fp16 int8 noTF32 memPoolSize minShapes optShapes maxShapes buildOnly skipInference",
    "10.x": "onnx saveEngine fp16 int8 noTF32 memPoolSize minShapes optShapes maxShapes skipInference stronglyTyped",
    "11.x": "onnx saveEngine noTF32 memPoolSize minShapes optShapes maxShapes skipInference stronglyTyped",
}


@pytest.mark.parametrize(
    ("target", "generations"),
    [("xavier-nx", {"8.5"}), ("orin-nano-8gb", {"8.6", "10.x"}), ("thor-t5000", {"10.x"}), ("gpu", set(FLAGS))],
)
def test_the_readme_has_the_line_of_each_tensorrt(
    cli, full: Path, tmp_path: Path, target: str, generations: set[str]
) -> None:
    import shlex

    assert {each.name for each in GENERATIONS} == FLAGS.keys()
    options = ("--target", target, "--precision", "fp16", "--batch", "dynamic", "--verify", "off")
    assert cli("build", full, "--classes", "warm", *options, "-o", tmp_path / "a").code == 0
    text = (tmp_path / "a" / "README.txt").read_text()
    assert ("expertc compile DIRECTORY" in text) is (target != "xavier-nx")  # whose JetPack has Python 3.8
    assert max(map(len, text.partition("With TensorRT, on")[2].splitlines())) <= 80
    found = {}
    for part in text.split("  TensorRT ")[1:]:
        name, _, line = part.partition("\n")
        found[name] = shlex.split(line.replace("\\\n", " "))
    for name, words in found.items():
        assert words[0] == "trtexec"
        assert {word.partition("=")[0].removeprefix("--") for word in words[1:]} <= set(FLAGS[name].split())
        assert "--optShapes=image:1x3x8x8" in words
        assert ("--fp16" in words) is name.startswith("8")
    newest = load_target(target).facts.get("tensorrt_max")
    assert generations <= found.keys() if newest is None else generations == found.keys()


def test_names_of_tensors_in_a_command(cli, tmp_path: Path, full: Path) -> None:
    from expertc.trtexec import command

    line = command(GENERATIONS[0], load_target("gpu"), "fp32", "a b'; rm -rf / #\x1b", ("n", 3, 8, 8))
    import shlex

    assert [word for word in shlex.split(line) if "rm" in word] == [
        f"--{limit}Shapes=a b'; rm -rf / #:{size}x3x8x8" for limit, size in (("min", 1), ("opt", 1), ("max", 8))
    ]
