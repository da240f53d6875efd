"""quantise: ONNX Runtime computes in integers, nearly the same; TensorRT's parser would take its dialect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from networks import Array, Net, operators, reference, run, weights
from quantised import CLASSES, images, kernels, mixed, optimised, quantisable, scores

from expertc.backends.processor import saturates
from expertc.errors import DataError, ExitCode, ExpertcError, UnsupportedError, UsageError
from expertc.graph import Constant, Model, Node, read_model, to_bytes
from expertc.graph.cost import cost
from expertc.observe import Range
from expertc.surgery.quantise import ONNXRUNTIME as GENERAL
from expertc.surgery.quantise import TENSORRT, Flavour, Quantise, layers, require_parser_rules

ONNXRUNTIME = replace(GENERAL, reduce_range=saturates())
"""As it is built for this machine: the sums of 8-bit weights overflow where a processor has no VNNI."""

LAYERS = ("first", "depthwise", "grouped", "left", "right", "scores")


def quantised(flavour: Flavour, *exclude: str, net: Net | None = None, **options: Any) -> tuple[Model, Model]:
    """The fp32 model and the quantised one, which passes ``onnx.checker``."""
    model, ranges = quantisable(net)
    made, changed = Quantise(ranges, flavour, frozenset(exclude), **options).run(model)
    assert changed
    onnx.checker.check_model(onnx.load_from_string(to_bytes(made)), full_check=True)
    return model, made


def error(found: Array, expected: Array) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def scale(model: Model, tensor: str) -> tuple[float, int]:
    """Scale and zero point at which a tensor is quantised."""
    [node] = [n for n in model.nodes if n.op == "QuantizeLinear" and n.inputs[0].name == tensor]
    held = model.constants
    return float(held[node.inputs[1].name].values), int(held[node.inputs[2].name].values)


# -- ONNX Runtime ------------------------------------------------------------------------------------------------------


def test_every_layer_runs_in_integer_kernels() -> None:
    """And nothing between them goes back to floating point: one Q at the image, and scores that are fp32."""
    model, made = quantised(ONNXRUNTIME)
    assert layers(model, ONNXRUNTIME) == LAYERS
    found = kernels(made)
    moves = {"Transpose", "NhwcMaxPool", "MaxPool", "Flatten", "Reshape", "Squeeze"}  # of bytes
    assert {op: n for op, n in found.items() if op not in moves} == {
        "QuantizeLinear": 1,
        "QLinearConv": 5,
        "QLinearAdd": 1,
        "QLinearConcat": 1,
        "QLinearGlobalAveragePool": 1,
        "QGemm": 1,
    }


@pytest.mark.parametrize("flavour", [ONNXRUNTIME, TENSORRT], ids=lambda flavour: flavour.name)
@pytest.mark.parametrize("percentile", [None, 99.9])
def test_the_scores_are_nearly_the_same(flavour: Flavour, percentile: float | None) -> None:
    """On images that were not observed; the graph itself computes what ONNX's reference evaluator says it does."""
    model, made = quantised(flavour, net=mixed(opset=20), percentile=percentile)  # the evaluator knows Q/DQ from 19 on
    x = images(8, seed=1)
    expected = scores(model, x)
    assert 0 < error(scores(made, x), expected) < 0.06
    plain = scores(made, x, optimise=False)
    np.testing.assert_allclose(plain, reference(to_bytes(made), {"image": x})["scores"], atol=0.02 * expected.std())


def test_scales_are_those_of_the_observed_ranges() -> None:
    """uint8 from the least to the greatest value; weights -127 to 127 for each output channel."""
    model, ranges = quantisable()
    made, _ = Quantise(ranges, GENERAL).run(model)
    low, high = ranges["image"].low, ranges["image"].high
    assert scale(made, "image") == (pytest.approx((high - low) / 255), round(-low * 255 / (high - low)))
    assert scale(made, "clip") == (pytest.approx(ranges["clip"].high / 255), 0)
    held, before = weights(to_bytes(made)), weights(to_bytes(model))["grouped.w"]
    each = np.abs(before).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(held["grouped.w_scale"], each, rtol=1e-6)
    np.testing.assert_array_equal(held["grouped.w_quantized"], np.rint(before / each[:, None, None, None]))
    clipped, _ = Quantise(ranges, ONNXRUNTIME, percentile=99.9).run(model)
    low, high = ranges["image"].percentile[99.9]
    assert scale(clipped, "image")[0] == pytest.approx((high - low) / 255)


