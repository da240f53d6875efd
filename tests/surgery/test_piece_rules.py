"""Concat, Split, Slice, Gather, Pad, Resize: putting together and taking apart along the class axis and others."""

from __future__ import annotations

import numpy as np
import pytest
from laws import check
from networks import Net, card, operators, weights

FAR = 2**63 - 1


def branches(opset: int = 20, channels: int = 6, **options: int) -> tuple[Net, str]:
    """A net and a tensor ``[N, channels, 4, 4]`` from a convolution "c" with one row per channel."""
    net = Net(opset, **options)
    return net, str(net.node("Tanh", net.conv(net.image(), 3, channels, name="c")))


def pooled(net: Net, tensor: str, channels: int) -> Net:
    """Channel c, averaged over space, is the score of class c."""
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.result(net.node("Identity", flat, out="scores"), channels)
    return net


# -- Concat ------------------------------------------------------------------------------------------------------------


def separate(*sizes: int) -> Net:
    """Branches of their own, ``sizes[b]`` classes each, put together at the end."""
    net = Net()
    net.image()
    heads = []
    for b, size in enumerate(sizes):
        own = net.node("Tanh", net.conv("image", 3, 2, name=f"b{b}"))
        heads.append(net.head(own, 2, size, name=f"h{b}"))
    net.result(net.node("Concat", *heads, axis=1, out="scores"), sum(sizes))
    return net


def test_whole_branches_fall_away() -> None:
    expert = check(separate(2, 3, 1), card(6), [0, 1, 5], exact=False)
    assert {name.partition(".")[0] for name in expert.shapes} == {"b0", "h0", "b2", "h2"}
    assert expert.operators.count("Conv") == 2
    assert expert.cut.removed == 5


def test_a_concat_with_one_input_left_is_gone() -> None:
    expert = check(separate(2, 3, 1), card(6), [2, 4])
    assert expert.operators == ["Conv", "Tanh", "GlobalAveragePool", "Flatten", "Gemm"]
    assert expert.shapes["h1.w"] == (2, 2)


def test_concat_on_another_axis_keeps_the_class_rows_of_every_input() -> None:
    net, tensor = branches()
    both = net.node("Concat", tensor, net.node("Sin", net.conv("image", 3, 6, name="d")), axis=2)
    expert = check(pooled(net, both, 6), card(6), [0, 5])
    assert (expert.shapes["c.w"], expert.shapes["d.w"]) == ((2, 3, 1, 1), (2, 3, 1, 1))


def test_concat_on_another_axis_of_a_tensor_that_keeps_more() -> None:
    net, tensor = branches()
    whole = net.node("Softmax", tensor, axis=1)
    both = net.node("Concat", whole, net.conv("image", 3, 6, name="d"), axis=-1)
    expert = check(pooled(net, both, 6), card(6), [0, 5])
    assert (expert.shapes["c.w"], expert.shapes["d.w"]) == ((6, 3, 1, 1), (2, 3, 1, 1))


