"""The cases of the operators that move things: layouts, pieces, sizes, pads, blocks, index maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from networks import Net
from one_of_each import CASES, case, maps, scored, vectors
from onnx import TensorProto, numpy_helper

PLACES = ([0, 4], [5, 1, 2], [3])  # which classes each of three heads scores

# -- layouts -----------------------------------------------------------------------------------------------------------


@case("Reshape")
def _reshape(net: Net, rows: Sequence[int]) -> str:
    """Two channels per class: split off, and weighed against each other."""
    split = net.node("Reshape", maps(net, 2 * len(rows)), net.constant([0, len(rows), 2, 16]))
    weighted = net.node("Mul", split, net.constant([[[0.5], [2.0]]]))
    return str(net.node("ReduceSum", weighted, net.constant([2, 3]), keepdims=0))


@case("Reshape", keep=(0, 3), held=(0, 1, 2, 3))
def _reshape_unequal(net: Net, rows: Sequence[int]) -> str:
    """Classes are (group, position): the product of both sets stays."""
    split = net.node("Reshape", vectors(net, len(rows)), net.constant([-1, len(rows) // 2, 2]))
    weighted = net.node("Mul", split, net.weight(len(rows) // 2, 1))
    weighted = net.node("Mul", weighted, net.weight(2))
    return str(net.node("Reshape", weighted, net.constant([-1, len(rows)])))


@case("Flatten")
def _flatten(net: Net, rows: Sequence[int]) -> str:
    return str(net.node("Flatten", net.node("GlobalMaxPool", maps(net, len(rows))), axis=1))


@case("Transpose")
def _transpose(net: Net, rows: Sequence[int]) -> str:
    last = net.node("Transpose", maps(net, len(rows)), perm=[0, 2, 3, 1])
    return str(net.node("ReduceMean", net.node("Mul", last, net.weight(len(rows))), net.constant([1, 2]), keepdims=0))


@case("Squeeze", keep=(3,), batch=2)
def _squeeze(net: Net, rows: Sequence[int]) -> str:
    """Without axes, and a single class is left: its axis must not go too."""
    if len(rows) == 1:
        return str(net.node("Squeeze", net.node("GlobalMaxPool", maps(net, 1)), net.constant([2, 3])))
    return str(net.node("Squeeze", net.node("GlobalMaxPool", maps(net, len(rows)))))


@case("Unsqueeze")
def _unsqueeze(net: Net, rows: Sequence[int]) -> str:
    long = net.node("Unsqueeze", vectors(net, len(rows)), net.constant([1, 3]))
    return str(net.node("ReduceSum", long, net.constant([1, 3]), keepdims=0))


# -- pieces ------------------------------------------------------------------------------------------------------------


@case("Concat", keep=(1, 4, 5))
@case("Concat", keep=(2,))
def _concat(net: Net, rows: Sequence[int]) -> str:
    """Three heads of two classes."""
    held = [[row for row in rows if row // 2 == k] for k in range(3)]
    pieces = [net.head("image", 3, len(own), name=f"h{k}") for k, own in enumerate(held) if own]
    return str(net.node("Concat", *pieces, axis=1)) if len(pieces) > 1 else pieces[0]


@case("Split", keep=(1, 4, 5))
def _split(net: Net, rows: Sequence[int]) -> str:
    """Six classes: four on the first piece, two on the second, which has a trunk channel each."""
    held = [[row for row in rows if row < 4], [row for row in rows if row >= 4]]
    pieces = net.node(
        "Split", vectors(net, len(rows)), net.constant([len(own) for own in held]), axis=1, out=["a", "b"]
    )
    scores = [net.node("Mul", piece, net.weight(len(own))) for piece, own in zip(pieces, held, strict=True)]
    return str(net.node("Concat", *scores, axis=1))


@case("Split")
def _split_other_axis(net: Net, rows: Sequence[int]) -> str:
    parts = net.node("Split", maps(net, len(rows)), net.constant([1, 3]), axis=2, out=["top", "rest"])
    return str(net.node("Add", scored(net, parts[0], 1, 4), scored(net, parts[1], 3, 4)))


@case("Slice")
def _slice(net: Net, rows: Sequence[int]) -> str:
    """Every other channel, which the cut merges into whoever reads it; a network of some classes has no others."""
    if len(rows) < 6:
        return vectors(net, len(rows))
    return str(net.node("Slice", vectors(net, 12), *(net.constant([n]) for n in (1, 12, 1, 2))))


@case("Slice")
def _slice_backwards(net: Net, rows: Sequence[int]) -> str:
    bounds = (net.constant([n]) for n in (-1, -1 - len(rows), 1, -1))
    return str(net.node("Slice", vectors(net, len(rows) if len(rows) < 6 else 9), *bounds))


@case("Gather")
def _gather(net: Net, rows: Sequence[int]) -> str:
    if len(rows) < 6:
        return str(net.node("Gather", vectors(net, len(rows)), net.constant([2, 0, 1]), axis=1))
    return str(net.node("Gather", vectors(net, 8), net.constant([7, 3, 0, 1, 2, 5]), axis=1))


@case("Gather", keep=(0, 2, 5))
def _gather_ascending(net: Net, rows: Sequence[int]) -> str:
    if len(rows) < 6:
        return vectors(net, len(rows))
    return str(net.node("Gather", vectors(net, 9), net.constant([0, 2, 3, 5, 6, 8]), axis=1))


# -- sizes -------------------------------------------------------------------------------------------------------------


@case("Expand")
def _expand(net: Net, rows: Sequence[int]) -> str:
    wide = net.node("Expand", net.weight(1, len(rows), 1, 1), net.constant([1, len(rows), 4, 4]))
    return scored(net, net.node("Mul", maps(net, len(rows)), wide))


@case("ConstantOfShape")
def _filled(net: Net, rows: Sequence[int]) -> str:
    """As many ones as there are images, by classes."""
    batch = net.node("Slice", net.node("Shape", "image"), net.constant([0]), net.constant([1]))
    target = net.node("Concat", batch, net.constant([len(rows)]), axis=0)
    half = numpy_helper.from_array(np.array([0.5], np.float32))
    return str(net.node("Mul", net.node("ConstantOfShape", target, value=half), vectors(net, len(rows))))


@case("Shape")
def _shape(net: Net, rows: Sequence[int]) -> str:
    """The number of images is read off features that are cut: it must not hold them."""
    tensor = maps(net, len(rows))
    count = net.node("Gather", net.node("Shape", tensor), net.constant([0]))
    return str(net.node("Mul", scored(net, tensor), net.node("Cast", count, to=TensorProto.FLOAT)))


# -- pads and repeats --------------------------------------------------------------------------------------------------


@case("Pad", keep=(0, 3, 4))
def _pad(net: Net, rows: Sequence[int]) -> str:
    """Classes 0 and 5 are padding, apart from a bias that comes after it."""
    inner = len([row for row in rows if 0 < row < 5])
    pads = net.constant([0, int(0 in rows), 0, int(5 in rows)])
    return str(net.node("Add", net.node("Pad", vectors(net, inner), pads), net.weight(len(rows))))


@case("Tile", keep=(1, 4))
@case("Tile", keep=(1, 3), held=(0, 1, 3, 4))
def _tile(net: Net, rows: Sequence[int]) -> str:
    """Class c is repeat c // 3 of channel c % 3."""
    channels, repeats = {row % 3 for row in rows}, {row // 3 for row in rows}
    return scored(net, net.node("Tile", maps(net, len(channels)), net.constant([1, len(repeats), 1, 1])))


# -- blocks of pixels --------------------------------------------------------------------------------------------------


@case("DepthToSpace")
def _depth_to_space(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("DepthToSpace", maps(net, 4 * len(rows)), blocksize=2), 8, 8)


@case("SpaceToDepth", keep=(1, 2), held=(1, 2, 4, 5))
def _space_to_depth(net: Net, rows: Sequence[int]) -> str:
    """Class c is channel c % 3 of the first two of four pixels."""
    channels = len({row % 3 for row in rows})
    pixels = scored(net, net.node("SpaceToDepth", maps(net, channels), blocksize=2), 2, 2)
    return str(net.node("Slice", pixels, *(net.constant([n]) for n in (0, len(rows), 1))))


@case("Resize", batch=2)
def _resize(net: Net, rows: Sequence[int]) -> str:
    sizes = net.constant([2, len(rows), 8, 8])
    return scored(net, net.node("Resize", maps(net, len(rows)), "", "", sizes), 8, 8)


@case("Upsample", opset=9)
def _upsample(net: Net, rows: Sequence[int]) -> str:
    return scored(net, net.node("Upsample", maps(net, len(rows)), net.constant([1.0, 1.0, 2.0, 2.0])), 8, 8)


# -- index maps --------------------------------------------------------------------------------------------------------


@case("ScatterElements", "ScatterND", batch=2, spare=2)
def _scatter(net: Net, rows: Sequence[int], op: str) -> str:
    """Three heads written one after another into zeros; a network of some classes has their heads side by side."""
    held = [[row for row in places if row in rows] for places in PLACES]
    heads = [net.head("image", 3, len(own), name=f"h{k}") for k, own in enumerate(held) if own]
    if len(rows) < 6:
        joined = net.node("Concat", *heads, axis=1)
        order = [row for own in held for row in own]
        return str(net.node("Gather", joined, net.constant([order.index(row) for row in rows]), axis=1))
    data = net.constant(np.zeros((2, 6), np.float32))
    for head, places in zip(heads, PLACES, strict=True):
        if op == "ScatterND":
            index = np.stack(np.meshgrid(range(2), places, indexing="ij"), axis=-1)
            data = net.node(op, data, net.constant(index), head)
        else:
            data = net.node(op, data, net.constant(np.tile(places, (2, 1))), head, axis=1)
    return str(data)


@case("Scatter", batch=2, opset=9, spare=2)
def _scatter_of_old(net: Net, rows: Sequence[int]) -> str:
    return _scatter(net, rows, "Scatter")


@case("GatherElements", keep=(0, 1, 4), batch=2)
def _gather_elements(net: Net, rows: Sequence[int]) -> str:
    """Another order of the channels for each image: whichever channel a class reads for one of them stays."""
    order = [[0, 1, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]]
    if len(rows) == 6:
        return str(net.node("GatherElements", vectors(net, 6), net.constant(order), axis=1))
    read = sorted({order[k][row] for row in rows for k in (0, 1)})
    index = net.constant([[read.index(order[k][row]) for row in rows] for k in (0, 1)])
    return str(net.node("GatherElements", vectors(net, len(read)), index, axis=1))


@case("GatherND")
def _gather_nd(net: Net, rows: Sequence[int]) -> str:
    """Channels that are picked from ``[channels, batch]``, in any order."""
    places = [5, 3, 0, 1, 7, 2]
    read = sorted(places[row] for row in rows) if len(rows) < 6 else list(range(8))
    index = net.constant([[read.index(places[row])] for row in rows])
    picked = net.node("GatherND", net.node("Transpose", vectors(net, len(read))), index)
    return str(net.node("Transpose", picked))


ALL = tuple(CASES)
"""Every case, those of ``one_of_each`` included."""
