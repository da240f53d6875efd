"""Reshape, Flatten, Transpose, Squeeze, Unsqueeze: where an index goes when the axes are laid out anew."""

from __future__ import annotations

import numpy as np
import pytest
from laws import check
from networks import Net, card, weights
from onnx import TensorProto, helper

from expertc.surgery.rules.layout import Block, align, target_shape


def hidden(net: Net, channels: int, **image: int) -> str:
    """Flat features ``[N, channels]`` from a convolution "c", one row of weights per feature."""
    return str(net.node("Flatten", net.node("GlobalAveragePool", net.conv(net.image(**image), 3, channels, name="c"))))


# -- Reshape: one axis to many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [[-1, 3, 4], [0, 3, 4], [0, -1, 4], [0, 3, -1]])
def test_one_axis_to_branch_and_channel(target: list[int]) -> None:
    """[N, 12] is 3 branches of 4 channels; a branch's score is the sum of its channels."""
    net = Net()
    split = net.node("Reshape", hidden(net, 12), net.constant(target, "target"))
    net.result(net.node("ReduceSum", split, net.constant([2]), keepdims=0, out="scores"), 3)
    expert = check(net, card(3), [0, 2])
    assert expert.shapes["c.w"] == (8, 3, 1, 1)
    assert expert.stopped == []
    assert list(weights(expert.data)["target"]) == [-1, 2, 4]


def test_a_static_batch_stays_static() -> None:
    net = Net(batch=2)
    split = net.node("Reshape", hidden(net, 12), net.constant([2, 3, 4], "target"))
    net.result(net.node("ReduceSum", split, net.constant([2]), keepdims=0, out="scores"), 3)
    expert = check(net, card(3), [1, 2])
    assert list(weights(expert.data)["target"]) == [2, 2, 4]


def test_allowzero_is_of_no_matter_without_a_zero() -> None:
    net = Net()
    split = net.node("Reshape", hidden(net, 12), net.constant([-1, 3, 4], "target"), allowzero=1)
    net.result(net.node("ReduceSum", split, net.constant([2]), keepdims=0, out="scores"), 3)
    assert check(net, card(3), [1, 2]).shapes["c.w"] == (8, 3, 1, 1)


