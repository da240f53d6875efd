"""The strength pass against ONNX Runtime on the model as it was."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net
from onnx import TensorProto, helper

from expertc.graph import Model, read_model, to_bytes
from expertc.surgery.strength import Strength
from expertc.surgery.strength.sums import FEWEST

SHAPES = [(2, 16, 17, 64), (2, 300, 64), (3, 5, 8, 8, 64), (2, 64, 16, 17)]


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"image": x})[0]
    return found


def strengthened(net: Net) -> tuple[Model, Counter[str], bytes]:
    data = net.bytes()
    model, _ = Strength().run(read_model(data))
    assert Strength().run(model) == (model, False)
    return model, Counter(node.op for node in model.nodes), data


def agree(model: Model, data: bytes, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    expected = run(data, x)
    found = run(to_bytes(model), x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@given(
    shape=st.sampled_from(SHAPES),
    op=st.sampled_from(["ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceSum"]),
    keepdims=st.sampled_from([0, 1]),
    symbolic=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_sum_is_the_same_sum(shape, op, keepdims, symbolic, data):
    first = 1 if symbolic else 0
    axes = data.draw(st.lists(st.integers(first, len(shape) - 1), min_size=1, unique=True))
    net = Net(18, batch="batch" if symbolic else shape[0])
    axis = net.constant(np.array(axes, np.int64))
    net.node(op, net.image(*shape[1:]), axis, keepdims=keepdims, out="scores")
    rank = len(shape) if keepdims else len(shape) - len(axes)
    net.outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None] * rank))
    model, ops, before = strengthened(net)
    agree(model, before, shape)
    axes.sort()
    summed, behind = (int(np.prod(sizes)) for sizes in ([shape[a] for a in axes], shape[axes[-1] + 1 :]))
    neighbours = axes == list(range(axes[0], axes[-1] + 1))
    pays = neighbours and behind > 1 and summed > 1 and summed * behind >= FEWEST
    assert (ops[op], ops["MatMul"]) == ((0, 1) if pays else (1, 0))


def normalised(order: str, *, more_readers: bool = False) -> Net:
    """The response normalisation of ConvNeXt V2 on ``[n, 4, 5, 6]``, its factors multiplied in some order."""
    net = Net(18)
    x, factors = net.image(4, 5, 6), {}
    factors["x"] = x
    factors["n"] = net.node("ReduceMax", x, net.constant(np.array([1, 2], np.int64)))
    factors["w"] = net.weight(6)
    product, *rest = (factors[letter] for letter in order)
    for factor in rest:
        product = net.node("Mul", product, factor)
    if more_readers:
        net.node("Neg", product, out="aside")
        net.result("aside", 4, 5, 6)
    net.node("Add", *((x, product) if order[0] == "x" else (product, x)), out="scores")
    net.result("scores", 4, 5, 6)
    return net


@pytest.mark.parametrize("order", ["xnw", "xwn", "nwx", "wxn"])
def test_a_tensor_and_its_multiple_are_one_multiple(order):
    model, ops, before = strengthened(normalised(order))
    agree(model, before, (3, 4, 5, 6))
    assert ops == {"ReduceMax": 1, "Mul": 2, "Add": 1}
    large = [node.op for node in model.nodes if model.shapes[node.outputs[0].name][1:] == (4, 5, 6)]
    assert large == ["Mul"]


def test_what_somebody_else_reads_stays():
    net = normalised("xnw", more_readers=True)
    model, ops, before = strengthened(net)
    agree(model, before, (3, 4, 5, 6))
    assert {"aside", "scores"} == {tensor.name for tensor in model.graph.outputs}
    assert ops["Neg"] == 1


def test_a_product_of_equals_stays():
    """Nothing of it is smaller than the whole; the square of a tensor is not its multiple."""
    net = Net(18)
    x = net.image(4, 5, 6)
    square = net.node("Mul", x, x)
    net.node("Add", x, net.node("Mul", square, net.weight(6)), out="scores")
    net.result("scores", 4, 5, 6)
    data = net.bytes()
    model = read_model(data)
    assert Strength().run(model) == (model, False)


def test_factors_alone_are_multiplied_first():
    net = Net(18)
    x = net.image(4, 5, 6)
    scale = net.node("ReduceMax", x, net.constant(np.array([1, 2], np.int64)))
    net.node("Mul", net.node("Mul", x, scale), net.weight(6), out="scores")
    net.result("scores", 4, 5, 6)
    model, ops, before = strengthened(net)
    agree(model, before, (3, 4, 5, 6))
    large = [node.op for node in model.nodes if model.shapes[node.outputs[0].name][1:] == (4, 5, 6)]
    assert (large, ops["Mul"]) == (["Mul"], 2)


def test_other_types_are_left_alone():
    net = Net(18, batch=1)
    net.node("ReduceSum", net.image(64, 64, 64, dtype=TensorProto.DOUBLE), net.constant([1, 2]), out="scores")
    net.outputs.append(helper.make_tensor_value_info("scores", TensorProto.DOUBLE, [None] * 4))
    model = read_model(net.bytes())
    assert Strength().run(model) == (model, False)
