"""Conv, ConvTranspose, Gemm, MatMul: the rule takes rows away, and the rest gives the full model's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from laws import check
from networks import Net, card, cut, feeds, operators, run, weights


def scores(net: Net, tensor: str, classes: int) -> Net:
    """Channel c of ``tensor`` ``[N, C, H, W]``, averaged over space, is the score of class c."""
    net.result(net.node("ReduceMean", tensor, net.constant([2, 3]), keepdims=0, out="scores"), classes)
    return net


def vectors(net: Net, tensor: str) -> str:
    """``[N, C]`` from an image."""
    return str(net.node("Flatten", net.node("GlobalAveragePool", tensor)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv(kernel: int, bias: bool) -> None:
    net = Net()
    scores(net, net.conv(net.image(), 3, 5, kernel=kernel, bias=bias, name="c"), 5)
    expert = check(net, card(5), [1, 3, 4])
    assert expert.shapes["c.w"] == (3, 3, kernel, kernel)
    assert expert.shapes.get("c.b") == ((3,) if bias else None)
    assert expert.stopped == []


def test_the_input_of_a_conv_shrinks_with_the_conv_before_it_only_in_its_own_rows() -> None:
    net = Net()
    hidden = net.node("Tanh", net.conv(net.image(), 3, 4, name="first"))
    scores(net, net.conv(hidden, 4, 5, name="second"), 5)
    expert = check(net, card(5), [0, 2])
    assert expert.shapes["first.w"] == (4, 3, 1, 1)
    assert expert.shapes["second.w"] == (2, 4, 1, 1)


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_an_empty_name_stands_for_an_absent_bias(op: str) -> None:
    net = Net()
    x = net.image()
    if op == "Conv":
        scores(net, net.node("Conv", x, net.weight(4, 3, 1, 1), ""), 4)
    else:
        net.result(net.node("Gemm", vectors(net, x), net.weight(3, 4), "", out="scores"), 4)
    assert check(net, card(4), [1, 2]).shapes["w"] in ((2, 3, 1, 1), (3, 2))


def grouped(groups: int, per_group: int, out_per_group: int) -> Net:
    """1x1 to ``groups * per_group`` channels, a grouped 3x3, a score per channel."""
    net = Net()
    hidden = net.node("Sigmoid", net.conv(net.image(), 3, groups * per_group, name="expand"))
    out = net.conv(hidden, groups * per_group, groups * out_per_group, kernel=3, group=groups, name="grouped")
    return scores(net, out, groups * out_per_group)


@pytest.mark.parametrize(
    ("groups", "per_group", "out_per_group", "keep", "kept_groups", "kept_out"),
    [
        pytest.param(4, 2, 2, [2, 3, 6, 7], 2, 4, id="whole groups"),
        pytest.param(4, 2, 2, [0, 2, 4, 6], 4, 4, id="one position of every group"),
        pytest.param(4, 2, 2, [4, 5], 1, 2, id="one group left"),
        pytest.param(4, 2, 2, [5], 1, 1, id="one channel left"),
        pytest.param(3, 2, 3, [0, 2, 3, 5], 2, 4, id="the same positions of two groups"),
        pytest.param(6, 1, 1, [1, 4], 2, 2, id="depthwise"),
        pytest.param(3, 1, 2, [2, 3], 1, 2, id="depthwise with a multiplier, a group"),
        pytest.param(3, 1, 2, [0, 4], 2, 2, id="depthwise with a multiplier, a position"),
    ],
)
def test_grouped_conv(
    groups: int, per_group: int, out_per_group: int, keep: list[int], kept_groups: int, kept_out: int
) -> None:
    expert = check(grouped(groups, per_group, out_per_group), card(groups * out_per_group), keep, exact=False)
    assert expert.shapes["expand.w"] == (kept_groups * per_group, 3, 1, 1)
    assert expert.shapes["grouped.w"] == (kept_out, per_group, 3, 3)
    assert expert.shapes["grouped.b"] == (kept_out,)
    assert "Gather" not in expert.operators


def test_groups_hit_unequally_are_closed_to_groups_times_positions() -> None:
    """Channels 0 and 3 are position 0 of group 0 and position 1 of group 1: both positions of both groups stay."""
    expert = check(grouped(4, 2, 2), card(8), [0, 3], exact=False, alive=False)
    assert expert.shapes["grouped.w"] == (4, 2, 3, 3)
    assert expert.shapes["expand.w"] == (4, 3, 1, 1)
    assert expert.operators.count("Gather") == 1


def transposed(groups: int, cin: int, cout: int, *, bias: bool = True) -> Net:
    net = Net()
    hidden = net.node("Sigmoid", net.conv(net.image(), 3, cin, name="expand"))
    inputs = [hidden, net.weight(cin, cout // groups, 2, 2, name="t.w")] + (
        [net.weight(cout, name="t.b")] if bias else []
    )
    return scores(net, net.node("ConvTranspose", *inputs, strides=[2, 2], group=groups), cout)


def test_conv_transpose() -> None:
    expert = check(transposed(1, 4, 5), card(5), [1, 4])
    assert (expert.shapes["t.w"], expert.shapes["t.b"], expert.shapes["expand.w"]) == ((4, 2, 2, 2), (2,), (4, 3, 1, 1))


def test_grouped_conv_transpose_has_groups_on_axis_0_and_rows_on_axis_1() -> None:
    whole = check(transposed(3, 6, 6), card(6), [2, 3], exact=False, judge=False)
    assert (whole.shapes["t.w"], whole.shapes["expand.w"]) == ((2, 2, 2, 2), (2, 3, 1, 1))
    position = check(transposed(3, 6, 6, bias=False), card(6), [1, 3, 5], exact=False, judge=False)
    assert (position.shapes["t.w"], position.shapes["expand.w"]) == ((6, 1, 2, 2), (6, 3, 1, 1))
    unequal = check(transposed(3, 6, 6), card(6), [0, 3], exact=False, alive=False, judge=False)
    assert (unequal.shapes["t.w"], unequal.shapes["expand.w"]) == ((4, 2, 2, 2), (4, 3, 1, 1))


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c_shape", [None, (5,), (1, 5), (1,), (1, 1), ()])
def test_gemm(trans_b: int, c_shape: tuple[int, ...] | None) -> None:
    net = Net()
    inputs = [vectors(net, net.image()), net.weight(*((5, 3) if trans_b else (3, 5)), name="b")]
    inputs += [] if c_shape is None else [net.weight(*c_shape, name="bias")]
    net.result(net.node("Gemm", *inputs, transB=trans_b, alpha=0.5, beta=2.0, out="scores"), 5)
    expert = check(net, card(5), [0, 3])
    assert expert.shapes["b"] == ((2, 3) if trans_b else (3, 2))
    if c_shape is not None:
        assert expert.shapes["bias"] == tuple(2 if size == 5 else size for size in c_shape)


def test_gemm_cut_on_the_rows_of_a_transposed_left_side() -> None:
    """scores' = (A' x)': classes are the rows of the product, its bias is a column, and A is transposed."""
    net = Net(batch=2)
    x = net.node("Transpose", vectors(net, net.image()), perm=[1, 0])
    left, column = net.weight(3, 5, name="a"), net.weight(5, 1, name="column")
    product = net.node("Gemm", left, x, column, transA=1)
    net.result(net.node("Transpose", product, perm=[1, 0], out="scores"), 5)
    expert = check(net, card(5), [1, 2, 4], exact=False)
    assert (expert.shapes["a"], expert.shapes["column"]) == ((3, 3), (3, 1))