def test_concat_of_one_tensor_twice() -> None:
    net, tensor = branches(channels=3)
    expert = check(pooled(net, net.node("Concat", tensor, tensor, axis=1), 6), card(6), [0, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    expert = check(net, card(6), [1, 4])
    assert expert.shapes["c.w"] == (1, 3, 1, 1)


def test_classes_out_of_order() -> None:
    """Heads are put together in another order than they are made: rows follow the output, not the nodes."""
    net = Net()
    net.image()
    heads = [net.head("image", 3, 2, name=f"h{b}") for b in range(3)]
    net.result(net.node("Concat", heads[2], heads[0], heads[1], axis=1, out="scores"), 6)
    expert = check(net, card(6), [0, 2, 3])
    assert expert.shapes == {"h0.w": (2, 3), "h0.b": (2,), "h2.w": (1, 3), "h2.b": (1,)}


# -- Split -------------------------------------------------------------------------------------------------------------


def split(net: Net, tensor: str, sizes: list[int] | None, *, number: int, axis: int = 1) -> list[str]:
    """Split in the form of the net's opset: an attribute, an input, ``num_outputs``, or nothing at all."""
    names = [f"s{k}" for k in range(number)]
    if net.opset < 13:
        made = net.node("Split", tensor, out=names, axis=axis, **({} if sizes is None else {"split": sizes}))
    elif sizes is not None:
        made = net.node("Split", tensor, net.constant(sizes), out=names, axis=axis)
    else:
        made = net.node("Split", tensor, out=names, axis=axis, **({"num_outputs": number} if net.opset >= 18 else {}))
    return list(made)


@pytest.mark.parametrize(
    ("opset", "sizes"),
    [(11, None), (11, [1, 2, 3]), (13, None), (17, [3, 2, 1]), (20, None), (20, [2, 1, 3]), (20, [2, 3, 1])],
)
def test_split_into_branches(opset: int, sizes: list[int] | None) -> None:
    """Each piece has a score of its own, two channels of which one is dead for the class next to it."""
    net, tensor = branches(opset)
    pieces = split(net, tensor, sizes, number=3)
    heads = [
        net.head(piece, size, 1, name=f"h{k}")
        for k, (piece, size) in enumerate(zip(pieces, sizes or [2] * 3, strict=True))
    ]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 3)
    two = check(net, card(3), [0, 2], exact=False)
    assert two.shapes["c.w"][0] == sum((sizes or [2] * 3)[k] for k in (0, 2))
    assert two.operators.count("Split") == 1
    one = check(net, card(3), [1], exact=False)
    assert one.shapes["c.w"][0] == (sizes or [2] * 3)[1]
    assert "Split" not in one.operators


def test_the_last_piece_of_num_outputs_is_smaller() -> None:
    net, tensor = branches(channels=5)
    pieces = split(net, tensor, None, number=3)
    heads = [net.head(piece, size, 1) for piece, size in zip(pieces, [2, 2, 1], strict=True)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 3)
    assert check(net, card(3), [0, 2], exact=False).shapes["c.w"][0] == 3


def test_rows_inside_the_pieces_are_cut_too() -> None:
    net, tensor = branches()
    pieces = split(net, tensor, [2, 4], number=2)
    both = net.node("Concat", pieces[1], pieces[0], axis=1)
    expert = check(pooled(net, both, 6), card(6), [0, 2, 5])
    assert expert.shapes["c.w"] == (3, 3, 1, 1)


@pytest.mark.parametrize("opset", [11, 20])
def test_split_on_another_axis_joins_what_its_outputs_need(opset: int) -> None:
    net, tensor = branches(opset)
    top, bottom = split(net, tensor, [1, 3], number=2, axis=2)
    flat = [net.node("GlobalAveragePool", part) for part in (top, bottom)]
    scaled = net.node("Mul", net.node("Add", *flat), net.weight(1, 6, 1, 1, name="k"))
    net.result(net.node("Flatten", scaled, out="scores"), 6)
    expert = check(net, card(6), [1, 4])
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((2, 3, 1, 1), (1, 2, 1, 1))


def test_split_on_another_axis_whose_outputs_need_different_rows() -> None:
    net, tensor = branches()
    left, right = split(net, tensor, [2, 2], number=2, axis=3)
    heads = [
        net.head(net.node("Slice", left, net.constant([0]), net.constant([3]), net.constant([1])), 3, 2, name="a"),
        net.head(net.node("Slice", right, net.constant([2]), net.constant([5]), net.constant([1])), 3, 2, name="b"),
    ]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 4)
    expert = check(net, card(4), [0, 2])
    assert expert.shapes["c.w"] == (5, 3, 1, 1)


# -- Slice -------------------------------------------------------------------------------------------------------------


