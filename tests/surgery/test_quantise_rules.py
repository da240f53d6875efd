"""Quantised networks: scales and zero points go with the rows they belong to; blocks stay whole."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from judged import check_judged
from laws import check
from networks import Array, Net, card, weights

FLOAT = 1


def whole_numbers(net: Net, *shape: int, name: str, dtype: Any = np.int8) -> str:
    """An initializer of small integers; no two rows are alike."""
    low, high = (-8, 8) if dtype in (ml_dtypes.int4, np.int8) else (0, 16)
    size = int(np.prod(shape))
    values = net.random.integers(low, high, size) if size > 16 else net.random.permutation(16)[:size] + low
    return net.constant(np.asarray(values).astype(dtype).reshape(shape), name)


def dequantised(net: Net, *shape: int, axis: int | None, name: str, zero: bool = True, dtype: Any = np.int8) -> str:
    """A weight stored as integers; a scale (and zero point) per index of ``axis``, or one for all."""
    each = () if axis is None else (shape[axis],)
    inputs = [whole_numbers(net, *shape, name=f"{name}.q", dtype=dtype)]
    inputs.append(net.weight(*each, name=f"{name}.scale", positive=True))
    inputs += [whole_numbers(net, *each, name=f"{name}.zero", dtype=dtype)] if zero else []
    return str(net.node("DequantizeLinear", *inputs, **({} if axis is None else {"axis": axis})))


def vectors(net: Net, tensor: str) -> str:
    """``[N, C]`` from an image."""
    return str(net.node("Flatten", net.node("GlobalAveragePool", tensor)))


def pooled(net: Net, tensor: str, classes: int) -> Net:
    """Channel c of ``tensor``, averaged over space, is the score of class c."""
    net.result(net.node("ReduceMean", tensor, net.constant([2, 3]), keepdims=0, out="scores"), classes)
    return net


# -- QuantizeLinear, DequantizeLinear ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("axis", [0, -4, None])
def test_the_weights_of_a_conv(axis: int | None, zero: bool) -> None:
    net = Net()
    weight = dequantised(net, 5, 3, 3, 3, axis=axis, zero=zero, name="w")
    bias = dequantised(net, 5, axis=None if axis is None else 0, zero=False, name="b", dtype=np.int32)
    pooled(net, net.node("Conv", net.image(), weight, bias), 5)
    expert = check(net, card(5), [1, 3])
    each = () if axis is None else (2,)
    shapes = {"w.q": (2, 3, 3, 3), "w.scale": each, "b.q": (2,), "b.scale": each} | ({"w.zero": each} if zero else {})
    assert expert.shapes == {**shapes, "const": (2,)}
    assert expert.stopped == []


def test_one_scale_for_all_with_an_axis_that_the_tensor_does_not_have() -> None:
    """The default axis is 1, a bias has only axis 0; a scale of shape [1] is one for all as well."""
    net = Net()
    stored = [whole_numbers(net, 5, name="q", dtype=np.int32), net.constant(np.array([0.25], np.float32), "s")]
    product = net.node("MatMul", vectors(net, net.image()), net.weight(3, 5))
    net.result(net.node("Add", product, net.node("DequantizeLinear", *stored), out="scores"), 5)
    expert = check(net, card(5), [1, 3], judge=False)
    assert (expert.shapes["q"], expert.shapes["s"], expert.shapes["w"]) == ((2,), (1,), (3, 2))


@pytest.mark.parametrize(("op", "axis"), [("Gemm", 0), ("Gemm", 1), ("MatMul", 1), ("MatMul", -1), ("MatMul", 0)])
def test_the_weights_of_a_product(op: str, axis: int) -> None:
    """The scales go along the classes, or along what is summed; then they stay."""
    net = Net()
    gemm = op == "Gemm"
    weight = dequantised(net, *((5, 3) if gemm else (3, 5)), axis=axis, name="w", dtype=np.uint8)
    more = {"transB": 1} if gemm else {}
    net.result(net.node(op, vectors(net, net.image()), weight, out="scores", **more), 5)
    expert = check(net, card(5), [0, 2])
    each = (2,) if (axis == 0) == gemm else (3,)
    assert expert.shapes == {"w.q": (2, 3) if gemm else (3, 2), "w.scale": each, "w.zero": each}


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("axis", [1, -3, None])
def test_activations(axis: int | None, zero: bool) -> None:
    """Quantised and dequantised between two layers, per channel or all alike."""
    net = Net()
    hidden = net.conv(net.image(), 3, 6, name="expand")
    each = () if axis is None else (6,)
    steps = [net.weight(*each, name="scale", positive=True)]
    steps += [net.constant(net.random.permutation(6).astype(np.uint8)[: 6 if each else 1].reshape(each), "zero")] * zero
    more = {} if axis is None else {"axis": axis}
    for op in ("QuantizeLinear", "DequantizeLinear"):
        hidden = net.node(op, hidden, *steps, **more)
    pooled(net, net.conv(hidden, 6, 6, group=3, name="grouped"), 6)
    expert = check(net, card(6), [2, 3], exact=False, alive=False)
    assert (expert.shapes["expand.w"], expert.shapes["grouped.w"]) == ((2, 3, 1, 1), (2, 2, 1, 1))
    assert expert.shapes["scale"] == (() if axis is None else (2,))
    assert expert.shapes.get("zero") == (expert.shapes["scale"] if zero else None)
    assert expert.stopped == []


def test_a_channel_cut_down_to_one_keeps_a_scale_of_its_own() -> None:
    """The axis is the default one."""
    net = Net()
    hidden = net.conv(net.image(), 3, 4, name="c")
    hidden = net.node("QuantizeLinear", hidden, net.weight(4, name="scale", positive=True))
    hidden = net.node("DequantizeLinear", hidden, "scale")
    pooled(net, hidden, 4)
    assert check(net, card(4), [2], exact=False, alive=False).shapes["scale"] == (1,)


def test_a_scale_of_one_channel_is_not_taken_for_one_per_channel_of_another_axis() -> None:
    """Square: as many channels as columns; the axis decides, not the size."""
    net = Net()
    stored = [whole_numbers(net, 4, 4, name="q"), net.weight(4, name="scale", positive=True)]
    weight = net.node("DequantizeLinear", *stored, axis=0)
    hidden = net.node("Tanh", net.node("MatMul", vectors(net, net.conv(net.image(), 3, 4)), weight))
    net.result(hidden, 4, name="scores")
    expert = check(net, card(4), [0, 3])
    assert (expert.shapes["q"], expert.shapes["scale"]) == ((4, 2), (4,))


# -- blocks ------------------------------------------------------------------------------------------------------------


def blocked(axis: int, block: int, dtype: Any, shape: tuple[int, int] = (6, 7)) -> Net:
    """A head whose weight ``shape`` is stored in blocks along an axis, with a scale and a zero point for each."""
    net = Net(21)
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block)
    weight = net.node(
        "DequantizeLinear",
        whole_numbers(net, *shape, name="q", dtype=dtype),
        net.weight(*blocks, name="scale", positive=True),
        whole_numbers(net, *blocks, name="zero", dtype=dtype),
        axis=axis,
        block_size=block,
    )
    hidden = vectors(net, net.conv(net.image(), 3, shape[0], name="trunk"))
    net.result(net.node("MatMul", hidden, weight, out="scores"), shape[1])
    return net


KINDS = [np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.uint4]


@pytest.mark.parametrize("dtype", KINDS)
def test_blocks_along_what_is_summed_leave_the_classes_free(dtype: Any) -> None:
    expert = check(blocked(0, 2, dtype), card(7), [0, 3, 4])
    assert (expert.shapes["q"], expert.shapes["scale"], expert.shapes["zero"]) == ((6, 3), (3, 3), (3, 3))
    assert expert.stopped == []


@pytest.mark.parametrize(("axis", "dtype"), [(1, np.int8), (-1, ml_dtypes.uint4)])
@pytest.mark.parametrize(
    ("keep", "blocks", "columns"),
    [
        pytest.param([0, 1, 4, 5], 2, 4, id="whole blocks"),
        pytest.param([0, 5], 2, 4, id="one of each block"),
        pytest.param([2, 3], 1, 2, id="one block, in the middle"),
        pytest.param([1, 6], 2, 3, id="the last block is shorter"),
        pytest.param([6], 1, 1, id="only the shorter block"),
    ],
)
def test_blocks_along_the_classes_stay_whole(keep: list[int], blocks: int, columns: int, axis: int, dtype: Any) -> None:
    expert = check(blocked(axis, 2, dtype), card(7), keep, exact=False, alive=False)
    assert (expert.shapes["q"], expert.shapes["scale"], expert.shapes["zero"]) == (
        (6, columns), (6, blocks), (6, blocks),
    )  # fmt: skip
    assert expert.operators.count("Gather") + expert.operators.count("Slice") == (columns > len(keep))


def test_blocks_of_the_heads_of_branches() -> None:
    """[3, 4, 4]: the branch is one axis, the classes of a branch are another, and that one is in blocks of two."""
    net = Net(21)
    stored = [whole_numbers(net, 3, 4, 4, name="q"), net.weight(3, 4, 2, name="scale", positive=True)]
    weight = net.node("DequantizeLinear", *stored, axis=-1, block_size=2)
    hidden = vectors(net, net.conv(net.image(), 3, 12, name="trunk"))
    product = net.node("MatMul", net.node("Reshape", hidden, net.constant([-1, 3, 1, 4])), weight)
    net.result(net.node("Reshape", product, net.constant([-1, 12])), 12, name="scores")
    expert = check(net, card(12), [4, 5], exact=False)
    assert (expert.shapes["q"], expert.shapes["scale"], expert.shapes["trunk.w"]) == (
        (1, 4, 2), (1, 4, 1), (4, 3, 1, 1),
    )  # fmt: skip


def test_a_single_block_is_not_cut_inside() -> None:
    """Otherwise a block that is left alone could be cut further, and the way of cutting would matter."""
    expert = check(blocked(1, 4, np.int8, (3, 8)), card(8), [1, 2], alive=False)
    assert (expert.shapes["q"], expert.shapes["scale"]) == ((3, 4), (3, 1))
    expert = check(blocked(1, 4, np.int8, (1, 8)), card(8), [1, 2], alive=False, exact=False)
    assert (expert.shapes["q"], expert.shapes["scale"]) == ((1, 4), (1, 1))


def test_activations_in_blocks() -> None:
    """Per image a scale for every four of sixteen channels; ten of them asked for, in three blocks."""
    net = Net(21, batch=1)
    hidden = vectors(net, net.conv(net.image(), 3, 16, name="expand"))
    scale, more = net.weight(1, 4, name="scale", positive=True), {"axis": 1, "block_size": 4}
    quantised = net.node("QuantizeLinear", hidden, scale, net.constant(np.arange(4, dtype=np.int8)[None], "z"), **more)
    net.result(net.node("DequantizeLinear", quantised, scale, "z", out="scores", **more), 16)
    expert = check(net, card(16), [0, 1, 2, 5, 12, 13, 14, 15], exact=False, alive=False)
    assert (expert.shapes["expand.w"], expert.shapes["scale"], expert.shapes["z"]) == ((12, 3, 1, 1), (1, 3), (1, 3))


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_four_bits_are_unpacked_sliced_and_packed_again(dtype: Any) -> None:
    """An odd number of values to a row: a cut by bytes would be off by half of one."""
    net = Net(21)
    stored = whole_numbers(net, 5, 3, name="q", dtype=dtype)
    weight = net.node("DequantizeLinear", stored, net.weight(5, name="scale", positive=True), axis=0)
    net.result(net.node("Gemm", vectors(net, net.image()), weight, out="scores", transB=1), 5)
    expert = check(net, card(5), [1, 4])
    values = weights(expert.data)["q"]
    assert values.dtype == dtype
    np.testing.assert_array_equal(values.astype(np.int8), net.initializers["q"][[1, 4]].astype(np.int8))


# -- integer arithmetic ------------------------------------------------------------------------------------------------


def dynamic(net: Net, tensor: str) -> tuple[str, str, str]:
    """``tensor`` as uint8 with the scale and zero point of its range."""
    made = [net.fresh("quantised") for _ in range(3)]
    net.node("DynamicQuantizeLinear", tensor, out=made)
    return made[0], made[1], made[2]


def rescaled(net: Net, tensor: str, *scales: str) -> str:
    """Integers as float32, times scales."""
    tensor = net.node("Cast", tensor, to=FLOAT)
    for scale in scales:
        tensor = net.node("Mul", tensor, scale)
    return str(tensor)


def test_dynamic_quantisation_takes_the_range_of_everything() -> None:
    """The rows of the head go, and the layer before it stays whole: its range would be another."""
    net = Net()
    x, scale, zero = dynamic(net, vectors(net, net.conv(net.image(), 3, 4, name="c")))
    product = net.node("MatMulInteger", x, whole_numbers(net, 4, 5, name="w"), zero)
    net.result(rescaled(net, product, scale, net.weight(5, name="s", positive=True)), 5, name="scores")
    expert = check(net, card(5), [1, 3])
    assert (expert.shapes["c.w"], expert.shapes["w"], expert.shapes["s"]) == ((4, 3, 1, 1), (4, 2), (2,))
    assert expert.stopped == []


def test_a_part_of_what_is_quantised_dynamically_is_taken_behind_it() -> None:
    net = Net()
    x, scale, zero = dynamic(net, net.conv(net.image(), 3, 6, name="c"))
    product = net.node("ConvInteger", x, whole_numbers(net, 6, 2, 1, 1, name="w"), zero, group=3)
    pooled(net, rescaled(net, product, scale), 6)
    expert = check(net, card(6), [2, 3], exact=False)
    assert (expert.shapes["c.w"], expert.shapes["w"]) == ((6, 3, 1, 1), (2, 2, 1, 1))
    assert expert.stopped == ["DynamicQuantizeLinear takes the range of a whole tensor"]


def quantised_image(net: Net, *shape: int, channels: int = 0) -> str:
    """An image as uint8 between 0 and 255, through a 1x1 convolution to ``channels`` if that is wanted."""
    image = net.image(*shape)
    image = net.conv(image, shape[0] if shape else 3, channels, name="expand") if channels else image
    return str(net.node("QuantizeLinear", image, net.constant(0.02), net.constant(np.array(120, np.uint8), "x.zero")))


@pytest.mark.parametrize("size", [(), (1,), (6,)])
def test_conv_integer(size: tuple[int, ...]) -> None:
    """Zero points per output channel have no kernel in ONNX Runtime; ONNX's evaluator has no groups of two channels."""
    net = Net()
    zero = net.constant(np.arange(6).astype(np.uint8)[: max(1, sum(size))].reshape(size), "w.zero")
    inputs = [
        quantised_image(net, channels=6),
        whole_numbers(net, 6, 2, 3, 3, name="w", dtype=np.uint8),
        "x.zero",
        zero,
    ]
    pooled(net, rescaled(net, net.node("ConvInteger", *inputs, group=3, pads=[1] * 4)), 6)
    expert = check_judged(net, card(6), [2, 3]) if size == (6,) else check(net, card(6), [2, 3], alive=False)
    assert (expert.shapes["expand.w"], expert.shapes["w"]) == ((2, 3, 1, 1), (2, 2, 3, 3))
    assert expert.shapes["w.zero"] == ((2,) if size == (6,) else size)