def test_matmul_with_the_weight_on_the_right() -> None:
    net = Net()
    net.result(net.node("MatMul", vectors(net, net.image()), net.weight(3, 5), out="scores"), 5)
    assert check(net, card(5), [0, 4]).shapes["w"] == (3, 2)


def test_matmul_with_the_weight_on_the_left() -> None:
    net = Net()
    column = net.node("Unsqueeze", vectors(net, net.image()), net.constant([2]))
    product = net.node("MatMul", net.weight(5, 3), column)
    net.result(net.node("Squeeze", product, net.constant([2]), out="scores"), 5)
    assert check(net, card(5), [0, 4], exact=False).shapes["w"] == (2, 3)


def test_matmul_with_a_head_per_branch_on_a_batch_axis() -> None:
    """[N, k, 1, C] @ [k, C, 2]: branch b has two classes of its own; the branch axis is a batch axis."""
    net = Net()
    hidden = net.node("Tanh", net.conv(net.image(), 3, 12, name="expand"))
    split = net.node("Reshape", vectors(net, hidden), net.constant([-1, 3, 1, 4]))
    product = net.node("MatMul", split, net.weight(3, 4, 2, name="heads"))
    net.result(net.node("Reshape", product, net.constant([-1, 6]), out="scores"), 6)
    branch = check(net, card(6), [2, 3], exact=False)
    assert (branch.shapes["heads"], branch.shapes["expand.w"]) == ((1, 4, 2), (4, 3, 1, 1))
    position = check(net, card(6), [1, 5], exact=False)
    assert (position.shapes["heads"], position.shapes["expand.w"]) == ((2, 4, 1), (8, 3, 1, 1))