def sliced(net: Net, tensor: str, start: int, end: int, *, axis: int = 1, step: int | None = None) -> str:
    if net.opset < 10:
        return str(net.node("Slice", tensor, starts=[start], ends=[end], axes=[axis]))
    bounds = [net.constant([value]) for value in (start, end, axis, *([] if step is None else [step]))]
    return str(net.node("Slice", tensor, *bounds))


@pytest.mark.parametrize(
    ("start", "end", "step", "taken"),
    [
        (1, 5, None, [1, 2, 3, 4]),
        (0, FAR, 2, [0, 2, 4]),
        (-4, -1, 1, [2, 3, 4]),
        (2, 100, 1, [2, 3, 4, 5]),
        (-100, 4, 1, [0, 1, 2, 3]),
        (-1, -FAR, -1, [5, 4, 3, 2, 1, 0]),
        (4, 0, -2, [4, 2]),
        (100, 1, -1, [5, 4, 3, 2]),
        (-1, -7, -3, [5, 2]),
    ],
)
def test_slice_of_the_classes(start: int, end: int, step: int | None, taken: list[int]) -> None:
    net, tensor = branches()
    pooled(net, sliced(net, tensor, start, end, axis=-3, step=step), len(taken))
    expert = check(net, card(len(taken)), [0, len(taken) - 1])
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][sorted((taken[0], taken[-1]))])
    assert ("Slice" in expert.operators) == (taken[0] > taken[-1])


