from __future__ import annotations

import numpy as np
import onnx
import pytest
from fused import (
    FORM,
    HEADS,
    TRUNK,
    WIDTH,
    chain,
    counts,
    fused,
    head_conv,
    head_gemm,
    pooled,
    residual,
    scores,
    separate,
    tree,
    trunk,
)
from networks import Net, run
from onnx import TensorProto, helper

from expertc.surgery.fuse import FORMS

GROUPED, DENSE, ONLY_HEADS = FORM["grouped"], FORM["dense"], FORM["heads"]
EACH_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


EXPECTED = {
    "dense": {"Conv": 1 + 1 + 3, "BatchNormalization": 1 + 3, "Relu": 2 + 3, "Split": 1, "Gemm": 3},
    "heads": {"Conv": 1 + 6 + 1, "BatchNormalization": 6, "Relu": 7, "Gemm": 0, "Split": 0},
    "grouped": {"Conv": 4, "BatchNormalization": 2, "Relu": 3, "Split": 0, "Concat": 0, "Identity": 0, "Flatten": 0},
    "batched": {"Conv": 4, "BatchNormalization": 2, "Relu": 3, "Split": 0, "Concat": 0, "MatMul": 0},
}


@EACH_FORM
def test_separate_branches(form: object) -> None:
    data = separate().bytes()
    assert counts(data)["Conv"] == 7
    found = counts(fused(data, form))
    expected = EXPECTED[form.name]
    assert {op: found.get(op, 0) for op in expected} == expected


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("form", [GROUPED, ONLY_HEADS], ids=["grouped", "heads"])
def test_heads_become_one_grouped_convolution(head: str, classes: int, form: object) -> None:
    data = separate(head=head, classes=classes, norm=False).bytes()
    before, after = counts(data), counts(fused(data, form))
    products = {"Conv": 1 + (2 if form is GROUPED else 6) + 1, "Gemm": 0, "MatMul": 0, "Add": int("add" in head)}
    assert {op: after.get(op, 0) for op in products} == products
    assert sum(after.values()) < sum(before.values())


@pytest.mark.parametrize(("opset", "batch"), [(11, "batch"), (13, 1), (18, "batch"), (20, 1)])
def test_opsets_and_batches(opset: int, batch: int | str) -> None:
    data = separate(opset=opset, head="reshape", batch=batch).bytes()
    proto = onnx.load_from_string(fused(data, DENSE, batch=1 if batch == 1 else 3))
    assert [len(node.input) for node in proto.graph.node if node.op_type == "Split"] == [1 if opset < 13 else 2]
    assert counts(fused(data, GROUPED, batch=1 if batch == 1 else 3))["Conv"] == 4


def test_symbolic_sides() -> None:
    net = Net(17)
    net.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"]))
    x = net.node("Relu", net.conv("image", 3, TRUNK, kernel=3))
    scores(net, [head_gemm(net, residual(net, x, f"b{i}")) for i in range(3)])
    data = net.bytes()
    inputs = {"image": np.random.default_rng(0).standard_normal((2, 3, 12, 10)).astype(np.float32)}
    result = fused(data, GROUPED)
    assert counts(result)["Conv"] == 1 + 4 + 1
    np.testing.assert_allclose(run(result, inputs)["scores"], run(data, inputs)["scores"], rtol=1e-4)


def test_residual_branches_with_projections() -> None:
    net = Net(17)
    x = trunk(net)
    ends = [residual(net, residual(net, x, f"b{i}"), f"c{i}", cin=WIDTH, stride=1) for i in range(4)]
    data = scores(net, [head_conv(net, end) for end in ends]).bytes()
    assert counts(data)["Conv"] == 1 + 4 * 9
    found = fused(data, GROUPED)
    assert counts(found) == {
        "Conv": 10, "Relu": 7, "Add": 2, "ReduceMean": 1, "Reshape": 1,
    }  # fmt: skip
    groups = [
        next((a.i for a in node.attribute if a.name == "group"), 1)
        for node in onnx.load_from_string(found).graph.node
        if node.op_type == "Conv"
    ]
    assert sorted(groups) == [1, 1, 1, *[4] * 7], "the two that read the trunk are dense"
    assert counts(fused(data, DENSE))["Conv"] == 1 + 2 + 4 * 7
    batched = counts(fused(data, FORM["batched"]))
    # Of the pointwise ones one is the second projection (stride 1); the heads too are a batched product.
    assert (batched["MatMul"], batched["Conv"]) == (5, 5)


@EACH_FORM
def test_a_tree_of_equal_numbers_of_children(form: object) -> None:
    found = counts(fused(tree([2, 2, 2]).bytes(), form))
    if form is GROUPED:
        assert found == {
            "Conv": 1 + 2 + 2 + 1, "Relu": 5, "GlobalAveragePool": 1, "Reshape": 3,
        }  # fmt: skip


