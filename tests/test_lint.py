"""The lint: a small network per rule, held against the release that has it and one that has not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import Net, card
from onnx import TensorProto, helper

import expertc.lint
from expertc.backends.cpu import open_session
from expertc.card import Card
from expertc.errors import ExitCode, UnsupportedError
from expertc.graph import Model, read_model
from expertc.lint import NOTE, REFUSAL, WARNING, ceiling, footprint, lint, refuse
from expertc.observe import observe
from expertc.source import BUNDLED, open_source
from expertc.surgery.half import Half
from expertc.surgery.lower import Lower
from expertc.surgery.quantise import ONNXRUNTIME, TENSORRT, Quantise
from expertc.targets import Target, list_targets, load_target
from expertc.taxonomy import Taxonomy

OLD, NEW, UNKNOWN = (8, 6), (10, 1), (10, 13)
BOARD = Target("board", "tensorrt", "A board", ("fp32", "fp16", "int8"), {"memory_mb": 64}, {})


def said(model: Model, release: tuple[int, ...], level: str) -> list[str]:
    """The findings of a level about nodes."""
    return [str(each) for each in lint(model, BOARD, release=release) if each.level == level and each.operator]


def model_of(net: Net) -> Model:
    return read_model(net.bytes())


def one(
    op: str, *more: object, opset: int = 17, outputs: int = 1, shape: Sequence[int] = (4, 6, 6), **attributes: object
):
    """A network of one operator, which reads an image and then constants, or computed numbers where they are None."""
    net = Net(opset, batch=2)
    image = net.image(*shape)
    inputs = [image]
    for value in more:
        if isinstance(value, str):
            inputs.append(value)
        elif value is None:
            net.inputs.append(helper.make_tensor_value_info("computed", TensorProto.INT64, [1]))
            inputs.append("computed")
        else:
            inputs.append(net.constant(value))
    made = net.node(op, *inputs, out=[net.fresh("made") for _ in range(outputs)], **attributes)
    proto = net.model(check=False)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    for value in proto.graph.output:
        value.type.tensor_type.shape.SetInParent()  # there has to be one, and of some it cannot be told
    return read_model(proto.SerializeToString())


# The model, words of the finding, and its level with TensorRT 8.6, 10.1 and 10.13 ("" for none).
RULES: dict[str, tuple[Callable[[], Model], str, str, str, str]] = {
    "mean over axes that are an input": (
        lambda: one("ReduceMean", [2, 3], opset=18), "axes are an input", REFUSAL, "", "",
    ),
    "maximum over axes that are an input": (
        lambda: one("ReduceMax", [2, 3], opset=18), "axes are an input", REFUSAL, "", "",
    ),
    "mean over axes that are an attribute": (lambda: one("ReduceMean", axes=[2, 3]), "axes", "", "", ""),
    "mean over everything": (lambda: one("ReduceMean", opset=18), "axes", "", "", ""),
    "mean over nothing": (
        lambda: one("ReduceMean", opset=18, noop_with_empty_axes=1), "it does nothing", REFUSAL, "", "",
    ),
    "sum over axes that are an input": (lambda: one("ReduceSum", [2, 3]), "axes", "", "", ""),
    "computed axes": (lambda: one("ReduceSum", None), "axes are computed", "", REFUSAL, WARNING),
    "computed axes of a slice": (
        lambda: one("Slice", [0], [1], None), "axes are computed", REFUSAL, REFUSAL, WARNING,
    ),
    "scatter that adds": (
        lambda: one("ScatterND", [[0]], np.ones((1, 4, 6, 6), np.float32), reduction="add"),
        "reduction 'add'", REFUSAL, REFUSAL, WARNING,
    ),
    "scatter that overwrites": (
        lambda: one("ScatterND", [[0]], np.ones((1, 4, 6, 6), np.float32)), "reduction", "", "", "",
    ),
    "uint8": (
        lambda: one("QuantizeLinear", 0.1, np.array(0, np.uint8)), "zero point is uint8", REFUSAL, REFUSAL, REFUSAL,
    ),
    "zero point": (
        lambda: one("QuantizeLinear", 0.1, np.array(3, np.int8)), "zero point is not 0", REFUSAL, REFUSAL, REFUSAL,
    ),
    "symmetric": (lambda: one("QuantizeLinear", 0.1, np.array(0, np.int8)), "zero point", "", "", ""),
    "half": (lambda: one("Cast", to=TensorProto.FLOAT16), "fp16", "", "", ""),
    "operator of ORT": (lambda: one("DynamicQuantizeLinear", outputs=3), "does not read", REFUSAL, REFUSAL, WARNING),
    "newer operator": (lambda: one("Gelu", opset=20), "does not read", REFUSAL, "", ""),
    "operator that none reads": (lambda: one("Det", shape=(6, 6)), "does not read", REFUSAL, REFUSAL, WARNING),
    "indices of a pool": (
        lambda: one("MaxPool", outputs=2, kernel_shape=[2, 2]), "only its first output", REFUSAL, REFUSAL, WARNING,
    ),
    "dilated pool": (
        lambda: one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "dilations", "", REFUSAL, WARNING,
    ),
    "pool of a line": (
        lambda: one("MaxPool", shape=(4, 6), kernel_shape=[2]), "other than pictures", REFUSAL, REFUSAL, WARNING,
    ),
    "cubic": (
        lambda: one("Resize", "", [1.0, 1, 2, 2], mode="cubic"), "mode 'cubic'", REFUSAL, REFUSAL, WARNING,
    ),
    "ellipsis": (
        lambda: one("Einsum", np.ones((6, 2), np.float32), equation="...i,ij->...j"), "ellipsis",
        REFUSAL, REFUSAL, WARNING,
    ),
    "diagonal": (lambda: one("Einsum", equation="bcii->bci"), "diagonal", REFUSAL, REFUSAL, WARNING),
    "unsorted": (lambda: one("TopK", [1], outputs=2, sorted=0), "not sorted", "", REFUSAL, WARNING),
    "64 bits out": (lambda: one("ArgMax", axis=1), "has 64 bits here", NOTE, "", ""),
    "64 bits in": (lambda: one("Pow", [2**40]), "more than 32 bits", WARNING, "", ""),
    "to the end": (lambda: one("Slice", [0], [2**63 - 1], [1]), "more than 32 bits", "", "", ""),
    "double": (lambda: one("Cast", to=TensorProto.DOUBLE), "double precision", WARNING, WARNING, WARNING),
    "type": (lambda: one("Cast", to=TensorProto.UINT16), "give uint16", WARNING, WARNING, WARNING),
    "recurrent": (
        lambda: one("OneHot", [2], [0.0, 1.0], shape=(3,)), "not checked here", NOTE, NOTE, NOTE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_rule(rule: str) -> None:
    make, words, *expected = RULES[rule]
    model = make()
    for release, level in zip((OLD, NEW, UNKNOWN), expected, strict=True):
        for each in (REFUSAL, WARNING, NOTE):
            found = [line for line in said(model, release, each) if words in line]
            assert bool(found) == (each == level), (release, each, said(model, release, each))


def test_a_convolution_says_its_kernel() -> None:
    net = Net(17, batch=1)
    image = net.image()
    scale, zero = net.constant(0.1), net.constant(np.array(0, np.int8))
    pair = [net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, zero), scale, zero)
            for x in (image, net.weight(2, 3, 3, 3))]  # fmt: skip
    net.result(net.node("Conv", *pair, out="scores"), 2, 2, 2)
    model = model_of(net)
    assert said(model, OLD, REFUSAL) == ["Conv 'Conv:scores': it has no kernel_shape."]
    assert said(model, NEW, WARNING) == ["Conv 'Conv:scores': it has no kernel_shape."]
    plain = Target("plain", "tensorrt", "", ("fp32",), {}, {})
    assert "it makes int8, which the target does not run" in {each.why for each in lint(model, plain)}
    net.nodes[-1].attribute.append(helper.make_attribute("kernel_shape", [3, 3]))
    assert not said(model_of(net), OLD, REFUSAL)


def test_a_stranger_s_domain_and_text() -> None:
    net = Net(17, batch=1)
    net.domains["com.evil\x1b[2J"] = 1
    net.result(net.node("Blink\x1b[31m", net.image(), domain="com.evil\x1b[2J", out="scores\x1b"), 3)
    (line,) = said(read_model(net.model(check=False).SerializeToString()), NEW, REFUSAL)
    assert "needs a plugin" in line
    assert line.isprintable()


TREE = Taxonomy.parse("""
name: animals
tree:
  fishes:
    rays: {index: 0}
    sharks: {index: 1}
  clams: {index: 2}
  snails: {index: 3}