def test_slice_before_opset_10_has_attributes() -> None:
    net, tensor = branches(9)
    pooled(net, sliced(net, tensor, 1, 5), 4)
    expert = check(net, card(4), [1, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_slice_of_space_leaves_the_classes_alone() -> None:
    net, tensor = branches()
    expert = check(pooled(net, sliced(net, tensor, 1, 3, axis=2), 6), card(6), [1, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_slice_of_classes_and_space_at_once_backwards() -> None:
    net, tensor = branches()
    bounds = ([4, -1], [0, -FAR], [1, 3], [-1, -2])
    both = net.node("Slice", tensor, *(net.constant(list(values)) for values in bounds))
    expert = check(pooled(net, both, 4), card(4), [0, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_overlapping_slices_share_their_rows() -> None:
    net, tensor = branches()
    heads = [net.head(sliced(net, tensor, a, a + 3), 3, 1, name=f"h{a}") for a in range(4)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 4)
    assert check(net, card(4), [0, 1], exact=False).shapes["c.w"] == (4, 3, 1, 1)
    assert check(net, card(4), [0, 3], exact=False).shapes["c.w"] == (6, 3, 1, 1)
    assert check(net, card(4), [2], exact=False).shapes["c.w"] == (3, 3, 1, 1)


def test_an_empty_slice_is_nothing() -> None:
    net, tensor = branches()
    empty = sliced(net, tensor, 2, 2)
    expert = check(pooled(net, net.node("Concat", empty, tensor, axis=1), 6), card(6), [0, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_a_reduction_over_an_empty_slice_is_a_constant() -> None:
    net, tensor = branches()
    nothing = net.node("ReduceSum", sliced(net, tensor, 2, 2), net.constant([1]), keepdims=1)
    check(pooled(net, net.node("Add", nothing, tensor), 6), card(6), [0, 3], alive=False)


def test_slice_with_computed_bounds_stops_the_demand() -> None:
    net, tensor = branches()
    end = net.node(
        "Cast",
        net.node(
            "Add", net.node("ReduceSum", net.node("Mul", "image", net.constant(0.0)), keepdims=0), net.constant(4.0)
        ),
        to=7,
    )
    cut = net.node("Slice", tensor, net.constant([0]), net.node("Reshape", end, net.constant([1])), net.constant([1]))
    linear = net.node("Flatten", net.node("GlobalAveragePool", cut))
    net.result(net.node("Gemm", linear, net.weight(4, 3, name="k"), out="scores"), 3)
    expert = check(net, card(3), [0, 1], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((6, 3, 1, 1), (4, 2))


def test_computed_bounds_of_space_leave_the_classes_alone() -> None:
    net, tensor = branches()
    bright = net.node("Cast", net.node("Greater", net.node("ReduceMax", "image", keepdims=0), net.constant(0.0)), to=7)
    end = net.node("Reshape", net.node("Add", bright, net.constant(2)), net.constant([1]))
    part = net.node("Slice", tensor, net.constant([0]), end, net.constant([2]))
    net.result(net.node("ReduceMean", part, net.constant([2, 3]), keepdims=0, out="scores"), 6)
    expert = check(net, card(6), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_a_slice_of_all_images_and_some_classes() -> None:
    """``x[:, 1:5]`` with both axes named: the batch is a symbol, and taken as a whole."""
    net, tensor = branches()
    bounds = ([0, 1], [FAR, 5], [0, 1], [1, 1])
    part = net.node("Slice", tensor, *(net.constant(list(values)) for values in bounds))
    expert = check(pooled(net, part, 4), card(4), [0, 3])
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][[1, 4]])
    assert "Slice" not in expert.operators


# -- Gather ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [[0, 2, 4], [5, 1, 3, 0], [2, 2, 1], [-1, -6, 3]])
def test_gather_of_the_classes_with_an_index_vector(index: list[int]) -> None:
    net, tensor = branches()
    expert = check(
        pooled(net, net.node("Gather", tensor, net.constant(index, "index"), axis=1), len(index)),
        card(len(index)),
        [0, 2],
    )
    rows = sorted({index[0] % 6, index[2] % 6})
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][rows])
    assert expert.stopped == []


def test_gather_with_a_scalar_removes_the_axis() -> None:
    net, tensor = branches()
    picked = [net.node("Gather", tensor, net.constant(c), axis=-3) for c in (4, -5, 0)]  # [N, 4, 4]
    flat = [net.node("ReduceMean", p, net.constant([1, 2]), keepdims=0) for p in picked]
    rows = [net.node("Unsqueeze", f, net.constant([1])) for f in flat]
    net.result(net.node("Concat", *rows, axis=1, out="scores"), 3)
    expert = check(net, card(3), [0, 1])
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][[1, 4]])


def test_gather_with_a_matrix_adds_an_axis() -> None:
    """[N, 6, 4, 4] by a [3, 2] index: 3 branches of two channels."""
    net, tensor = branches()
    index = np.array([[0, 1], [1, 5], [-3, -2]])
    table = net.node("Gather", tensor, net.constant(index, "index"), axis=1)
    net.result(net.node("ReduceMean", table, net.constant([2, 3, 4]), keepdims=0, out="scores"), 3)
    expert = check(net, card(3), [1, 2])
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][[1, 3, 4, 5]])
    assert np.array_equal(weights(expert.data)["index"], [[0, 3], [1, 2]])


def test_gather_on_another_axis() -> None:
    net, tensor = branches()
    expert = check(pooled(net, net.node("Gather", tensor, net.constant([3, 0]), axis=2), 6), card(6), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_gather_of_constant_rows_by_a_computed_index_keeps_the_table() -> None:
    """An embedding: any row may be asked for at run time, but its columns are the classes."""
    net = Net()
    token = net.node(
        "Cast",
        net.node(
            "Greater", net.node("ReduceMean", net.image(), net.constant([1, 2, 3]), keepdims=0), net.constant(0.0)
        ),
        to=7,
    )
    net.result(net.node("Gather", net.weight(2, 5, name="table"), token, axis=0, out="scores"), 5)
    assert check(net, card(5), [0, 3], alive=False).shapes["table"] == (2, 2)


def test_nodes_keep_their_order() -> None:
    net = separate(1, 2, 1, 2)
    expert = check(net, card(6), [0, 3, 5], exact=False)
    kept = iter(operators(net.bytes()))
    assert all(op in kept for op in expert.operators)