def test_matmul_broadcasts_a_batch_axis_of_one() -> None:
    net = Net()
    split = net.node("Reshape", vectors(net, net.conv(net.image(), 3, 4, name="trunk")), net.constant([-1, 1, 1, 4]))
    product = net.node("MatMul", split, net.weight(3, 4, 2, name="heads"))
    net.result(net.node("Reshape", product, net.constant([-1, 6]), out="scores"), 6)
    expert = check(net, card(6), [0, 1, 4, 5], exact=False)
    assert (expert.shapes["heads"], expert.shapes["trunk.w"]) == ((2, 4, 2), (4, 3, 1, 1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_matmul_with_a_vector_of_one_image(side: str) -> None:
    """A 1-D operand is promoted: on the left it has no row, on the right no column, and the product has not either."""
    net = Net(batch=1)
    vector = net.node("Reshape", vectors(net, net.conv(net.image(), 3, 4, name="c")), net.constant([4]))
    operands = [vector, net.weight(4, 5)] if side == "left" else [net.weight(5, 4), vector]
    net.result(net.node("Reshape", net.node("MatMul", *operands), net.constant([1, 5]), out="scores"), 5)
    expert = check(net, card(5), [0, 3], exact=False)
    assert expert.shapes["w"] == ((4, 2) if side == "left" else (2, 4))
    assert expert.stopped == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_matmul_of_a_batch_with_a_vector(side: str) -> None:
    """[k, 5, 4] @ [4] and [4] @ [k, 4, 5]: batch axes of the other side move up by one."""
    net = Net(batch=1)
    vector = net.node("Reshape", vectors(net, net.conv(net.image(), 3, 4, name="c")), net.constant([4]))
    operands = [vector, net.weight(2, 4, 3)] if side == "left" else [net.weight(2, 3, 4), vector]
    net.result(net.node("Reshape", net.node("MatMul", *operands), net.constant([1, 6]), out="scores"), 6)
    branch = check(net, card(6), [3, 5], exact=False)
    assert branch.shapes["w"] == ((1, 4, 2) if side == "left" else (1, 2, 4))


def test_matmul_with_a_batch_axis_that_is_a_symbol_is_left_whole() -> None:
    """[n, 1, 4] @ [3, 4, 2]: the symbol may turn out to be 1 or 3, and only one of them could be cut."""
    net = Net(batch="n")
    rows = net.node("Unsqueeze", net.image(4), net.constant([1]))
    product = net.node("MatMul", rows, net.weight(3, 4, 2))
    net.result(net.node("Reshape", product, net.constant([1, 6]), out="scores"), 6)
    net.outputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    expert, _ = cut(net.bytes(), card(6), [0, 1])
    for count in (1, 3):
        inputs = feeds(net.bytes(), batch=count)
        np.testing.assert_array_equal(run(expert, inputs)["scores"], run(net.bytes(), inputs)["scores"][:, :2])


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_stays(op: str, mode: str) -> None:
    net = Net()
    hidden = net.node("Sigmoid", net.conv(net.image(), 3, 6, name="expand"))
    weight = net.weight(6, 2, 3, 3, name="g.w")
    scores(net, net.node(op, hidden, weight, group=3, auto_pad=mode, strides=[2, 2], kernel_shape=[3, 3]), 6)
    expert = check(net, card(6), [2, 3], exact=False, judge=op == "Conv")
    assert (expert.shapes["g.w"], expert.shapes["expand.w"]) == ((2, 2, 3, 3), (2, 3, 1, 1))


def test_parts_of_an_image_on_the_batch_axis_of_a_shared_conv() -> None:
    """One image taken apart into three of two channels: a part nobody asks for is not convolved."""
    net = Net(batch=1)
    hidden = net.node("Sigmoid", net.conv(net.image(), 3, 6, name="expand"))
    parts = net.node("Reshape", hidden, net.constant([3, 2, 4, 4]))
    joined = net.node("Reshape", net.conv(parts, 2, 4, kernel=3, name="shared"), net.constant([1, 12, 4, 4]))
    scores(net, joined, 12)
    expert = check(net, card(12), [5, 6], exact=False)
    assert (expert.shapes["expand.w"], expert.shapes["shared.w"]) == ((2, 3, 1, 1), (2, 2, 3, 3))


def test_gemm_with_a_bias_for_every_image() -> None:
    net = Net(batch=2)
    inputs = [vectors(net, net.image()), net.weight(3, 5, name="b"), net.weight(2, 5, name="bias")]
    net.result(net.node("Gemm", *inputs, out="scores"), 5)
    expert = check(net, card(5), [0, 3])
    assert (expert.shapes["b"], expert.shapes["bias"]) == ((3, 2), (2, 2))


def test_the_weights_of_a_conv_behind_nodes_of_their_own() -> None:
    """Turned, cast and handed on under another name, and standardised by row: slicing goes through all of it."""
    net = Net()
    stored = net.weight(3, 5, 1, 1, name="stored", dtype=np.float16)
    weight = net.node("Identity", net.node("Cast", net.node("Transpose", stored, perm=[1, 0, 2, 3]), to=1))
    mean = net.node("ReduceMean", weight, net.constant([1, 2, 3]))
    hidden = net.node("Conv", net.image(), net.node("Sub", weight, mean), net.node("Identity", net.weight(5, name="b")))
    scores(net, hidden, 5)
    expert = check(net, card(5), [1, 4])
    assert (expert.shapes["stored"], expert.shapes["b"]) == ((3, 2, 1, 1), (2,))


def test_a_weight_behind_nodes_of_its_own_is_sliced_all_the_same() -> None:
    """Transpose and Cast of a weight are no special case: the weight is a tensor like any other."""
    net = Net()
    turned = net.node("Cast", net.node("Transpose", net.weight(5, 3, dtype=np.float64), perm=[1, 0]), to=1)
    net.result(net.node("MatMul", vectors(net, net.image()), turned, out="scores"), 5)
    assert check(net, card(5), [1, 2]).shapes["w"] == (2, 3)


def test_a_product_cut_down_to_one_column_takes_another_kernel_and_agrees_within_rounding() -> None:
    net = Net()
    net.result(net.node("MatMul", vectors(net, net.image()), net.weight(3, 5), out="scores"), 5)
    assert check(net, card(5), [2], exact=False).shapes["w"] == (3, 1)


def test_one_initializer_in_two_different_cuts_becomes_two() -> None:
    net = Net()
    x, shared = vectors(net, net.image()), net.weight(3, 4, name="shared")
    first = net.node("MatMul", x, shared)
    second = net.node("MatMul", net.node("Neg", x), shared)
    net.result(net.node("Concat", first, second, axis=1, out="scores"), 8)
    expert = check(net, card(8), [0, 5, 6])
    assert sorted(expert.shapes.values()) == [(3, 1), (3, 2)]
    assert all(name.startswith("shared@cut-") for name in expert.shapes)
    same = check(net, card(8), [1, 5])
    assert same.shapes == {"shared": (3, 1)}
    gone = check(net, card(8), [1, 2])
    assert gone.shapes == {"shared": (3, 2)}


def test_structure_survives_node_names_and_order() -> None:
    net = grouped(4, 2, 2)
    expert = check(net, card(8), [0, 1, 6, 7], exact=False)
    assert operators(expert.data) == operators(net.bytes())
    assert set(weights(expert.data)) == set(net.initializers)
