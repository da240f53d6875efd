"""Pad, Tile, Expand, ConstantOfShape, DepthToSpace, SpaceToDepth, Resize: operators that change how long an axis is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from laws import check
from networks import Net, card, weights
from onnx import TensorProto, helper

FAR = np.iinfo(np.int64).max


def branches(opset: int = 20, channels: int = 6, batch: int | str = "batch") -> tuple[Net, str]:
    """A net and a tensor ``[N, channels, 4, 4]`` whose channel c only class c needs."""
    net = Net(opset, batch=batch)
    return net, net.conv(net.image(), 3, channels, name="c")


def pooled(net: Net, tensor: str, channels: int) -> Net:
    """Channel c, averaged over space, is the score of class c."""
    net.result(net.node("Flatten", net.node("GlobalAveragePool", tensor), out="scores"), channels)
    return net


# -- Pad ---------------------------------------------------------------------------------------------------------------


def padded(net: Net, tensor: str, pads: Sequence[int], *, value: float | None = None, **attributes: Any) -> str:
    if net.opset < 11:
        return str(net.node("Pad", tensor, pads=list(pads), **attributes))
    inputs = [net.constant(list(pads), "pads")] + ([] if value is None else [net.constant(value, "value")])
    return str(net.node("Pad", tensor, *inputs, **attributes))


@pytest.mark.parametrize("opset", [10, 11, 20])
@pytest.mark.parametrize(
    ("keep", "rows", "pads"),
    [
        ([0, 4, 5], [3, 4], [0, 1, 0, 0, 0, 0, 0, 0]),
        ([2, 7], [1], [0, 0, 0, 0, 0, 1, 0, 0]),
        ([0, 1, 8], [0], [0, 1, 0, 0, 0, 1, 0, 0]),
        ([2, 6], [1, 5], None),
    ],
)
def test_padding_of_the_channels_shifts_them(opset: int, keep: list[int], rows: list[int], pads: list[int]) -> None:
    """[one row of padding, 6 channels, two of padding]: what is wanted of the padding is kept as a count."""
    net, tensor = branches(opset)
    pooled(net, padded(net, tensor, [0, 1, 0, 0, 0, 2, 0, 0], value=None if opset < 11 else 0.5), 9)
    expert = check(net, card(9), keep, exact=False)
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][rows])
    assert ("Pad" in expert.operators) == (pads is not None)
    if opset > 10 and pads is not None:
        assert list(weights(expert.data)["pads"]) == pads
    assert expert.stopped == []


def test_negative_padding_crops() -> None:
    net, tensor = branches()
    pooled(net, padded(net, tensor, [0, -2, 0, 0, 0, 1, 0, 0]), 5)  # channels 2, 3, 4, 5 and a row of zeros
    expert = check(net, card(5), [1, 3], judge=False)  # the reference knows no negative amounts
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][[3, 5]])
    assert "Pad" not in expert.operators
    assert list(weights(check(net, card(5), [1, 4], exact=False, judge=False).data)["pads"]) == [0, 0, 0, 0, 0, 1, 0, 0]


def test_padding_cropped_on_both_sides() -> None:
    net, tensor = branches()
    pooled(net, padded(net, tensor, [0, -1, 0, 0, 0, -3, 0, 0]), 2)
    assert np.array_equal(
        weights(check(net, card(2), [1], exact=False, judge=False).data)["c.b"], net.initializers["c.b"][[2]]
    )


def test_padding_of_named_axes() -> None:
    """Opset 18: pads only for the axes that an input names."""
    net, tensor = branches()
    pads, axes = net.constant([1, 2, 0, 1], "pads"), net.constant([-2, 1], "axes")
    pooled(net, net.node("Pad", tensor, pads, "", axes), 9)
    expert = check(net, card(9), [0, 2, 8])
    assert expert.shapes["c.w"] == (1, 3, 1, 1)
    assert list(weights(expert.data)["pads"]) == [1, 1, 0, 1]
    expert = check(net, card(9), [2, 3])
    assert list(weights(expert.data)["pads"]) == [1, 0, 0, 0]
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_other_modes_show_the_neighbours(mode: str) -> None:
    net, tensor = branches()
    scaled = net.node("Mul", padded(net, tensor, [0, 1, 0, 0, 0, 2, 0, 0], mode=mode), net.weight(9, 1, 1, name="k"))
    expert = check(pooled(net, scaled, 9), card(9), [1, 4], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((6, 3, 1, 1), (2, 1, 1))


def test_nothing_but_padding() -> None:
    net, tensor = branches()
    scaled = net.node("Mul", padded(net, tensor, [0, 2, 0, 0, 0, 0, 0, 0], value=2.0), net.weight(8, 1, 1, name="k"))
    expert = check(pooled(net, scaled, 8), card(8), [0, 1], alive=False, composable=False)
    assert expert.shapes["k"] == (2, 1, 1)
    assert expert.stopped == ["nothing but padding is wanted of a Pad"]


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding_of_space_leaves_the_classes_alone(mode: str) -> None:
    net, tensor = branches()
    padded = net.node("Pad", tensor, net.constant([0, 0, 1, 2, 0, 0, 0, 1]), mode=mode)
    expert = check(pooled(net, padded, 6), card(6), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_padding_before_opset_11_is_an_attribute() -> None:
    net, tensor = branches(10)
    expert = check(pooled(net, net.node("Pad", tensor, pads=[0, 0, 1, 1, 0, 0, 1, 1]), 6), card(6), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


# -- Tile, Expand, ConstantOfShape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "held", "repeats"), [([0, 2, 6, 8], 2, 3), ([1, 5], 1, 2), ([0, 5], 2, 2), ([9, 10], 2, 1)]
)
def test_tile_along_the_classes(keep: list[int], held: int, repeats: int) -> None:
    """[N, 4] three times over: class 4 r + c is row c."""
    net = Net()
    tall = net.node("Tile", net.head(net.image(), 3, 4, name="h"), net.constant([1, 3], "repeats"))
    net.result(net.node("Mul", tall, net.weight(12, name="k"), out="scores"), 12)
    expert = check(net, card(12), keep, exact=False, alive=keep != [0, 5])
    assert (expert.shapes["h.w"], expert.shapes["k"]) == ((held, 3), (len(keep),))
    assert list(weights(expert.data)["repeats"]) == [1, repeats]
    assert expert.stopped == []


def test_tile_of_another_axis() -> None:
    net, tensor = branches()
    expert = check(pooled(net, net.node("Tile", tensor, net.constant([1, 1, 2, 1])), 6), card(6), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


def test_tile_to_the_batch_by_computed_repeats() -> None:
    """A learned query per class, repeated for each image and twice along the classes."""
    net = Net()
    batch = net.node("Shape", net.image(), start=0, end=1)
    repeats = net.node("Concat", batch, net.constant([2]), axis=0)
    queries = net.node("Tile", net.weight(1, 3, name="q"), repeats, out="queries")
    net.result(net.node("Mul", queries, net.head("image", 3, 6, name="h"), out="scores"), 6)
    model = net.model()  # ONNX infers no shape here; exporters write it down
    model.graph.value_info.append(helper.make_tensor_value_info("queries", TensorProto.FLOAT, ["batch", 6]))
    expert = check(model.SerializeToString(), card(6), [0, 3], composable=False)
    assert (expert.shapes["h.w"], expert.shapes["q"]) == ((2, 3), (1, 1))
    assert expert.stopped == []


def symbolic(net: Net, tensor: str, *numbers: int) -> str:
    """The target ``[batch, *numbers]`` as exporters compute it: Shape, Gather, Unsqueeze, Concat."""
    batch = net.node("Gather", net.node("Shape", tensor), net.constant(0), axis=0)
    parts = [net.node("Unsqueeze", batch, net.constant([0])), net.constant(list(numbers))]
    return str(net.node("Concat", *parts, axis=0))


def test_expand_to_a_computed_batch() -> None:
    """The class axis comes from the input, the batch from a chain of shapes."""
    net = Net()
    tensor = net.conv(net.image(), 3, 6, name="c")
    queries = net.node("Expand", net.weight(1, 6, name="q"), symbolic(net, tensor, 6))
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.result(net.node("Mul", queries, flat, out="scores"), 6)
    expert = check(net, card(6), [1, 4])
    assert (expert.shapes["c.w"], expert.shapes["q"]) == ((2, 3, 1, 1), (1, 2))
    assert expert.operators.count("Shape") == 1
    assert expert.stopped == []


def test_expand_along_the_classes_of_a_computed_batch() -> None:
    """[N, 1] to [N, 6]: the batch is there already and need not be named, so the chain is gone."""
    net = Net()
    flat = net.head(net.image(), 3, 1, name="h")
    wide = net.node("Expand", flat, symbolic(net, flat, 6))
    net.result(net.node("Mul", wide, net.weight(6, name="k"), out="scores"), 6)
    expert = check(net, card(6), [0, 5])
    assert expert.shapes["k"] == (2,)
    assert expert.operators == ["GlobalAveragePool", "Flatten", "Gemm", "Expand", "Mul"]
    assert expert.stopped == []


def test_expand_that_changes_nothing_is_gone() -> None:
    net = Net()
    flat = net.head(net.image(), 3, 6, name="h")
    same = net.node("Expand", flat, net.node("Shape", flat))
    net.result(net.node("Neg", same, out="scores"), 6)
    expert = check(net, card(6), [0, 5])
    assert expert.operators == ["GlobalAveragePool", "Flatten", "Gemm", "Neg"]


def test_zeros_of_a_computed_shape() -> None:
    net = Net()
    flat = net.head(net.image(), 3, 6, name="h")
    zeros = net.node("ConstantOfShape", symbolic(net, flat, 6))
    net.result(net.node("Max", zeros, flat, out="scores"), 6)
    expert = check(net, card(6), [2, 5], alive=False)
    assert expert.shapes["h.w"] == (2, 3)
    assert expert.stopped == []


def test_a_static_fill() -> None:
    net = Net(batch=2)
    flat = net.head(net.image(), 3, 6, name="h")
    zeros = net.node("ConstantOfShape", net.constant([2, 6], "target"))
    net.result(net.node("Max", zeros, flat, out="scores"), 6)
    expert = check(net, card(6), [2, 5], alive=False)
    assert list(weights(expert.data)["target"]) == [2, 2]


def test_a_shape_of_numbers_and_a_batch_does_not_keep_what_it_measures() -> None:
    """Cast(Shape(x)) cannot be folded while the batch is open: the batch is read off the image, 6 stays 6."""
    net = Net()
    tensor = net.conv(net.image(), 3, 6, name="c")
    sizes = net.node("Cast", net.node("Shape", tensor, start=0, end=2), to=1)  # [batch, 6]
    size = net.node("ReduceSum", sizes, net.constant([0]), keepdims=0)
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.result(net.node("Div", flat, size, out="scores"), 6)
    expert = check(net, card(6), [1, 4])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_a_shape_whose_sizes_cannot_be_told_is_measured() -> None:
    """Size 3 of what a computed Slice leaves: one entry of the Shape is wanted, and the others stay where they are."""
    net = Net()
    tensor = net.conv(net.image(), 3, 6, name="c")
    bright = net.node("Cast", net.node("Greater", net.node("ReduceMax", "image", keepdims=0), net.constant(0.0)), to=7)
    end = net.node("Reshape", net.node("Add", bright, net.constant(2)), net.constant([1]))
    part = net.node("Slice", tensor, net.constant([0]), end, net.constant([3]))
    width = net.node("Cast", net.node("Gather", net.node("Shape", part), net.constant(3), axis=0), to=1)
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.result(net.node("Mul", flat, width, out="scores"), 6)
    expert = check(net, card(6), [1, 4], alive=False)
    assert expert.shapes["c.w"] == (6, 3, 1, 1)
    assert expert.stopped == ["Shape of a tensor whose sizes cannot be told"]


# -- DepthToSpace, SpaceToDepth, Resize --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "DCR", "CRD"])
@pytest.mark.parametrize("keep", [[0, 2], [1]])
def test_depth_to_space(mode: str | None, keep: list[int]) -> None:
    """12 channels make 3 of twice the size; a class needs four of them."""
    net, tensor = branches(channels=12)
    attributes = {} if mode is None else {"mode": mode}
    large = net.node("DepthToSpace", tensor, blocksize=2, **attributes)
    pooled(net, net.node("Mul", large, net.weight(3, 8, 8, name="k")), 3)
    expert = check(net, card(3), keep)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((4 * len(keep), 3, 1, 1), (len(keep), 8, 8))
    wanted = (
        [4 * c + b for c in keep for b in range(4)] if mode == "CRD" else [3 * b + c for b in range(4) for c in keep]
    )
    assert np.array_equal(weights(expert.data)["c.b"], net.initializers["c.b"][wanted])
    assert expert.stopped == []


@pytest.mark.parametrize(("keep", "held"), [([0, 3, 6], 1), ([1, 2, 10], 2)])
def test_space_to_depth(keep: list[int], held: int) -> None:
    """3 channels make 12 of half the size; class 3 b + c is pixel b of channel c."""
    net, tensor = branches(channels=3)
    pooled(net, net.node("SpaceToDepth", tensor, blocksize=2), 12)
    expert = check(net, card(12), keep, exact=False)
    assert expert.shapes["c.w"] == (held, 3, 1, 1)


@pytest.mark.parametrize("form", ["upsample 7", "upsample 9", "scales 10", "scales", "sizes", "sizes of axes", "chain"])
def test_resize_of_space_leaves_the_classes_alone(form: str) -> None:
    opset = {"upsample 7": 8, "upsample 9": 9, "scales 10": 10}.get(form, 20)
    net, tensor = branches(opset, batch=2 if form == "sizes" else "batch")
    scales = [1.0, 1.0, 2.0, 2.0]
    if form == "upsample 7":
        resized = net.node("Upsample", tensor, scales=scales)
    elif form in ("upsample 9", "scales 10"):
        resized = net.node("Upsample" if opset == 9 else "Resize", tensor, net.constant(scales))
    elif form == "scales":
        resized = net.node("Resize", tensor, "", net.constant(scales), mode="linear")
    elif form == "sizes":
        resized = net.node("Resize", tensor, "", "", net.constant([2, 6, 7, 7], "target"), mode="linear")
    elif form == "sizes of axes":
        resized = net.node("Resize", tensor, "", "", net.constant([7, 6, 7]), axes=[2, 1, 3], mode="linear")
    else:
        head = net.node("Slice", net.node("Shape", tensor), net.constant([0]), net.constant([2]))
        target = net.node("Concat", head, net.constant([7, 7]), axis=0)
        resized = net.node("Resize", tensor, "", "", target, mode="linear")
    expert = check(pooled(net, resized, 6), card(6), [1, 4], alive=False, judge=opset > 10)
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []
    if form == "sizes":
        assert list(weights(expert.data)["target"]) == [2, 2, 7, 7]


def test_resize_that_stretches_the_channels_by_less_than_one_of_them() -> None:
    """4 * 1.2 is 4 again, but channel 2 of the result is channel 1 of the input (ONNX's reference evaluator)."""
    net, tensor = branches(channels=4)
    scales = net.constant([1.0, 1.2, 1.0, 1.0])
    stretched = net.node(
        "Resize", tensor, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    check(pooled(net, stretched, 4), card(4), [0, 2], alive=False)


def test_resize_of_the_channels_keeps_them_whole() -> None:
    net, tensor = branches(channels=4)
    doubled = net.node("Resize", tensor, "", net.constant([1.0, 2.0, 1.0, 1.0]), mode="nearest")
    scaled = net.node("Mul", doubled, net.weight(8, 1, 1, name="k"))
    expert = check(pooled(net, scaled, 8), card(8), [0, 5], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["k"]) == ((4, 3, 1, 1), (2, 1, 1))