@pytest.mark.parametrize("size", [(), (1,), (5,)])
def test_qlinear_conv(size: tuple[int, ...]) -> None:
    net = Net()
    inputs = [quantised_image(net), net.constant(0.02, "x.scale"), "x.zero"]
    inputs += [whole_numbers(net, 5, 3, 3, 3, name="w"), net.weight(*size, name="w.scale", positive=True)]
    inputs += [
        net.constant(np.zeros(size, np.int8), "w.zero"),
        net.constant(0.5),
        net.constant(np.array(100, np.uint8), "y.zero"),
    ]
    made = net.node("QLinearConv", *inputs, whole_numbers(net, 5, name="b", dtype=np.int32))
    pooled(net, rescaled(net, made), 5)
    expert = check(net, card(5), [0, 2, 4], alive=False)
    each = (3,) if size == (5,) else size
    assert (expert.shapes["w"], expert.shapes["b"]) == ((3, 3, 3, 3), (3,))
    assert (expert.shapes["w.scale"], expert.shapes["w.zero"]) == (each, each)
    assert expert.stopped == []


def test_qlinear_conv_in_groups() -> None:
    net = Net()
    inputs = [quantised_image(net, channels=6), net.constant(0.02, "x.scale"), "x.zero"]
    inputs += [whole_numbers(net, 6, 2, 1, 1, name="w"), net.weight(6, name="w.scale", positive=True)]
    inputs += [
        net.constant(np.zeros(6, np.int8), "w.zero"),
        net.constant(0.5),
        net.constant(np.array(100, np.uint8), "y.zero"),
    ]
    pooled(net, rescaled(net, net.node("QLinearConv", *inputs, group=3)), 6)
    expert = check(net, card(6), [0, 1, 4], alive=False)
    assert (expert.shapes["expand.w"], expert.shapes["w"], expert.shapes["w.scale"]) == (
        (4, 3, 1, 1),
        (4, 2, 1, 1),
        (4,),
    )


