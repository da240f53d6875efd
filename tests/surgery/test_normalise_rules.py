"""Pooling, reductions, normalisations: what they mix stays whole, what they leave alone is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from laws import check
from networks import Net, card
from onnx import TensorProto, helper

from expertc.card import Card, Output
from expertc.graph import read_model
from expertc.surgery.demand import Demand
from expertc.surgery.sweep import sweep


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
    ("LpPool", {"kernel_shape": [3, 3], "p": 1, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("GlobalAveragePool", {}),
    ("GlobalLpPool", {"p": 2}),
    ("GlobalMaxPool", {}),
]


def test_pools_keep_channels_apart() -> None:
    net, tensor = branches()
    for number, (op, attributes) in enumerate(POOLS):
        pooled(net, net.node(op, tensor, **attributes), f"scores {number}: {op}")
    # onnx.reference takes LpPool's padding for part of the window.
    expert = check(net, all_outputs(net), [1, 4], judge=False)
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


def test_the_statistics_of_a_batch_norm_go_with_the_channel() -> None:
    """Opset 14, training form: two more outputs, one value per channel (reading refuses it, so the rule is asked)."""
    net, tensor = branches(15)
    vectors = [net.weight(5, name=kind, positive=True) for kind in ("g", "b", "mean", "var")]
    net.node("BatchNormalization", tensor, *vectors, out=["scores", "new mean", "new var"])
    net.result("scores", 5, 4, 4)
    net.outputs.append(helper.make_tensor_value_info("new mean", TensorProto.FLOAT, [5]))
    model = read_model(net.model(check=False).SerializeToString())
    seeds = {
        name: Demand(True, {axis: np.arange(5) == row}) for name, axis, row in (("scores", 1, 1), ("new mean", 0, 3))
    }
    answer = sweep(model, seeds).answers[-1]
    assert answer is not None
    asks = [None if ask is None else ask.indices(axis) for ask, axis in zip(answer.asks, (1, 0, 0, 0, 0), strict=True)]
    assert [None if rows is None else list(rows) for rows in asks] == [[1, 3]] * 5
    assert answer.kept[2] is None


def test_instance_norm() -> None:
    net, tensor = branches()
    normed = net.node("InstanceNormalization", tensor, net.weight(5, name="g"), net.weight(5, name="b"))
    expert = check(pooled(net, net.node("Exp", normed)), card(5), [0, 3])
    assert (expert.shapes["g"], expert.shapes["c.w"]) == ((2,), (2, 3, 1, 1))


GROUPS = [([0, 1], 1), ([1, 4], 2), ([5], 1), ([0, 1, 2, 3], 2)]


@pytest.mark.parametrize(("keep", "groups"), GROUPS)
def test_group_norm_keeps_whole_groups(keep: list[int], groups: int) -> None:
    """Three groups of two channels, scores per pixel; scale and bias are one per channel from opset 21 on."""
    net, tensor = branches(21, channels=6)
    vectors = [net.weight(6, name=name) for name in ("g", "b")]
    net.result(net.node("GroupNormalization", tensor, *vectors, num_groups=3, out="scores"), 6, 4, 4)
    # ONNX infers no shape of it, so a second cut of what was cut already stays larger.
    expert = check(net, card(6), keep, exact=False, alive=False, composable=False)
    assert expert.shapes["c.w"] == (2 * groups, 3, 1, 1)
    assert expert.shapes["g"] == expert.shapes["b"] == (2 * groups,)
    assert expert.stopped == []


@pytest.mark.parametrize(("keep", "groups"), GROUPS)
def test_group_norm_before_opset_21_has_a_scale_per_group(keep: list[int], groups: int) -> None:
    """onnx.checker refuses that form today, so the rule alone is asked."""
    net, tensor = branches(21, channels=6)
    vectors = [net.weight(6, name=name) for name in ("g", "b")]
    net.result(net.node("GroupNormalization", tensor, *vectors, num_groups=3, out="scores"), 6, 4, 4)
    model = read_model(net.bytes())
    model = replace(model, graph=replace(model.graph, opsets={"": 20}))
    marks = np.isin(np.arange(6), keep)
    answer = sweep(model, {"scores": Demand(True, {1: marks})}).answers[-1]
    touched = sorted({c // 2 for c in keep})
    assert answer is not None
    assert [None if ask is None else ask.size(0, 3) for ask in answer.asks[1:]] == [groups, groups]
    assert answer.kept[0] is not None
    assert answer.kept[0].indices(1) is not None
    assert list(answer.kept[0].indices(1)) == [c for group in touched for c in (2 * group, 2 * group + 1)]


@pytest.mark.parametrize(("axis", "channels"), [(-1, 5), (1, 2)])
def test_rms_norm(axis: int, channels: int) -> None:
    """Opset 23: like a layer norm without the mean; over the channels (last) or over space."""
    net, tensor = branches(opset=23)
    last = net.node("Transpose", tensor, perm=[0, 2, 3, 1]) if axis == -1 else tensor
    weight = net.weight(5, name="g") if axis == -1 else net.weight(4, 4, name="g")
    normed = net.node("RMSNormalization", last, weight, axis=-1 if axis == -1 else 2)
    back = net.node("Transpose", normed, perm=[0, 3, 1, 2]) if axis == -1 else normed
    own = net.node("Exp", net.node("Mul", back, net.weight(5, 1, 1, name="after")))
    expert = check(pooled(net, own), card(5), [0, 3], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["after"]) == ((channels, 3, 1, 1), (2, 1, 1))
    assert expert.stopped == []


@pytest.mark.parametrize(("axes", "channels"), [([2, 3], 2), ([-1, -2], 2), ([1, 2, 3], 5), ([0, 2, 3], 2)])
def test_mean_variance_norm(axes: list[int], channels: int) -> None:
    """The last case is what it does without axes (ONNX cannot infer the shape of that form)."""
    net, tensor = branches()
    normed = net.node("MeanVarianceNormalization", tensor, axes=axes)
    own = net.node("Exp", net.node("Mul", normed, net.weight(5, 4, 4, name="k")))
    expert = check(pooled(net, own), card(5), [0, 3], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((channels, 3, 1, 1), (2, 4, 4))
    assert expert.stopped == []


def test_local_response_norm_looks_at_neighbouring_channels() -> None:
    net, tensor = branches()
    own = net.node("Mul", net.node("LRN", tensor, size=3), net.weight(5, 1, 1, name="k"))
    expert = check(pooled(net, own), card(5), [0, 4], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((5, 3, 1, 1), (2, 1, 1))
    assert expert.stopped == []


def test_local_response_norm_of_branches_on_another_axis() -> None:
    """[N * 3, 4, 4, 4]-like heads: the branch is not the channel, so it is cut. Here the class is the height."""
    net, tensor = branches(channels=4)
    normed = net.node("LRN", net.node("Transpose", tensor, perm=[0, 2, 1, 3]), size=3)
    net.result(net.node("ReduceMean", normed, net.constant([1, 3]), keepdims=0, out="scores"), 4)
    expert = check(net, card(4), [0, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


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


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(("axis", "channels"), [(1, 5), (-3, 5), (2, 2), (-1, 2)])
def test_an_inner_softmax_mixes_one_axis(op: str, axis: int, channels: int) -> None:
    net, tensor = branches()
    inner = net.node("Mul", net.node(op, tensor, axis=axis), net.weight(5, 4, 4, name="k"))
    expert = check(pooled(net, inner), card(5), [0, 3], alive=op != "Hardmax")
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


def along(net: Net, op: str, tensor: str, axis: int) -> str:
    """``tensor`` [N, 5, 4, 4] through an operator that runs along ``axis``; as floats."""
    if op == "CumSum":
        return str(net.node("CumSum", tensor, net.constant(axis, "axis"), exclusive=1, reverse=1))
    if op.startswith("TopK"):
        values, places = net.node("TopK", tensor, net.constant([2], "k"), out=["values", "places"], axis=axis)
        return str(values if op == "TopK" else net.node("Cast", places, to=TensorProto.FLOAT))
    return str(net.node("Cast", net.node(op, tensor, axis=axis, keepdims=1), to=TensorProto.FLOAT))


@pytest.mark.parametrize("op", ["CumSum", "TopK", "TopK places", "ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [2, -1])
def test_an_operator_that_runs_along_space_leaves_the_classes_free(op: str, axis: int) -> None:
    net, tensor = branches()
    expert = check(pooled(net, along(net, op, tensor, axis)), card(5), [1, 4], alive=False)
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_arg_max_without_its_axis() -> None:
    net, tensor = branches()
    flat = net.node("Cast", net.node("ArgMax", net.node("Transpose", tensor, perm=[0, 2, 3, 1]), axis=1, keepdims=0),
                    to=TensorProto.FLOAT)  # fmt: skip
    net.result(net.node("ReduceMean", flat, net.constant([1]), keepdims=0, out="scores"), 5)
    assert check(net, card(5), [1, 4], alive=False).shapes["c.w"] == (2, 3, 1, 1)


def test_both_outputs_of_a_top_k_inside_the_net() -> None:
    net, tensor = branches()
    values, places = net.node("TopK", tensor, net.constant([2], "k"), out=["values", "places"], axis=3)
    both = net.node("Mul", values, net.node("Cast", places, to=TensorProto.FLOAT))
    expert = check(pooled(net, both), card(5), [0, 2], alive=False)
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_top_k_before_opset_10_has_its_number_as_an_attribute() -> None:
    net, tensor = branches(opset=9)
    values, _ = net.node("TopK", tensor, out=["values", "places"], axis=2, k=3)
    expert = check(pooled(net, values), card(5), [0, 2], alive=False, judge=False)
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_what_depends_on_every_element_needs_every_class(op: str) -> None:
    """How many there are, divided out again: the number is one, but it takes all of the tensor to know."""
    net = Net()
    logits = net.head(net.image(), 3, 5, name="h")
    listed = net.node(op, logits, **({} if op == "NonZero" else {"axis": 1}))
    one = net.node("Exp", net.node("Mul", net.node("Cast", net.node("ReduceMax", listed, keepdims=0),
                                                   to=TensorProto.FLOAT), net.constant(0.0)))  # fmt: skip
    net.result(net.node("Mul", net.node("Mul", logits, one), net.weight(5, name="after"), out="scores"), 5)
    expert = check(net, card(5), [1, 3], alive=False)
    assert (expert.shapes["h.w"], expert.shapes["after"]) == ((5, 3), (2,))


def test_an_operator_without_a_rule_keeps_everything_and_is_named() -> None:
    net, tensor = branches()
    expert = check(pooled(net, net.node("Trilu", tensor)), card(5), [0, 4], alive=False)
    assert expert.shapes["c.w"] == (5, 3, 1, 1)
    assert expert.stopped == ["no rule for Trilu"]