def concatenated(*activations: str) -> Net:
    """A Concat of as many convolutions, each followed by its activation ("" for none)."""
    net = Net(20)
    x = net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first")
    limits = {"Clip": (net.constant(0.0, "least"), net.constant(6.0, "most"))}
    parts = [(net.conv(x, 8, 8, name=f"part-{n}"), op) for n, op in enumerate(activations)]
    made = [net.node(op, part, *limits.get(op, ()), out=f"made-{part}") if op else part for part, op in parts]
    both = net.node("Concat", *made, axis=1, out="both")
    net.result(net.head(both, 8 * len(made), CLASSES, name="scores"), CLASSES)
    return net


@pytest.mark.parametrize("activations", [("", ""), ("Relu", "Relu", "Relu"), ("", "Relu"), ("Clip", "Relu")])
def test_a_concat_reads_and_makes_one_scale(activations: tuple[str, ...]) -> None:
    """So that its kernel copies bytes; not if the scale is all that is left of a Relu or Clip and would not clip."""
    model, made = quantised(ONNXRUNTIME, net=concatenated(*activations))
    assert kernels(made)["QLinearConcat"] == 1
    [both] = [node for node in made.nodes if node.op == "Concat"]
    pairs = [made.nodes[made.producers[tensor.name]].inputs[0] for tensor in both.inputs]
    read = [made.nodes[made.producers[tensor.name]].inputs[0].name for tensor in pairs]
    assert (len({scale(made, name) for name in (*read, "both")}) == 1) == (len(set(activations)) == 1)
    x = images(8, seed=1)
    expected = scores(model, x)
    assert error(scores(made, x), expected) < 0.03


def test_less_of_the_range_where_sums_would_saturate() -> None:
    _, made = quantised(replace(ONNXRUNTIME, reduce_range=True))
    assert {int(np.abs(v).max()) for v in weights(to_bytes(made)).values() if v.dtype == np.int8 and v.any()} == {64}


def test_what_is_excluded_stays_in_fp32_when_it_runs() -> None:
    """ONNX Runtime's optimiser would give an fp32 layer between integers int8 weights with one scale for them all."""
    _, made = quantised(ONNXRUNTIME, "depthwise", "left")
    found = optimised(made)
    single = [n for n in found.graph.node if n.op_type in ("Conv", "FusedConv")]
    assert len(single) == 2
    assert sum(n.op_type == "QLinearConv" for n in found.graph.node) == 3
    x = images(8, seed=1)
    plain = scores(made, x, optimise=False)
    assert error(scores(made, x), plain) < 0.01
    assert made.constants["depthwise.w"].values.dtype == np.float32


def test_excluding_everything_changes_nothing() -> None:
    model, ranges = quantisable()
    assert Quantise(ranges, ONNXRUNTIME, frozenset(LAYERS)).run(model) == (model, False)