@EACH_FORM
def test_a_tree_of_unequal_numbers_of_children(form: object) -> None:
    """Parents of two are one kind, those of three another; the one of one child stays."""
    order = [3, 0, 7, 2, 1, 5, 9, 10, 4, 8, 6]
    data = tree([2, 3, 1, 2, 3], order).bytes()
    found = counts(fused(data, form))
    if form is GROUPED:
        assert found == {
            "Conv": 1 + 3 * (2 + 2) + 2, "Relu": 13, "GlobalAveragePool": 3, "Reshape": 2 * 3, "Flatten": 1, "Gemm": 1,
            "Concat": 1, "Gather": 1,
        }  # fmt: skip


def test_children_whose_parents_have_nothing_alike() -> None:
    """Siblings under each of two parents that are none: two rows."""
    net = Net(17)
    x = trunk(net)
    y, z = chain(net, x, "p", norm=False), net.node("Tanh", net.conv(x, TRUNK, WIDTH, kernel=3))
    parts = [head_gemm(net, chain(net, at, f"b{i}", cin=WIDTH, norm=False)) for i, at in enumerate((y, z, y, z))]
    found = counts(fused(scores(net, parts).bytes(), GROUPED))
    assert (found["Conv"], found["Gather"], found.get("Split", 0)) == (4 + 2 * (2 + 1), 1, 0)


def test_the_order_of_the_scores() -> None:
    net = Net(17)
    x = trunk(net)
    parts = [head_gemm(net, chain(net, x, f"b{i}", norm=False), 2) for i in range(4)]
    found = counts(fused(scores(net, parts, 2, [2, 0, 3, 1]).bytes(), GROUPED))
    assert (found.get("Split", 0), found.get("Concat", 0), found["Gather"], found["Conv"]) == (0, 0, 1, 4)


def test_a_large_tensor_is_joined_in_order_or_not_at_all() -> None:
    def data(order: list[int]) -> bytes:
        net = Net(17)
        x = trunk(net)
        ends = [chain(net, x, f"b{i}", norm=False) for i in range(3)]
        joined = net.node("Concat", *(ends[i] for i in order), axis=1)
        return scores(net, [net.head(joined, 3 * WIDTH, 2), net.head(joined, 3 * WIDTH, 1)]).bytes()

    def scores(net: Net, parts: list[str]) -> Net:
        net.result(net.node("Concat", *parts, axis=1, out="scores"), 3)
        return net

    straight, mixed = (counts(fused(data(order), GROUPED)) for order in ([0, 1, 2], [2, 0, 1]))
    assert (straight["Conv"], straight.get("Split", 0), straight["Concat"]) == (3, 0, 1)
    assert (mixed["Conv"], mixed["Split"], mixed["Concat"], mixed.get("Gather", 0)) == (3, 1, 2, 0)


def test_parts_of_two_concatenations() -> None:
    """Four branches of two kinds of joint; and a class that is in both."""
    net = Net(17)
    x = trunk(net)
    parts = [head_gemm(net, chain(net, x, f"b{i}", norm=False)) for i in range(4)]
    net.result(net.node("Concat", *parts[:2], axis=1, out="first"), 2)
    net.result(net.node("Concat", parts[3], parts[2], axis=1, out="second"), 2)
    found = counts(fused(net.bytes(), GROUPED))
    assert (found["Conv"], found.get("Split", 0), found["Gather"]) == (4, 0, 2)


@EACH_FORM
def test_depthwise_and_grouped_layers_scales_and_gates(form: object) -> None:
    net = Net(17)
    x = trunk(net)
    parts = []
    for i in range(3):
        y = net.conv(x, TRUNK, 4, name=f"b{i}")
        y = net.node("Mul", y, net.node("Sigmoid", y))  # SiLU
        y = net.node("Clip", net.conv(y, 4, 4, kernel=3, group=4), net.constant(0.0, f"l{i}"), net.constant(6.0))
        y = net.node("PRelu", net.conv(y, 4, 4, kernel=3, group=2), net.weight(4, 1, 1))
        gate = net.node("Relu", net.conv(pooled(net, y), 4, 1))
        gate = net.node("HardSigmoid", net.conv(gate, 1, 4))
        y = net.node("Mul", gate, y)  # squeeze and excitation
        y = net.node("Add", net.node("Mul", y, net.weight(1, 4, 1, 1)), net.constant(np.float32(i) / 7, f"s{i}"))
        y = net.node("MaxPool", net.node("Div", y, x_side(net, x)), kernel_shape=[2, 2], strides=[2, 2])
        parts.append(net.head(net.node("Neg", y), 4, 2))
    data = scores(net, parts, 2).bytes()
    found = counts(fused(data, form))
    if form is GROUPED:
        assert found == {
            "Conv": 1 + 5 + 1, "Relu": 2, "Mul": 3, "Sigmoid": 1, "Clip": 1, "PRelu": 1, "GlobalAveragePool": 2,
            "HardSigmoid": 1, "Add": 1, "Div": 1, "MaxPool": 1, "Neg": 1, "Reshape": 3, "Exp": 1, "ReduceMean": 1,
        }  # fmt: skip


def x_side(net: Net, x: str) -> str:
    """One channel that all branches read."""
    if "side" not in net.__dict__:
        net.side = net.node("Exp", net.node("ReduceMean", x, axes=[1], keepdims=1))  # type: ignore[attr-defined]
    return str(net.side)  # type: ignore[attr-defined]