def test_many_axes_to_one() -> None:
    """[N, 3, 4] to [N, 12] scores: what is touched is closed to branches times channels."""
    net = Net()
    split = net.node("Reshape", hidden(net, 12), net.constant([-1, 3, 4]))
    scaled = net.node("Mul", split, net.weight(3, 4, name="k"))
    net.result(net.node("Reshape", scaled, net.constant([-1, 12], "target"), out="scores"), 12)
    branch = check(net, card(12), [4, 5, 6, 7])
    assert (branch.shapes["k"], branch.shapes["c.w"]) == ((1, 4), (4, 3, 1, 1))
    channel = check(net, card(12), [1, 5, 9])
    assert (channel.shapes["k"], channel.shapes["c.w"]) == ((3, 1), (3, 3, 1, 1))
    unequal = check(net, card(12), [0, 5], alive=False)
    assert (unequal.shapes["k"], unequal.shapes["c.w"]) == ((2, 2), (4, 3, 1, 1))
    assert unequal.operators.count("Gather") == 1


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle(groups: int) -> None:
    """Reshape, Transpose, Reshape: no rule of its own, and every channel finds its own weights."""
    net = Net()
    tensor = net.conv(net.image(), 3, 6, name="c")
    parts = net.node("Reshape", tensor, net.constant([0, groups, 6 // groups, 4, 4]))
    turned = net.node("Transpose", parts, perm=[0, 2, 1, 3, 4])
    shuffled = net.node("Reshape", turned, net.constant([0, -1, 4, 4]))
    net.result(net.node("ReduceMean", shuffled, net.constant([2, 3]), keepdims=0, out="scores"), 6)
    expert = check(net, card(6), [0, 1])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []
    order = np.arange(6).reshape(groups, -1).T.reshape(-1)
    assert np.array_equal(weights(expert.data)["c.w"], net.initializers["c.w"][np.sort(order[:2])])


def test_channels_and_space_to_tokens_and_back() -> None:
    """[N, C, H, W] to [N, C, H*W]: the channel's block is itself, space is another."""
    net = Net()
    tensor = net.conv(net.image(), 3, 5, name="c")
    tokens = net.node("Transpose", net.node("Reshape", tensor, net.constant([0, 5, -1])), perm=[0, 2, 1])
    net.result(net.node("ReduceMean", net.node("Tanh", tokens), net.constant([1]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [1, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_a_target_computed_from_the_shape() -> None:
    """Shape, Gather, Concat: the batch is read at run time; the chain is gone and the target is written out."""
    net = Net()
    flat = hidden(net, 12)
    batch = net.node("Gather", net.node("Shape", flat), net.constant([0]), axis=0)
    target = net.node("Concat", batch, net.constant([3, 4]), axis=0)
    split = net.node("Reshape", flat, target)
    net.result(net.node("ReduceSum", split, net.constant([2]), keepdims=0, out="scores"), 3)
    expert = check(net, card(3), [0, 1])
    assert expert.shapes["c.w"] == (8, 3, 1, 1)
    assert expert.stopped == []
    assert not {"Shape", "Gather", "Concat"} & set(expert.operators)


def test_a_number_computed_from_a_channel_count_does_not_change_with_it() -> None:
    """The mean over channels written as ReduceSum / Shape[1]: cutting must not change the divisor."""
    net = Net()
    tensor = net.conv(net.image(), 3, 5, name="c")
    count = net.node("Cast", net.node("Gather", net.node("Shape", tensor), net.constant(1)), to=TensorProto.FLOAT)
    net.result(
        net.node("Div", net.node("ReduceMean", tensor, net.constant([2, 3]), keepdims=0), count, out="scores"), 5
    )
    check(net, card(5), [0, 2])


def test_a_reshape_that_mixes_batch_and_class_stops_the_demand() -> None:
    net = Net()
    mixed = net.node("Reshape", hidden(net, 12), net.constant([-1, 4]))
    summed = net.node("ReduceSum", mixed, net.constant([1]), keepdims=1)
    net.result(net.node("Reshape", summed, net.constant([-1, 3]), out="scores"), 3)
    expert = check(net, card(3), [0, 2], alive=False)
    assert expert.shapes["c.w"] == (12, 3, 1, 1)
    assert expert.stopped == ["Reshape mixes an axis of unknown size"]


def test_many_to_many_without_a_common_factor_is_left_whole() -> None:
    net = Net()
    first = net.node("Tanh", net.node("Reshape", hidden(net, 12), net.constant([-1, 3, 4])))
    second = net.node("Reshape", first, net.constant([-1, 4, 3]))
    net.result(net.node("ReduceSum", second, net.constant([2]), keepdims=0, out="scores"), 4)
    expert = check(net, card(4), [0, 1], alive=False)
    assert expert.shapes["c.w"] == (12, 3, 1, 1)
    assert expert.stopped == ["Reshape mixes axes that have no common factors"]


@pytest.mark.parametrize("keep", [[0, 1, 2, 3], [8, 11], [1, 9], [5]])
def test_many_to_many_along_common_factors(keep: list[int]) -> None:
    """[N, 6, 4] to [N, 3, 8]: both are [N, 3, 2, 4]; class 4 g + p is channel p, of either half, of group g."""
    net = Net()
    parts = net.node("Reshape", hidden(net, 24), net.constant([0, 6, 4], "first"))
    scaled = net.node("Mul", parts, net.weight(6, 4, name="k"))
    groups = net.node("Reshape", scaled, net.constant([0, 3, 8], "second"))
    halves = net.node("Reshape", groups, net.constant([0, 3, 2, 4]))
    summed = net.node("ReduceSum", halves, net.constant([2]), keepdims=0)
    net.result(net.node("Reshape", summed, net.constant([0, 12]), out="scores"), 12)
    expert = check(net, card(12), keep, exact=False)
    touched, positions = {c // 4 for c in keep}, {c % 4 for c in keep}
    assert expert.shapes["c.w"] == (2 * len(touched) * len(positions), 3, 1, 1)
    assert expert.shapes["k"] == (2 * len(touched), len(positions))
    assert list(weights(expert.data)["second"]) == [-1, len(touched), 2 * len(positions)]
    assert expert.stopped == []


def test_a_group_norm_written_with_an_instance_norm() -> None:
    """[N, 8, 4, 4] to [N, 4, -1] and back: groups of two channels and all of space are normalised together."""
    net = Net()
    tensor = net.conv(net.image(), 3, 8, name="c")
    groups = net.node("Reshape", tensor, net.constant([0, 4, -1], "groups"))
    normed = net.node("InstanceNormalization", groups, net.weight(4, name="g"), net.weight(4, name="b"))
    back = net.node("Reshape", normed, net.constant([-1, 8, 4, 4], "back"))
    scaled = net.node("Exp", net.node("Mul", back, net.weight(8, 1, 1, name="k")))
    net.result(net.node("ReduceMean", scaled, net.constant([2, 3]), keepdims=0, out="scores"), 8)
    expert = check(net, card(8), [2, 7])
    assert (expert.shapes["c.w"], expert.shapes["g"], expert.shapes["k"]) == ((4, 3, 1, 1), (2,), (2, 1, 1))
    assert list(weights(expert.data)["back"]) == [-1, 4, 4, 4]


def test_windows_of_a_batch_of_unknown_size() -> None:
    """[N, 4, 4, C] to [N * 4, 4, C] and back, as window attention does: the channel is found from the right."""
    net = Net()
    last = net.node("Transpose", net.conv(net.image(), 3, 6, name="c"), perm=[0, 2, 3, 1])
    windows = net.node("Reshape", last, net.constant([-1, 4, 6], "windows"))
    bent = net.node("Tanh", net.node("Mul", windows, net.weight(6, name="k")))
    back = net.node("Reshape", bent, net.constant([-1, 4, 4, 6]))
    net.result(net.node("ReduceMean", back, net.constant([1, 2]), keepdims=0, out="scores"), 6)
    expert = check(net, card(6), [0, 5])
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((2, 3, 1, 1), (2,))
    assert list(weights(expert.data)["windows"]) == [-1, 4, 2]
    assert expert.stopped == []


@pytest.mark.parametrize("target", [[0, 0, 3, 2], [0, -1, 3, 2]])
def test_two_axes_of_unknown_size_are_copied_and_inferred(target: list[int]) -> None:
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", "length", 4]))
    wide = net.node("MatMul", "tokens", net.weight(4, 6, name="w"))
    split = net.node("Reshape", wide, net.constant(target, "target"))
    net.result(net.node("ReduceSum", split, net.constant([1, 3]), keepdims=0, out="scores"), 3)
    expert = check(net, card(3, image="tokens"), [0, 2])
    assert expert.shapes["w"] == (4, 4)
    assert list(weights(expert.data)["target"]) == [0, 0, 2, 2]
    assert expert.stopped == []


def test_a_target_of_unknown_sizes_that_nothing_can_be_copied_to() -> None:
    """[N, L, 6] to [L, N, 3, 2] by a computed target: no constant says it, so all of it stays."""
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", "length", 4]))
    wide = net.node("MatMul", "tokens", net.weight(4, 6, name="w"))
    sizes = [net.node("Shape", "tokens", start=axis, end=axis + 1) for axis in (1, 0)]
    split = net.node("Reshape", wide, net.node("Concat", *sizes, net.constant([3, 2]), axis=0))
    net.result(net.node("ReduceSum", split, net.constant([0, 3]), keepdims=0, out="scores"), 3)
    expert = check(net, card(3, image="tokens"), [0, 2], alive=False)
    assert expert.shapes["w"] == (4, 6)
    assert len(expert.stopped) == 1


@pytest.mark.parametrize(
    ("before", "after", "blocks"),
    [
        (("n", 12), ("n", 3, 4), [((0,), (0,), None), ((1,), (1, 2), (3, 4))]),
        (("n", 3, 4), ("n", 12), [((0,), (0,), None), ((1, 2), (1,), (3, 4))]),
        (("n", 6, 4), ("n", 3, 8), [((0,), (0,), None), ((1, 2), (1, 2), (3, 2, 4))]),
        (("n", 3, 4), ("n", 4, 3), [((0,), (0,), None), ((1, 2), (1, 2), None)]),
        (
            ("n", 2, 6, 5),
            ("n", 2, 3, 2, 5),
            [((0,), (0,), None), ((1,), (1,), (2,)), ((2,), (2, 3), (3, 2)), ((3,), (4,), (5,))],
        ),
        (("n", 1, 4, 1), (1, "n", 4), [((0,), (1,), None), ((2,), (2,), (4,))]),
        ((6, 4), (24,), [((0, 1), (0,), (6, 4))]),
        (("n", 4), ("m", 4), [((0,), (0,), None), ((1,), (1,), (4,))]),
        ((None, 4), (None, 4), [((0,), (0,), None), ((1,), (1,), (4,))]),
        (("n", 4), (4, "n"), [((0, 1), (0, 1), None)]),
        (("n", 8, 7, 5), (None, 7, 5), [((0, 1), (0,), None), ((2,), (1,), (7,)), ((3,), (2,), (5,))]),
        ((6, 4), (24, 2), None),
        ((0, 4), (5, 4), None),
    ],
)
def test_align(before: tuple, after: tuple, blocks: list | None) -> None:
    wanted = None if blocks is None else [Block(*block) for block in blocks]
    assert align(before, after) == wanted


@pytest.mark.parametrize(
    ("before", "target", "after"),
    [
        (("n", 12), [-1, 3, 4], ("n", 3, 4)),
        (("n", 12), [0, -1], ("n", 12)),
        (("n", 4, 4), [-1, 16], ("n", 16)),
        (("n", 4, 4), [-1, 4], (None, 4)),
        (("n", 4, 4), [-1], (None,)),
        (("n", "n", 4), [0, -1], ("n", None)),
        ((2, 12), [-1, 4], (6, 4)),
        (("n", "m", 4), [0, 0, -1], ("n", "m", 4)),
        ((None, 4), [0, 2, -1], (None, 2, 2)),
    ],
)
def test_target_shape(before: tuple, target: list[int], after: tuple) -> None:
    assert target_shape(before, target, allow_zero=False) == after


def test_target_shape_with_zeros_that_are_zeros() -> None:
    assert target_shape((0, 5), [0, 7], allow_zero=True) == (0, 7)


# -- Flatten -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -3])
def test_flatten_of_a_pooled_map(axis: int) -> None:
    net = Net()
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c"))
    net.result(net.node("Neg", net.node("Flatten", pooled, axis=axis), out="scores"), 5)
    assert check(net, card(5), [0, 4]).shapes["c.w"] == (2, 3, 1, 1)


def test_flatten_across_a_cut_channel_and_space() -> None:
    """A linear layer on [N, C*H*W]: the rows of its weight that belong to a dead channel are gone."""
    net = Net()
    tensor = net.node("Tanh", net.conv(net.image(), 3, 2, name="c"))
    split = net.node("Split", tensor, out=["a", "b"], axis=1, num_outputs=2)
    heads = [net.node("MatMul", net.node("Flatten", part), net.weight(16, 2, name=f"{part}.w")) for part in split]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 4)
    expert = check(net, card(4), [2, 3], exact=False)
    assert expert.shapes == {"c.w": (1, 3, 1, 1), "c.b": (1,), "b.w": (16, 2)}


def test_flatten_then_scores_straight_from_channel_and_space() -> None:
    """Class 16 c + p is position p of channel c."""
    net = Net()
    net.result(net.node("Flatten", net.conv(net.image(), 3, 3, name="c"), out="scores"), 48)
    expert = check(net, card(48), [17, 30], alive=False, exact=False)
    assert expert.shapes["c.w"] == (1, 3, 1, 1)
    assert expert.operators[0] == "Conv"
    assert expert.operators[-2:] == ["Flatten", "Gather"]


def test_flatten_at_axis_0_of_a_single_image() -> None:
    net = Net(batch=1)
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c"))
    net.result(net.node("Flatten", pooled, axis=0, out="scores"), 5)
    assert check(net, card(5), [1, 2], alive=False).shapes["c.w"][0] == 2


# -- Transpose, Squeeze, Unsqueeze -------------------------------------------------------------------------------------


def test_transpose_chains() -> None:
    net = Net()
    tensor = net.conv(net.image(), 3, 5, name="c")
    last = net.node("Transpose", tensor, perm=[0, 2, 3, 1])
    scaled = net.node("Mul", last, net.weight(5, name="k"))
    strange = net.node("Transpose", net.node("Transpose", scaled, perm=[3, 0, 2, 1]), perm=[1, 0, 3, 2])
    net.result(net.node("ReduceMean", strange, net.constant([2, 3]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [2, 3])
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((2, 3, 1, 1), (2,))


def test_transpose_without_a_permutation_reverses() -> None:
    net = Net()
    turned = net.node("Transpose", net.conv(net.image(), 3, 5, name="c"))
    scaled = net.node("Mul", turned, net.weight(5, 1, name="k"))
    net.result(net.node("ReduceMean", net.node("Transpose", scaled), net.constant([2, 3]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [2, 4])
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((2, 3, 1, 1), (2, 1))


@pytest.mark.parametrize("keep", [[0, 2], [1]])
@pytest.mark.parametrize("opset", [11, 20])
def test_squeeze_without_axes_gets_explicit_ones_so_that_one_channel_survives(opset: int, keep: list[int]) -> None:
    net = Net(opset, batch=2)
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c"))
    net.result(net.node("Squeeze", pooled, out="scores"), 5)
    expert = check(net, card(5), keep, exact=False)
    assert expert.shapes["c.w"] == (len(keep), 3, 1, 1)


def test_squeeze_without_axes_may_drop_a_batch_of_one() -> None:
    net = Net()
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c"))
    squeezed = net.node("Reshape", net.node("Squeeze", pooled), net.constant([-1, 5]))
    net.result(net.node("Mul", squeezed, net.weight(5, name="k"), out="scores"), 5)
    expert = check(net, card(5), [1, 2], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((5, 3, 1, 1), (2,))


@pytest.mark.parametrize("opset", [11, 20])
def test_squeeze_and_unsqueeze_with_axes_as_attribute_and_as_input(opset: int) -> None:
    net = Net(opset)
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c"))

    def with_axes(op: str, tensor: str, axes: list[int], out: str = "") -> str:
        if opset < 13:
            return str(net.node(op, tensor, axes=axes, out=out))
        return str(net.node(op, tensor, net.constant(axes), out=out))

    flat = with_axes("Squeeze", pooled, [-1, 2])
    wide = with_axes("Unsqueeze", flat, [1, -1])
    scaled = net.node("Mul", wide, net.weight(1, 5, 1, name="k"))
    with_axes("Squeeze", scaled, [1, 3], out="scores")
    net.result("scores", 5)
    expert = check(net, card(5), [1, 3])
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((2, 3, 1, 1), (1, 2, 1))
    assert expert.stopped == []
