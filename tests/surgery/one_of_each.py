"""A small network around every operator that has a transfer rule: six classes, of which the operator sees each.

A builder takes the classes to build (``rows``) and returns their scores ``[N, len(rows)]``. Built with the classes of a
selection only, it is what the expert should be: nobody has to say what a rule must remove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from networks import Net
from onnx import TensorProto, helper, numpy_helper

Builder = Callable[[Net, Sequence[int]], str]

CLASS_SOFTMAX = "class softmax"
"""The softmax at the end, which is cut through."""


@dataclass(frozen=True)
class Case:
    """One operator at work. ``keep`` is cut to; ``held`` are the classes whose network is as large as the expert.

    They differ where an operator mixes classes or groups have to stay equal; then a node more takes the rows. ``spare``
    is how many nodes more there may be where the network of some classes is written in a simpler way.
    """

    op: str
    build: Builder
    keep: tuple[int, ...]
    held: tuple[int, ...]
    opset: int
    ir: int | None
    batch: int | str
    spare: int

    @property
    def kind(self) -> str:
        """The kind of the scores."""
        return "probabilities" if self.op == CLASS_SOFTMAX else "logits"

    def net(self, rows: Sequence[int] = range(6)) -> Net:
        """The network over ``rows``; its output is "scores"."""
        net = Net(self.opset, ir=self.ir, batch=self.batch)
        net.image()
        net.result(net.node("Identity", self.build(net, rows), out="scores"), len(rows))
        return net


CASES: list[Case] = []


def case(
    *ops: str,
    keep: Sequence[int] = (1, 3, 4),
    held: Sequence[int] | None = None,
    opset: int = 20,
    ir: int | None = None,
    batch: int | str = "batch",
    spare: int | None = None,
) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register a builder; for several ``ops`` it takes the operator as a third argument."""

    classes = tuple(keep if held is None else held)
    more = int(classes != tuple(keep)) if spare is None else spare

    def register(build: Callable[..., str]) -> Callable[..., str]:
        for op in ops:
            own = build if len(ops) == 1 else lambda net, rows, op=op: build(net, rows, op)
            CASES.append(Case(op, own, tuple(keep), classes, opset, ir, batch, more))
        return build

    return register


# -- parts -------------------------------------------------------------------------------------------------------------


def maps(net: Net, channels: int) -> str:
    """Features ``[N, channels, 4, 4]``; each channel has weights of its own."""
    return net.conv("image", 3, channels, name="maps")


def vectors(net: Net, channels: int) -> str:
    """``[N, channels]``."""
    return str(net.node("Flatten", net.node("GlobalAveragePool", maps(net, channels))))


def scored(net: Net, tensor: str, *space: int) -> str:
    """Scores ``[N, C]``: each channel's mean over space, where no two places count the same."""
    size = space or (4, 4)
    weighted = net.node("Mul", tensor, net.constant(np.linspace(0.5, 1.5, int(np.prod(size))).reshape(size).tolist()))
    return str(net.node("Flatten", net.node("GlobalAveragePool", weighted)))


def integers(net: Net, *shape: int, name: str) -> str:
    """Different small integers."""
    size = int(np.prod(shape))
    return net.constant((net.random.permutation(256)[:size] - 128).astype(np.int8).reshape(shape), name)


def zero_points(net: Net, count: int, name: str = "zero") -> str:
    """A zero point per channel."""
    return net.constant(net.random.permutation(16)[:count].astype(np.int8), name)


def quantised(net: Net, tensor: str) -> list[str]:
    """The tensor as uint8, with its scale and zero point."""
    inputs = [net.constant(0.05), net.constant(np.array(128, np.uint8))]
    return [str(net.node("QuantizeLinear", tensor, *inputs)), *inputs]


def as_float(net: Net, tensor: str) -> str:
    return str(net.node("Cast", tensor, to=TensorProto.FLOAT))


# -- element by element ------------------------------------------------------------------------------------------------


@case("LeakyRelu", "Tanh", "Identity", "Dropout")
def _unary(net: Net, rows: Sequence[int], op: str) -> str:
    return scored(net, net.node(op, maps(net, len(rows))))


@case("Clip")
def _clip(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("Clip", maps(net, len(rows)), net.constant(-2.0), net.constant(2.0)))


@case("Add", "Mul", "PRelu", "Max", "Sum", "Mean")
def _broadcast(net: Net, rows: Sequence[int], op: str) -> str:
    return scored(net, net.node(op, maps(net, len(rows)), net.weight(len(rows), 1, 1)))


@case("Where")
def _where(net: Net, rows: Sequence[int]) -> str:
    tensor, other = maps(net, len(rows)), net.weight(len(rows), 1, 1)
    return scored(net, net.node("Where", net.node("Less", tensor, other), tensor, other))


# -- linear layers -----------------------------------------------------------------------------------------------------


