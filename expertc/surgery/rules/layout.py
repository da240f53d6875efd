"""Operators that only rearrange: Reshape, Flatten, Transpose, Squeeze, Unsqueeze."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul

import numpy as np

from ...graph import Dim, Shape
from ..demand import Demand, Marks, any_along, demand, product
from ..site import Answer, Draft, Rule, Site, Wanted, opaque


@dataclass(frozen=True)
class Block:
    """Axes of input and output that hold the same elements in the same order; axes of size 1 are left out.

    ``factors`` are the sizes of the axes that both sides can be split into; None if there is no such split.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    factors: tuple[int, ...] | None = None


def align(before: Shape, after: Shape) -> list[Block] | None:
    """Split two shapes into the smallest blocks of equal product, from both ends; None if they contradict each other.

    Where a symbol gets in the way there is one block in the middle without factors.
    """
    left = [axis for axis, dim in enumerate(before) if dim != 1]
    right = [axis for axis, dim in enumerate(after) if dim != 1]
    blocks, i, j = _matches([before[axis] for axis in left], [after[axis] for axis in right])
    rest = [before[axis] for axis in left[i:]], [after[axis] for axis in right[j:]]
    tail, m, n = _matches(rest[0][::-1], rest[1][::-1])
    found = list(blocks)
    middle = (i, len(left) - m), (j, len(right) - n)
    if middle[0][0] < middle[0][1] or middle[1][0] < middle[1][1]:
        symbolic = any(not isinstance(dim, int) for dim in (*rest[0], *rest[1]))
        if not symbolic or middle[0][0] == middle[0][1]:
            return None
        found.append(middle)
    for (a, b), (c, d) in reversed(tail):
        found.append(((len(left) - b, len(left) - a), (len(right) - d, len(right) - c)))
    made = []
    for (a, b), (c, d) in found:
        axes = tuple(left[a:b]), tuple(right[c:d])
        made.append(Block(*axes, common_factors([before[x] for x in axes[0]], [after[x] for x in axes[1]])))
    return made


Span = tuple[tuple[int, int], tuple[int, int]]  # a range of positions on either side