@pytest.mark.parametrize("size", [(), (1,), (5,), (1, 5)])
def test_matmul_integer(size: tuple[int, ...]) -> None:
    """A weight of 0 is not nothing here: it is minus the zero point."""
    net = Net()
    x = net.node("QuantizeLinear", vectors(net, net.conv(net.image(), 3, 4, name="c")), net.constant(0.02), "x.zero")
    net.constant(np.array(3, np.uint8), "x.zero")
    stored: Array = np.array([[0, 1, 2, 0, 4], [0, 5, 0, 7, 0], [8, 0, 9, 0, 1], [0, 3, 0, 2, 0]], np.uint8)
    zero = net.constant(np.arange(1, 6).astype(np.uint8)[: int(np.prod(size))].reshape(size), "w.zero")
    product = net.node("MatMulInteger", x, net.constant(stored, "w"), "x.zero", zero)
    net.result(rescaled(net, product), 5, name="scores")
    expert = check(net, card(5), [0, 2], alive=False) if size != (1, 5) else check_judged(net, card(5), [0, 2])
    assert (expert.shapes["w"], expert.shapes["c.w"]) == ((4, 2), (4, 3, 1, 1))
    assert expert.shapes["w.zero"] == tuple(2 if dim == 5 else dim for dim in size)