@case("Conv")
def _conv(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.conv(maps(net, 2 * len(rows)), 2 * len(rows), len(rows), group=len(rows)))


@case("Conv", keep=(0, 3), held=(0, 1, 2, 3))
def _conv_unequal(net: Net, rows: Sequence[int]) -> str:
    """Two classes per group, hit in different places: both stay in both groups."""
    groups = len(rows) // 2
    return scored(net, net.conv(maps(net, groups), groups, len(rows), group=groups))


@case("ConvTranspose")
def _conv_transpose(net: Net, rows: Sequence[int]) -> str:
    weights = net.weight(2 * len(rows), 1, 1, 1, name="up"), net.weight(len(rows))
    return scored(net, net.node("ConvTranspose", maps(net, 2 * len(rows)), *weights, group=len(rows)))


@case("ConvInteger")
def _conv_integer(net: Net, rows: Sequence[int]) -> str:
    x, _, zero = quantised(net, maps(net, 2 * len(rows)))
    weight = integers(net, len(rows), 2, 1, 1, name="w8")
    return scored(net, as_float(net, net.node("ConvInteger", x, weight, zero, group=len(rows))))


@case("QLinearConv")
def _q_conv(net: Net, rows: Sequence[int]) -> str:
    count = len(rows)
    x, scale, zero = quantised(net, maps(net, 2 * count))
    zeros = net.constant(np.zeros(count, np.int8))
    weight = integers(net, count, 2, 1, 1, name="w8"), net.weight(count, name="ws", positive=True), zeros
    bias = net.constant(net.random.permutation(count).astype(np.int32) * 40, "b32")
    wide = net.constant(2.0)
    y = net.node("QLinearConv", x, scale, zero, *weight, wide, zero, bias, group=count)
    return scored(net, net.node("DequantizeLinear", y, wide, zero))


@case("Gemm")
def _gemm(net: Net, rows: Sequence[int]) -> str:
    return net.head(maps(net, 4), 4, len(rows))


@case("MatMul")
def _matmul(net: Net, rows: Sequence[int]) -> str:
    count = len(rows)
    split = net.node("Reshape", vectors(net, 2 * count), net.constant([-1, count, 1, 2]))
    product = net.node("MatMul", split, net.weight(count, 2, 1))
    return str(net.node("Reshape", product, net.constant([-1, count])))


@case("MatMulInteger")
def _matmul_integer(net: Net, rows: Sequence[int]) -> str:
    x, _, zero = quantised(net, vectors(net, 4))
    weight = integers(net, 4, len(rows), name="w8"), zero, zero_points(net, len(rows))
    return as_float(net, net.node("MatMulInteger", x, *weight))


@case("QLinearMatMul")
def _q_matmul(net: Net, rows: Sequence[int]) -> str:
    x, scale, zero = quantised(net, vectors(net, 4))
    weight = integers(net, 4, len(rows), name="w8"), net.weight(len(rows), name="ws", positive=True)
    wide = net.constant(4.0)
    y = net.node("QLinearMatMul", x, scale, zero, *weight, zero_points(net, len(rows)), wide, zero)
    return str(net.node("DequantizeLinear", y, wide, zero))


@case("Einsum")
def _einsum(net: Net, rows: Sequence[int]) -> str:
    split = net.node("Reshape", vectors(net, 2 * len(rows)), net.constant([-1, len(rows), 2]))
    return str(net.node("Einsum", split, net.weight(len(rows), 2), equation="nbd,bd->nb"))


# -- quantisation ------------------------------------------------------------------------------------------------------


@case("QuantizeLinear", "DequantizeLinear")
def _there_and_back(net: Net, rows: Sequence[int], _: str) -> str:
    count = len(rows)
    inputs = net.weight(count, name="scale", positive=True), zero_points(net, count)
    y = net.node("QuantizeLinear", maps(net, count), *inputs, axis=1)
    return scored(net, net.node("DequantizeLinear", y, *inputs, axis=1))


@case("DynamicQuantizeLinear", held=range(6))
def _range_of_all(net: Net, rows: Sequence[int]) -> str:
    y, scale, zero = net.node("DynamicQuantizeLinear", maps(net, len(rows)), out=["y", "scale", "zero"])
    return scored(net, net.node("DequantizeLinear", y, scale, zero))


# -- pooling, reductions, normalisation --------------------------------------------------------------------------------


@case("MaxPool", "AveragePool", "LpPool")
def _pool(net: Net, rows: Sequence[int], op: str) -> str:
    return scored(net, net.node(op, maps(net, len(rows)), kernel_shape=[3, 3]), 2, 2)