def _matches(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[list[Span], int, int]:
    """The blocks of equal product from the left, and how far they reach on either side."""
    spans: list[Span] = []
    i = j = 0
    while i < len(before) and j < len(after):
        start, m, n = (i, j), before[i], after[j]
        i, j = i + 1, j + 1
        while isinstance(m, int) and isinstance(n, int) and m != n:
            if m < n:
                step = before[i] if i < len(before) else None
                i, m = i + 1, m * step if isinstance(step, int) else None
            else:
                step = after[j] if j < len(after) else None
                j, n = j + 1, n * step if isinstance(step, int) else None
        if m is None or m != n:
            return spans, *start
        spans.append(((start[0], i), (start[1], j)))
    return spans, i, j


def common_factors(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[int, ...] | None:
    """The coarsest axes that both sides of a block are made of: (6, 4) and (3, 8) are both (3, 2, 4)."""
    sizes = [[dim for dim in side if isinstance(dim, int)] for side in (before, after)]
    if [len(side) for side in sizes] != [len(before), len(after)]:
        return None
    edges = sorted({edge for side in sizes for edge in accumulate(side, mul)})
    if any(nearer == 0 or further % nearer for nearer, further in pairwise(edges)):
        return None
    return tuple(further // nearer for nearer, further in pairwise([1, *edges]))


def grouped(sizes: Sequence[int], factors: Sequence[int]) -> list[slice]:
    """Which of ``factors`` make up each axis of ``sizes``."""
    found, at = [], 0
    for size in sizes:
        start, product_so_far = at, 1
        while product_so_far < size:
            product_so_far *= factors[at]
            at += 1
        found.append(slice(start, at))
    return found


def target_shape(before: Shape, target: list[int], allow_zero: bool) -> Shape:
    """The output shape of a Reshape with symbols kept: 0 copies, -1 takes what is left, a symbol included."""
    after: list[Dim] = [before[axis] if dim == 0 and not allow_zero else dim for axis, dim in enumerate(target)]
    if -1 not in after:
        return tuple(after)
    held, asked = 1, 1
    symbols = [dim for dim in before if not isinstance(dim, int)]
    for dim in before:
        held *= dim if isinstance(dim, int) else 1
    for dim in after:
        if isinstance(dim, int):
            asked *= dim if dim != -1 else 1
        elif dim in symbols:
            symbols.remove(dim)
        else:
            return tuple(None if d == -1 else d for d in after)
    left: Dim = None  # not known, unless what is left over is a number alone or one symbol alone
    if not symbols and asked and held % asked == 0:
        left = held // asked
    elif len(symbols) == 1 and held == asked:
        left = symbols[0]
    return tuple(left if dim == -1 else dim for dim in after)


def _reshape(site: Site, wanted: Wanted) -> Answer:
    """Index sets travel block by block, along the axes that both sides of a block are made of.

    An axis that is made of several is closed to the product of their sets.
    """
    item, before, after = wanted[0], site.shape(0), reshaped(site)
    if item is None or before is None or after is None:
        return opaque(site, wanted, f"the shapes of {site.op} are not known")
    blocks = align(before, after)
    if blocks is None:
        return opaque(site, wanted, f"{site.op} mixes an axis of unknown size")
    asked: dict[int, Marks] = {}
    kept: dict[int, Marks] = {}
    for block in blocks:
        if not any(axis in item.marks for axis in block.after):
            continue
        if block.factors is None:
            symbolic = any(not isinstance(before[axis], int) for axis in block.before)
            why = "mixes an axis of unknown size" if symbolic else "mixes axes that have no common factors"
            return opaque(site, wanted, f"{site.op} {why}")
        sizes = [
            [int(shape[axis] or 0) for axis in axes] for shape, axes in ((before, block.before), (after, block.after))
        ]
        marks: list[Marks] = []
        for axis, size, own in zip(block.after, sizes[1], grouped(sizes[1], block.factors), strict=True):
            marks += sides(item.axis(axis, size), block.factors[own])
        for target, axes, each in ((asked, block.before, sizes[0]), (kept, block.after, sizes[1])):
            for axis, own in zip(axes, grouped(each, block.factors), strict=True):
                target[axis] = product(marks[own])
    ask, keep = demand(item.who, asked), demand(item.who, kept)
    if keep is not None and keep.marks and site.op != "Flatten" and _new_target(site, keep) is None:
        return opaque(site, wanted, f"{site.op} has a target that is computed")
    constant = () if site.op == "Flatten" else (None if _new_target(site, Demand(item.who)) else Demand(item.who),)
    return Answer((ask, *constant), (keep,))


def sides(marks: Marks, sizes: Sequence[int]) -> list[Marks]:
    """Marks of an axis that is made of axes of ``sizes``, as marks of each of them."""
    table = marks.reshape(sizes)
    return [any_along(table, tuple(k for k in range(len(sizes)) if k != own)) for own in range(len(sizes))]


def _new_target(site: Site, kept: Demand) -> list[int] | None:
    """A constant target for what is kept, so that whatever computed it is not needed; None if there is none."""
    before, after = site.shape(0), reshaped(site)
    if before is None or after is None:
        return None
    sizes = [kept.size(axis, dim) for axis, dim in enumerate(after)]
    unknown = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    copied: list[int] = []
    if len(unknown) > 1 and 0 not in sizes:
        copied = [a for a in unknown if a < len(before) and before[a] is not None and before[a] == sizes[a]]
    if len(unknown) - len(copied) > 1:
        return None
    return [dim if isinstance(dim, int) else 0 if axis in copied else -1 for axis, dim in enumerate(sizes)]


def reshaped(site: Site) -> Shape | None:
    """The output shape of a Reshape or Flatten, symbols kept."""
    before = site.shape(0)
    if before is None:
        return site.out_shape()
    if site.op == "Flatten":
        axis = range(len(before) + 1)[int(site.attribute("axis", 1))]  # behind the last one is allowed, -1 is not that
        axis -= int(site.attribute("axis", 1)) < 0
        first, second = _fold(before[:axis]), _fold(before[axis:])
        return (first, second)
    target = site.constant(1)
    if target is None:
        return site.out_shape()
    return target_shape(before, [int(dim) for dim in target], bool(site.attribute("allowzero", 0)))


def _fold(dims: Shape) -> Dim:
    symbols = [dim for dim in dims if not isinstance(dim, int)]
    number = int(np.prod([dim for dim in dims if isinstance(dim, int)], dtype=np.int64))
    if not symbols:
        return number
    return symbols[0] if len(symbols) == 1 and number == 1 else None


def _reshape_write(site: Site, answer: Answer, draft: Draft) -> None:
    kept = answer.kept[0]
    if site.op == "Flatten" or kept is None or answer.asks[1] is not None:
        return
    draft.constants[1] = np.array(_new_target(site, kept), dtype=np.int64)
    draft.attrs.pop("allowzero", None)


def _transpose(site: Site, wanted: Wanted) -> Answer:
    item, shape = wanted[0], site.shape(0) or site.out_shape()
    if item is None or shape is None:
        return opaque(site, wanted, "the shape of Transpose is not known")
    order = site.attribute("perm") or list(range(len(shape)))[::-1]
    return Answer((item.moved(dict(enumerate(order))),), (item,))


def _axes(site: Site) -> list[int] | None:
    """The axes of Squeeze or Unsqueeze: an attribute before opset 13, an input from then on."""
    axes: list[int] | None = site.attribute("axes")
    if axes is None and site.has(1):
        given = site.constant(1)
        axes = None if given is None else given.reshape(-1).tolist()
    return axes


def _squeeze(site: Site, wanted: Wanted) -> Answer:
    item, shape, axes = wanted[0], site.shape(0), _axes(site)
    if item is None or shape is None or (axes is None and site.has(1)):
        return opaque(site, wanted, "the shape of Squeeze is not known")
    if axes is None and not all(isinstance(dim, int) for dim in shape):
        return opaque(site, wanted, "Squeeze drops whatever axes turn out to be of size 1")
    gone = _squeezed(site, shape, axes)
    stay = [axis for axis in range(len(shape)) if axis not in gone]
    asks = (item.moved(dict(enumerate(stay))), Demand(item.who) if site.has(1) else None)
    return Answer(asks[: len(site.node.inputs)], (item,))


def _squeezed(site: Site, shape: Shape, axes: list[int] | None) -> list[int]:
    if axes is None:
        return [axis for axis, dim in enumerate(shape) if dim == 1]
    return [site.axis(int(axis), len(shape)) for axis in axes]


def _squeeze_write(site: Site, answer: Answer, draft: Draft) -> None:
    """Without explicit axes a channel cut down to 1 would vanish."""
    shape = site.shape(0)
    if _axes(site) is None and not site.has(1) and shape is not None and all(isinstance(dim, int) for dim in shape):
        axes = _squeezed(site, shape, None)
        if site.opset < 13:
            draft.attrs["axes"] = axes
        else:
            draft.constants[1] = np.array(axes, dtype=np.int64)


def _unsqueeze(site: Site, wanted: Wanted) -> Answer:
    item, shape, axes = wanted[0], site.shape(0), _axes(site)
    if item is None or shape is None or axes is None:
        return opaque(site, wanted, "the shape of Unsqueeze is not known")
    rank = len(shape) + len(axes)
    new = {site.axis(int(axis), rank) for axis in axes}
    stay = [axis for axis in range(rank) if axis not in new]
    asks = (item.moved({out: inner for inner, out in enumerate(stay)}), Demand(item.who) if site.has(1) else None)
    return Answer(asks[: len(site.node.inputs)], (item,))


RULES: dict[str, Rule] = {
    "Reshape": Rule(_reshape, _reshape_write),
    "Flatten": Rule(_reshape, plain=True),
    "Transpose": Rule(_transpose, plain=True),
    "Squeeze": Rule(_squeeze, _squeeze_write),
    "Unsqueeze": Rule(_unsqueeze),
}