def test_matmul_integer_with_a_zero_point_per_row() -> None:
    """The weight is on the left, and so are its zero points, as a column; its rows are the classes."""
    net = Net(batch=1)
    x = net.node("QuantizeLinear", net.node("Transpose", vectors(net, net.image()), perm=[1, 0]), net.constant(0.02))
    zero = net.constant(np.arange(5, dtype=np.uint8)[:, None], "w.zero")
    product = net.node("MatMulInteger", whole_numbers(net, 5, 3, name="w", dtype=np.uint8), x, zero)
    net.result(net.node("Transpose", rescaled(net, product), perm=[1, 0], out="scores"), 5)
    expert = check_judged(net, card(5), [1, 4])
    assert (expert.shapes["w"], expert.shapes["w.zero"]) == ((2, 3), (2, 1))


def test_matmul_integer_with_a_row_of_zero_points_on_the_left_is_left_whole() -> None:
    """The specification counts them by row, NumPy by column."""
    net = Net(batch=1)
    x = net.node("QuantizeLinear", net.node("Transpose", vectors(net, net.image()), perm=[1, 0]), net.constant(0.02))
    zero = net.constant(np.arange(3, dtype=np.uint8), "w.zero")
    product = net.node("MatMulInteger", whole_numbers(net, 3, 3, name="w", dtype=np.uint8), x, zero)
    net.result(net.node("Transpose", rescaled(net, product), perm=[1, 0], out="scores"), 3)
    expert = check_judged(net, card(3), [0, 2])
    assert expert.stopped == ["the scales of MatMulInteger do not fit its operands"]


@pytest.mark.parametrize("size", [(), (1,), (5,)])
def test_qlinear_matmul(size: tuple[int, ...]) -> None:
    net = Net()
    x = net.node("QuantizeLinear", vectors(net, net.image()), net.constant(0.02, "x.scale"), "x.zero")
    net.constant(np.array(120, np.uint8), "x.zero")
    scale, zero = net.weight(*size, name="w.scale", positive=True), net.constant(np.zeros(size, np.int8), "w.zero")
    stored = whole_numbers(net, 3, 5, name="w")
    inputs = [
        x,
        "x.scale",
        "x.zero",
        stored,
        scale,
        zero,
        net.constant(0.1),
        net.constant(np.array(90, np.uint8), "y.zero"),
    ]
    net.result(rescaled(net, net.node("QLinearMatMul", *inputs)), 5, name="scores")
    expert = check(net, card(5), [1, 2], alive=False)
    each = (2,) if size == (5,) else size
    assert (expert.shapes["w"], expert.shapes["w.scale"], expert.shapes["w.zero"]) == ((3, 2), each, each)
    assert expert.stopped == []