def test_what_is_done_to_scores_keeps_its_precision() -> None:
    """A head that is a convolution of one pixel, and what puts the heads together."""
    net = Net(17)
    x = net.node("Relu", net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first"))
    heads = [net.conv(net.node("GlobalAveragePool", x), 8, 2, name=name) for name in ("a", "b")]
    flat = [net.node("Flatten", head) for head in heads]
    net.result(net.node("Concat", *flat, axis=1, out="scores"), 4)
    model, made = quantised(ONNXRUNTIME, net=net)
    assert layers(model, ONNXRUNTIME) == ("first",)
    assert layers(model, TENSORRT) == ("first", "a", "b")
    found = kernels(made)
    assert found["QLinearConv"] == 1
    assert found["QLinearConcat"] == 0
    assert found["DequantizeLinear"] <= 2


def test_scores_that_are_averaged_are_averaged_in_fp32() -> None:
    """A last convolution over the image is worth quantising, its mean is the score."""
    net = Net(20)
    x = net.node("Relu", net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first"))
    net.result(net.node("Flatten", net.node("GlobalAveragePool", net.conv(x, 8, 4, name="last")), out="scores"), 4)
    model, made = quantised(ONNXRUNTIME, net=net)
    assert layers(model, ONNXRUNTIME) == ("first", "last")
    assert kernels(made)["GlobalAveragePool"] == 1


def test_a_gain_per_channel_stays_what_it_is() -> None:
    """In 256 steps of the largest the small ones would be nothing."""
    net = Net(20)
    x = net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first")
    gained = net.node("Mul", x, net.constant(np.geomspace(1e-3, 1, 8, dtype=np.float32)[:, None, None], "gain"))
    net.result(net.head(net.conv(gained, 8, 8, name="last"), 8, CLASSES, name="scores"), CLASSES)
    _, made = quantised(ONNXRUNTIME, net=net)
    assert made.constants["gain"].values.dtype == np.float32
    assert kernels(made)["QLinearConv"] == 2


def test_a_square_stays_what_it_is() -> None:
    """One scale for the squares of small and of large values would lose the small ones."""
    net = Net(20)
    x = net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first")
    total = net.node("ReduceSum", net.node("Mul", x, x), net.constant([2, 3]))
    net.result(net.head(net.conv(net.node("Mul", x, total), 8, 8, name="last"), 8, CLASSES, name="scores"), CLASSES)
    _, made = quantised(ONNXRUNTIME, net=net)
    assert (kernels(made)["Mul"], kernels(made)["QLinearMul"]) == (2, 0)


def test_weights_that_two_layers_share() -> None:
    net = Net(17)
    x = net.conv(net.image(3, 16, 16), 3, 3, kernel=3, name="first")
    again = net.node("Conv", x, "first.w", "first.b", out="again", pads=[1] * 4)
    net.result(net.head(again, 3, 4, name="scores"), 4)
    _, made = quantised(ONNXRUNTIME, "again", net=net)
    assert kernels(made)["QLinearConv"] == 1
    [kept] = [node for node in made.nodes if node.outputs[0].name == "again"]
    assert made.constants[kept.inputs[1].name].values.dtype == np.float32


def test_all_but_the_numbers_stays() -> None:
    """Opset, face, metadata, names of nodes; the model that was given; and the same bytes every time."""
    net = mixed()
    net.metadata = {"expertc.card": "{}"}
    model, ranges = quantisable(net)
    before = to_bytes(model)
    made, _ = Quantise(ranges, ONNXRUNTIME).run(model)
    assert to_bytes(model) == before
    assert to_bytes(Quantise(ranges, ONNXRUNTIME).run(model)[0]) == to_bytes(made)
    assert (made.opset, made.ir_version, made.producer) == (model.opset, model.ir_version, model.producer)
    assert (made.inputs, made.outputs, made.metadata) == (model.inputs, model.outputs, model.metadata)
    assert {n.name for n in made.nodes if n.op == "Conv"} == {n.name for n in model.nodes if n.op == "Conv"}


@pytest.mark.parametrize("flavour", [ONNXRUNTIME, TENSORRT], ids=lambda flavour: flavour.name)
def test_parameters_and_macs_are_the_same_in_integers(flavour: Flavour) -> None:
    model, made = quantised(flavour, "left")
    before, after = cost(model), cost(made)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)


# -- blocks of other networks ------------------------------------------------------------------------------------------


def with_block(block: Callable[[Net, str], str]) -> Net:
    """A block between two convolutions of 8 channels, 16 x 16."""
    net = Net(20)
    x = block(net, net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first"))
    net.result(net.head(net.conv(x, 8, 8, name="last"), 8, CLASSES, name="scores"), CLASSES)
    return net


def silu(net: Net, x: str) -> str:
    return str(net.node("Mul", x, net.node("Sigmoid", x)))


def squeeze_excite(net: Net, x: str) -> str:
    squeezed = net.node("Relu", net.conv(net.node("GlobalAveragePool", x), 8, 4, name="squeeze"))
    return str(net.node("Mul", x, net.node("Sigmoid", net.conv(squeezed, 4, 8, name="excite"))))


def mixer(net: Net, x: str) -> str:
    """Linear layers over the channels, as ConvNeXt and Swin have them: MatMul, Add, a gain per channel."""
    last = net.node("Transpose", x, perm=[0, 2, 3, 1])
    normal = net.node("LayerNormalization", last, net.weight(8, name="g"), net.weight(8, name="b"))
    wide = net.node("Add", net.node("MatMul", normal, net.weight(8, 16, name="up")), net.weight(16, name="up.b"))
    down = net.node("Add", net.node("MatMul", net.node("Gelu", wide), net.weight(16, 8, name="down")), "b")
    return str(net.node("Transpose", net.node("Add", net.node("Mul", down, "g"), last), perm=[0, 3, 1, 2]))


def shuffle(net: Net, x: str) -> str:
    """Channel shuffle between halves of which one is convolved."""
    left, right = net.node("Split", x, axis=1, num_outputs=2, out=["left", "right"])
    both = net.node("Concat", left, net.conv(right, 4, 4, kernel=3, group=4, name="half"), axis=1)
    apart = net.node("Reshape", both, net.constant([0, 2, 4, 16, 16], "apart"))
    return str(net.node("Reshape", net.node("Transpose", apart, perm=[0, 2, 1, 3, 4]), net.constant([0, 8, 16, 16])))


BLOCKS = {silu: {"QLinearMul": 1, "QLinearSigmoid": 1}, squeeze_excite: {"QLinearMul": 1, "QLinearConv": 4},
          mixer: {"QLinearMatMul": 2}, shuffle: {"QLinearConcat": 1, "QLinearConv": 3}}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_blocks_of_other_networks(block: Callable[[Net, str], str]) -> None:
    """No layer runs in fp32, or unpacks its weights at every call; the scores are nearly the same."""
    model, made = quantised(ONNXRUNTIME, net=with_block(block))
    found = kernels(made)
    assert {op: found[op] for op in BLOCKS[block]} == BLOCKS[block]
    assert not {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm"} & found.keys()
    x = images(8, seed=1)
    expected = scores(model, x)
    assert error(scores(made, x), expected) < 0.1
    assert error(scores(made, x), scores(made, x, optimise=False)) < 0.05


# -- TensorRT ----------------------------------------------------------------------------------------------------------


def test_the_dialect_of_tensorrt() -> None:
    """Symmetric int8, pairs for weights, fp32 biases, kernel_shape; the layer's own term of a sum is left to fuse."""
    model, made = quantised(TENSORRT)
    require_parser_rules(made)
    held = made.constants
    zeros = [held[n.inputs[2].name].values for n in made.nodes if n.op == "QuantizeLinear"]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert {n.attrs["kernel_shape"][0] for n in made.nodes if n.op == "Conv"} == {1, 3}
    for name in ("first", "grouped"):
        np.testing.assert_array_equal(held[f"{name}.w"].values, model.constants[f"{name}.w"].values)
    assert held["first.b"].values.dtype == np.float32
    [add] = [n for n in made.nodes if n.op == "Add"]
    producers = [made.nodes[made.producers[tensor.name]].op for tensor in add.inputs]
    assert producers == ["Conv", "DequantizeLinear"]
    assert operators(to_bytes(made)).count("QuantizeLinear") == 6 + 6 + 1  # layers, their weights, the shortcut


def test_a_layer_in_fp32_reads_what_is_not_quantised() -> None:
    _, made = quantised(TENSORRT, "left")
    [left] = [n for n in made.nodes if n.outputs[0].name == "left"]
    assert left.inputs[0].name == "total"


def spoilt(model: Model, change: Callable[[Node], Node | None]) -> Model:
    """The model with the first node that ``change`` has something else for replaced by that."""
    nodes, done = list(model.nodes), False
    for at, node in enumerate(nodes):
        other = None if done else change(node)
        if other is not None:
            nodes[at], done = other, True
    assert done
    return replace(model, graph=replace(model.graph, nodes=nodes))


def with_input(op: str, position: int, values: Any) -> Callable[[Node], Node | None]:
    def change(node: Node) -> Node | None:
        if node.op != op:
            return None
        inputs = [*node.inputs[:position], Constant("odd", np.asarray(values)), *node.inputs[position + 1 :]]
        return Node(node.op, node.name, node.attrs, inputs, node.outputs)

    return change


def without_kernel_shape(node: Node) -> Node | None:
    attrs = {key: value for key, value in node.attrs.items() if key != "kernel_shape"}
    return Node(node.op, node.name, attrs, node.inputs, node.outputs) if node.op == "Conv" else None


PER_CHANNEL = with_input("QuantizeLinear", 1, np.ones(3, np.float32))
SPOILT = {
    "kernel_shape": without_kernel_shape,
    "zero point": with_input("QuantizeLinear", 2, np.int8(3)),
    "an int8 of 0": with_input("QuantizeLinear", 2, np.uint8(0)),
    "scale": with_input("DequantizeLinear", 1, np.float32(0)),
    "per channel": lambda n: None if isinstance(n.inputs[0], Constant) else PER_CHANNEL(n),
    "no QuantizeLinear like it": with_input("DequantizeLinear", 0, np.zeros((3, 3), np.int8)),
    "domain": lambda n: Node(n.op, n.name, n.attrs, n.inputs, n.outputs, "x.y") if n.op == "QuantizeLinear" else None,
    "integer operator": lambda n: Node("QLinearConv", n.name, n.attrs, n.inputs, n.outputs) if n.op == "Conv" else None,
}  # fmt: skip


@pytest.mark.parametrize("rule", SPOILT)
def test_what_the_parser_would_reject(rule: str) -> None:
    _, made = quantised(TENSORRT)
    change: Callable[[Node], Node | None] = SPOILT[rule]  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match=rule) as caught:
        require_parser_rules(spoilt(made, change))
    assert caught.value.exit_code == ExitCode.UNSUPPORTED


def test_the_other_dialect_is_rejected() -> None:
    _, made = quantised(ONNXRUNTIME)
    with pytest.raises(UnsupportedError, match="zero point"):
        require_parser_rules(made)


# -- bad input ---------------------------------------------------------------------------------------------------------


def no_layers() -> Net:
    net = Net()
    net.result(net.node("Flatten", net.node("GlobalAveragePool", net.image()), out="scores"), 3)
    return net


def of_opset_12() -> Net:
    net = Net(12)
    net.result(net.head(net.conv(net.image(), 3, 4), 4, 5, name="scores"), 5)
    return net


def already() -> Net:
    net = Net()
    half = net.constant(np.float32(0.5))
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", net.image(), half), half)
    net.result(net.head(x, 3, 4, name="scores"), 4)
    return net


def named(name: str) -> Callable[[], Net]:
    """A network one of whose tensors has a name that the quantiser gives."""

    def make() -> Net:
        net = Net(17)
        x = net.node("Relu", net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first"), out=name)
        net.result(net.head(net.conv(x, 8, 8, name="second"), 8, CLASSES, name="scores"), CLASSES)
        return net

    return make


def with_if() -> Net:
    net = Net(17)
    x = net.conv(net.image(3, 16, 16), 3, 8, kernel=3, name="first")
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [x], ["same"])], "branch", [],
        [onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    chosen = net.node("If", net.constant(True), then_branch=branch, else_branch=branch)
    net.result(net.head(chosen, 8, CLASSES, name="scores"), CLASSES)
    return net


BAD: dict[str, tuple[Callable[[], Net], type[ExpertcError], str]] = {
    "no layers": (no_layers, UsageError, "nothing to quantise"),
    "opset": (of_opset_12, UnsupportedError, "opset 12"),
    "quantised": (already, UsageError, "already"),
    "subgraph": (with_if, UnsupportedError, "If or Loop"),
} | {
    name: (named(name), UnsupportedError, f"'{name}' is called as")
    for name in ("image_scale", "image_QuantizeLinear_Output", "first.w_quantized", "first.b_quantized_scale")
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("flavour", [ONNXRUNTIME, TENSORRT], ids=lambda flavour: flavour.name)
def test_models_that_cannot_be_quantised(case: str, flavour: Flavour) -> None:
    net, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        Quantise({}, flavour).run(read_model(net().bytes()))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ranges: {}, "not observed"),
        (lambda ranges: ranges | {"clip": Range(0.0, float("nan"), {})}, "NaN or infinity"),
        (lambda ranges: ranges | {"image": Range(float("-inf"), 1.0, {})}, "'image' holds NaN or infinity"),
    ],
)
def test_ranges_that_do_not_fit(change: Callable[[Any], Any], message: str) -> None:
    model, ranges = quantisable()
    with pytest.raises(DataError, match=message):
        Quantise(change(ranges), ONNXRUNTIME).run(model)


def test_a_percentile_that_was_not_observed() -> None:
    model, ranges = quantisable()
    with pytest.raises(DataError, match=r"percentile 99\.5"):
        Quantise(ranges, ONNXRUNTIME, percentile=99.5).run(model)


def test_ranges_of_nothing_but_zeros() -> None:
    """Layers that are dead on all images have some scale, and the scores stay numbers."""
    model, ranges = quantisable()
    made, _ = Quantise({name: Range(0.0, 0.0, {}) for name in ranges}, ONNXRUNTIME).run(model)
    assert np.isfinite(run(to_bytes(made), {"image": images(2)})["scores"]).all()
