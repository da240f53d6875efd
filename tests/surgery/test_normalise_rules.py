"""Pooling, reductions, normalisations: what they mix stays whole, what they leave alone is cut."""

from __future__ import annotations

from typing import Any

import pytest
from laws import check
from networks import Net, card
from onnx import TensorProto

from expertc.card import Card, Output


def branches(opset: int = 20, channels: int = 5) -> tuple[Net, str]:
    """A net and a tensor ``[N, channels, 4, 4]`` whose channel c only class c needs."""
    net = Net(opset)
    return net, net.conv(net.image(), 3, channels, name="c")


def pooled(net: Net, tensor: str, name: str = "scores", channels: int = 5) -> Net:
    """Channel c, averaged over space, is the score of class c."""
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.result(net.node("Identity", flat, out=name), channels)
    return net


def all_outputs(net: Net) -> Card:
    """A card that calls every output logits."""
    return card(5, *(Output(value.name) for value in net.outputs))


POOLS: list[tuple[str, dict[str, Any]]] = [
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("LpPool", {"kernel_shape": [2, 2], "p": 2}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
]


def test_pools_keep_channels_apart() -> None:
    net, tensor = branches()
    for number, (op, attributes) in enumerate(POOLS):
        pooled(net, net.node(op, tensor, **attributes), f"scores {number}: {op}")
    expert = check(net, all_outputs(net), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_the_indices_of_a_max_pool_count_over_all_channels() -> None:
    """Its second output numbers the elements of the whole tensor, so no channel may go."""
    net, tensor = branches()
    _, places = net.node("MaxPool", tensor, out=["value", "place"], kernel_shape=[4, 4])
    net.result(net.node("Flatten", net.node("Cast", places, to=TensorProto.FLOAT), out="scores"), 5)
    expert = check(net, card(5), [1, 4], alive=False)
    assert expert.shapes["c.w"] == (5, 3, 1, 1)
    assert expert.stopped == ["the indices of MaxPool are used"]


def test_batch_norm_vectors_go_with_the_channel() -> None:
    net, tensor = branches()
    expert = check(pooled(net, net.norm(tensor, 5, name="n")), card(5), [0, 3])
    assert {expert.shapes[f"n.{kind}"] for kind in ("g", "b", "mean", "var")} == {(2,)}
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_batch_norm_of_a_matrix() -> None:
    net = Net()
    net.result(net.node("Identity", net.norm(net.head(net.image(), 3, 5, name="h"), 5, name="n"), out="scores"), 5)
    expert = check(net, card(5), [1, 2])
    assert (expert.shapes["n.mean"], expert.shapes["h.w"]) == ((2,), (2, 3))


def test_instance_norm() -> None:
    net, tensor = branches()
    normed = net.node("InstanceNormalization", tensor, net.weight(5, name="g"), net.weight(5, name="b"))
    expert = check(pooled(net, net.node("Exp", normed)), card(5), [0, 3])
    assert (expert.shapes["g"], expert.shapes["c.w"]) == ((2,), (2, 3, 1, 1))


def test_layer_norm_over_the_channels_needs_them_all() -> None:
    net, tensor = branches()
    last = net.node("Transpose", tensor, perm=[0, 2, 3, 1])
    normed = net.node("LayerNormalization", last, net.weight(5, name="g"), net.weight(5, name="b"), axis=-1)
    own = net.node("Mul", normed, net.weight(5, name="after"))
    expert = check(pooled(net, net.node("Transpose", own, perm=[0, 3, 1, 2])), card(5), [0, 3], alive=False)
    assert (expert.shapes["g"], expert.shapes["c.w"], expert.shapes["after"]) == ((5,), (5, 3, 1, 1), (2,))


def test_layer_norm_over_space_leaves_the_channel_free() -> None:
    net, tensor = branches()
    normed = net.node("LayerNormalization", tensor, net.weight(4, 4, name="g"), axis=2)
    expert = check(pooled(net, net.node("Exp", normed)), card(5), [0, 3])
    assert (expert.shapes["g"], expert.shapes["c.w"]) == ((4, 4), (2, 3, 1, 1))


@pytest.mark.parametrize(("axis", "channels"), [(1, 5), (-3, 5), (3, 2), (-1, 2)])
def test_lp_norm(axis: int, channels: int) -> None:
    net, tensor = branches()
    expert = check(pooled(net, net.node("LpNormalization", tensor, axis=axis)), card(5), [0, 3])
    assert expert.shapes["c.w"] == (channels, 3, 1, 1)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("axis", "channels"), [(1, 5), (-3, 5), (2, 2), (-1, 2)])
def test_an_inner_softmax_mixes_one_axis(op: str, axis: int, channels: int) -> None:
    net, tensor = branches()
    inner = net.node("Mul", net.node(op, tensor, axis=axis), net.weight(5, 4, 4, name="k"))
    expert = check(pooled(net, inner), card(5), [0, 3])
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((channels, 3, 1, 1), (2, 4, 4))


@pytest.mark.parametrize(("axis", "channels"), [(1, 5), (2, 2), (-1, 2), (None, 5)])
def test_before_opset_13_a_softmax_flattens_from_its_axis_on(axis: int | None, channels: int) -> None:
    net, tensor = branches(opset=11)
    attributes = {} if axis is None else {"axis": axis}
    inner = net.node("Mul", net.node("Softmax", tensor, **attributes), net.weight(5, 4, 4, name="k"))
    expert = check(pooled(net, inner), card(5), [0, 3], judge=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((channels, 3, 1, 1), (2, 4, 4))


REDUCTIONS = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
]  # fmt: skip


def test_reductions_over_space_by_input() -> None:
    net, tensor = branches()
    positive, axes = net.node("Exp", tensor), net.constant([-1, 2], "axes")
    for op in REDUCTIONS:
        for keepdims in (0, 1):
            net.result(net.node("Flatten", net.node(op, positive, axes, keepdims=keepdims), out=f"{op} {keepdims}"), 5)
    expert = check(net, all_outputs(net), [2, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_reductions_over_space_by_attribute() -> None:
    net, tensor = branches(opset=11)
    positive = net.node("Exp", tensor)
    for op in REDUCTIONS:
        for keepdims in (0, 1):
            reduced = net.node(op, positive, axes=[2, -1], keepdims=keepdims)
            net.result(net.node("Flatten", reduced, out=f"{op} {keepdims}"), 5)
    expert = check(net, all_outputs(net), [2, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_without_keepdims_later_axes_move_down() -> None:
    """[N, 2, 5, 4] summed over axis 1: the class axis is 2 before and 1 after."""
    net = Net()
    split = net.node("Reshape", net.conv(net.image(), 3, 10, name="c"), net.constant([-1, 2, 5, 16]))
    summed = net.node("ReduceSum", split, net.constant([1]), keepdims=0)
    net.result(net.node("ReduceMean", summed, net.constant([2]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [1, 4])
    assert expert.shapes["c.w"] == (4, 3, 1, 1)
    assert expert.stopped == []


@pytest.mark.parametrize("axes", [[0, 1], [1, 2], None])
def test_a_reduction_over_the_channels_needs_them_all(axes: list[int] | None) -> None:
    net = Net(batch=2)
    tensor = net.conv(net.image(), 3, 5, name="c")
    inputs = [tensor] if axes is None else [tensor, net.constant(axes)]
    total = net.node("ReduceMean", *inputs, keepdims=1)
    net.result(
        net.node("ReduceMean", net.node("Mul", total, tensor), net.constant([2, 3]), keepdims=0, out="scores"), 5
    )
    expert = check(net, card(5), [1, 4], alive=False)
    assert expert.shapes["c.w"] == (5, 3, 1, 1)


def test_noop_with_empty_axes() -> None:
    net, tensor = branches()
    same = net.node("ReduceSum", tensor, net.constant([], "none"), noop_with_empty_axes=1)
    net.initializers["none"] = net.initializers["none"].astype("int64")
    expert = check(pooled(net, same), card(5), [1, 4], judge=False)
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    net, tensor = branches()
    expert = check(pooled(net, net.node("ReduceSum", tensor, noop_with_empty_axes=1)), card(5), [1, 4], judge=False)
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


@pytest.mark.parametrize("op", ["CumSum", "ArgMax", "TopK"])
def test_an_operator_that_runs_along_the_classes_in_the_middle_stops_the_demand(op: str) -> None:
    net = Net()
    logits = net.head(net.image(), 3, 5, name="h")
    if op == "CumSum":
        inner = net.node("CumSum", logits, net.constant(1, "axis"))
    elif op == "TopK":
        inner, _ = net.node("TopK", logits, net.constant([5], "k"), out=["top", "places"])
    else:
        inner = net.node("Cast", net.node("ArgMax", logits, axis=1, keepdims=1), to=TensorProto.FLOAT)
    net.result(net.node("Mul", inner, net.weight(5, name="after"), out="scores"), 5)
    expert = check(net, card(5), [1, 3], alive=False)
    assert (expert.shapes["h.w"], expert.shapes["after"]) == ((5, 3), (2,))


def test_an_operator_without_a_rule_keeps_everything_and_is_named() -> None:
    net, tensor = branches()
    expert = check(pooled(net, net.node("LRN", tensor, size=3)), card(5), [0, 4], alive=False)
    assert expert.shapes["c.w"] == (5, 3, 1, 1)
    assert expert.stopped == ["no rule for LRN"]