""")


def branched() -> Net:
    """A trunk, a branch for the fishes, one for the clams, and one of no name for clams and snails."""
    net = Net(18)
    trunk = net.conv(net.image(), 3, 4, name="trunk")

    def head(width: int, name: str) -> str:
        mean = net.node(
            "ReduceMean", net.conv(trunk, 4, 4, name=name), net.constant([2, 3]), keepdims=0, out=f"{name}.mean"
        )
        return str(net.node("Gemm", mean, net.weight(4, width), net.weight(width)))

    scores = net.node("Concat", head(2, "fishes"), head(2, "shells"), axis=1, out="scores")
    net.result(scores, 4)
    net.result(net.node("ReduceMax", trunk, net.constant([2, 3]), keepdims=0, out="all"), 4)
    return net


def test_a_finding_names_the_branch() -> None:
    model, owner = model_of(branched()), card(TREE)
    found = [each for each in lint(model, BOARD, owner, release=OLD) if each.level == REFUSAL and each.operator]
    assert {(each.operator, each.node, each.branch) for each in found} == {
        ("ReduceMean", "ReduceMean:fishes.mean", "fishes"),
        ("ReduceMean", "ReduceMean:shells.mean", "clams, snails"),
        ("ReduceMax", "ReduceMax:all", "trunk"),
    }
    with pytest.raises(UnsupportedError, match=r"'board' cannot run this model \(and 3 more") as caught:
        refuse(lint(model, BOARD, owner, release=OLD), BOARD)
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
    refuse(lint(model, BOARD, owner, release=NEW), BOARD)
    # Without a card nodes of one operator and one fault are counted together.
    (mean,) = [each for each in lint(model, BOARD, release=OLD) if each.operator == "ReduceMean"]
    assert (mean.count, mean.branch, "and 1 more like it" in str(mean)) == (2, "", True)
    assert not lint(model, load_target("cpu"), owner)


def test_subgraphs_are_entered() -> None:
    net = Net(18, batch=1)
    image, yes = net.image(), net.constant(True)

    def graph(name: str) -> onnx.GraphProto:
        axes = helper.make_node("Constant", [], [f"{name}.axes"], value_ints=[2, 3])
        mean = helper.make_node("ReduceMean", [image, f"{name}.axes"], [name], name=name)
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 1, 1])
        return helper.make_graph([axes, mean], name, [], [value])

    net.result(net.node("If", yes, then_branch=graph("a"), else_branch=graph("b"), out="scores"), 3, 1, 1)
    model = model_of(net)
    assert said(model, OLD, REFUSAL)[0].startswith("ReduceMean 'a' and 1 more like it: its axes are an input")
    assert any("If 'If:scores': TensorRT fuses nothing" in line for line in said(model, NEW, NOTE))


def test_the_opset_and_the_release() -> None:
    model = one("Relu", opset=20)
    for name, fits in (("orin-nano-8gb", False), ("xavier-nx", False), ("orin-nano-8gb-super", True), ("gpu", False)):
        found = [str(each) for each in lint(model, load_target(name)) if each.level == REFUSAL]
        assert found == ([] if fits else ["The model is of opset 20, and the target reads up to 17."])
    assert "No release of TensorRT is known, so 8.5 is taken for it." in map(str, lint(model, load_target("gpu")))
    # What is there counts for more than the profile.
    assert not [e for e in lint(model, load_target("gpu"), release=(10, 0, 1)) if e.level == REFUSAL]
    assert [e for e in lint(model, load_target("orin-nano-8gb-super"), release=OLD) if e.level == REFUSAL]
    known = {(8, 5): 17, (8, 6, 2): 17, (10, 0): 20, (10, 3): 20, (10, 9): 22, (10, 13, 3): 24, (11, 4): 25, (8, 2): 17}
    assert {of: ceiling(of) for of in known} == known


def test_memory() -> None:
    """By hand: 1 MiB of image, two convolutions of 4 channels that overlap for a moment, weights of 4 x 4."""
    net = Net(17)
    image = net.image(4, 256, 256)
    first = net.conv(image, 4, 4, bias=False)
    net.result(net.conv(net.node("Relu", first), 4, 4, bias=False, name="scores"), 4, 256, 256)
    model = model_of(net)
    found = footprint(model)
    assert (found.weight_bytes, found.activation_bytes) == (2 * 16 * 4, 2 * 2**20)
    assert footprint(model, 8).activation_bytes == 16 * 2**20
    assert footprint(model, 8).total == 16 * 2**20 + 128
    for batch, level in ((8, NOTE), (26, WARNING), (40, REFUSAL)):
        (about,) = [each for each in lint(model, BOARD, release=OLD, batch=batch) if "of weights" in each.why]
        assert about.level == level, about
    # A tensor that is read late stays.
    net.result(net.node("Add", first, "scores", out="late"), 4, 256, 256)
    assert footprint(model_of(net)).activation_bytes == 3 * 2**20


def faults(model: Model, target: Target, owner: Card | None = None) -> list[str]:
    return [str(each) for each in lint(model, target, owner) if each.level != NOTE]


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the trained model is not in this checkout")
def test_what_expertc_makes_has_no_fault() -> None:
    """The trained model on every device that comes along, as it is and in half precision."""
    source = open_source(None)
    lowered: dict[int | None, tuple[Model, ...]] = {}
    for target in list_targets():
        if target.max_opset not in lowered and target.max_opset is not None:
            single = Lower(target.max_opset).run(source.model)[0]
            lowered[target.max_opset] = single, Half().run(single)[0]
        for model in lowered.get(target.max_opset, ()):
            assert not faults(model, target, source.card), target.name
    assert len(lowered) > 2


def test_our_int8_has_no_fault_and_the_other_dialect_has() -> None:
    net = Net(17, batch=1)
    hidden = net.node("Relu", net.conv(net.image(3, 8, 8), 3, 8, kernel=3))
    net.result(net.head(net.conv(hidden, 8, 8, group=2), 8, 4, name="scores"), 4)
    model, images = model_of(net), np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)
    ranges = observe(model, [images], open_session=partial(open_session, threads=1))
    for name in ("xavier-nx", "orin-nano-8gb", "rtx-4090", "thor-t5000"):
        target = load_target(name)
        assert not faults(Quantise(ranges, TENSORRT).run(model)[0], target)
        other = faults(Quantise(ranges, ONNXRUNTIME).run(model)[0], target)
        assert any("its zero point is" in each for each in other), other


def test_the_table_is_of_real_operators() -> None:
    """Held against ONNX's own schemas; three are of experiments that ONNX has dropped since."""
    data = json.loads((Path(expertc.lint.__file__).parent / "operators.json").read_text())
    schemas = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert data["operators"].keys() <= schemas | {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    assert len(data["operators"]) == 196
    words = {word for entry in data["operators"].values() for types in entry.values() for word in types.split()}
    assert words == set("FP32 FP16 BF16 FP8 INT4 INT8 INT32 INT64 UINT8 BOOL".split())
    assert "docs/operators.md" in data["source"]