@case("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(net: Net, rows: Sequence[int], op: str) -> str:
    return scored(net, net.node(op, maps(net, len(rows))), 1, 1)


@case("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp")
def _reduce(net: Net, rows: Sequence[int], op: str) -> str:
    turned = net.node("Transpose", maps(net, len(rows)), perm=[0, 2, 1, 3])
    return str(net.node(op, turned, net.constant([1, 3]), keepdims=0))


@case("Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization")
def _along_space(net: Net, rows: Sequence[int], op: str) -> str:
    if op == "CumSum":
        return scored(net, net.node(op, maps(net, len(rows)), net.constant(np.array(3))))
    return scored(net, net.node(op, maps(net, len(rows)), axis=3))


@case("Softmax", "LogSoftmax", "LpNormalization", "CumSum", held=range(6))
def _along_classes(net: Net, rows: Sequence[int], op: str) -> str:
    """Every class is needed; of what comes after it, the rows."""
    axis = {"attrs": {}, "inputs": [net.constant(np.array(1))]} if op == "CumSum" else {"attrs": {"axis": 1}}
    mixed = net.node(op, maps(net, len(rows)), *axis.get("inputs", ()), **axis["attrs"])
    return scored(net, net.node("Abs", mixed))


@case(CLASS_SOFTMAX)
def _class_softmax(net: Net, rows: Sequence[int]) -> str:
    return str(net.node("Softmax", vectors(net, len(rows)), axis=1))


@case("ArgMax", "ArgMin")
def _arg(net: Net, rows: Sequence[int], op: str) -> str:
    return scored(net, as_float(net, net.node(op, maps(net, len(rows)), axis=3)), 4, 1)


@case("TopK")
def _top(net: Net, rows: Sequence[int]) -> str:
    values, _ = net.node("TopK", maps(net, len(rows)), net.constant([2]), axis=3, out=["values", "places"])
    return scored(net, values, 4, 2)


@case("BatchNormalization")
def _batch_norm(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.norm(maps(net, len(rows)), len(rows)))


@case("InstanceNormalization")
def _instance_norm(net: Net, rows: Sequence[int]) -> str:
    vector = net.weight(len(rows)), net.weight(len(rows))
    return scored(net, net.node("InstanceNormalization", maps(net, len(rows)), *vector))


@case("LayerNormalization")
def _layer_norm(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("LayerNormalization", maps(net, len(rows)), net.weight(4), net.weight(4)))


@case("RMSNormalization", opset=23, ir=11)
def _rms_norm(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("RMSNormalization", maps(net, len(rows)), net.weight(4)))


@case("LayerNormalization", held=range(6))
def _layer_norm_of_classes(net: Net, rows: Sequence[int]) -> str:
    turned = net.node("Transpose", maps(net, len(rows)), perm=[0, 2, 3, 1])
    normed = net.node("LayerNormalization", turned, net.weight(len(rows)), net.weight(len(rows)))
    return scored(net, net.node("Transpose", normed, perm=[0, 3, 1, 2]))


@case("GroupNormalization", keep=(2, 3), opset=21)
@case("GroupNormalization", keep=(1, 2), held=(0, 1, 2, 3), opset=21)
def _group_norm(net: Net, rows: Sequence[int]) -> str:
    vector = net.weight(len(rows)), net.weight(len(rows))
    tensor = net.node("GroupNormalization", maps(net, len(rows)), *vector, num_groups=len(rows) // 2)
    return scored(net, tensor)


@case("MeanVarianceNormalization")
def _mean_variance(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("MeanVarianceNormalization", maps(net, len(rows)), axes=[2, 3]))


@case("LRN", held=range(6))
def _neighbours(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("LRN", maps(net, len(rows)), size=3, alpha=0.5))


# -- control flow ------------------------------------------------------------------------------------------------------


@case("If")
@case("If", keep=(0, 2))
def _if(net: Net, rows: Sequence[int]) -> str:
    """Which of two branches weighs the features depends on the image; each has weights, and two outputs, of its own."""
    flat = vectors(net, len(rows))
    held = [[at for at, row in enumerate(rows) if row // 3 == half] for half in (0, 1)]
    parts = [(f"half{half}", own) for half, own in enumerate(held) if own]
    for name, own in parts:
        net.node("Gather", flat, net.constant(own), axis=1, out=name)
    branches = {}
    for branch in ("then_branch", "else_branch"):
        nodes = [helper.make_node("Mul", [name, f"{branch}.{name}.w"], [f"{branch}.{name}"]) for name, _ in parts]
        ends = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
        weights = [net.random.standard_normal(len(own)).astype(np.float32) for _, own in parts]
        held_in = [numpy_helper.from_array(v, node.input[1]) for v, node in zip(weights, nodes, strict=True)]
        branches[branch] = helper.make_graph(nodes, branch, [], ends, held_in)
    bright = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    chosen = net.node("If", bright, out=[f"chosen {name}" for name, _ in parts], **branches)
    return str(net.node("Concat", *chosen, axis=1)) if len(chosen) > 1 else chosen[0]
