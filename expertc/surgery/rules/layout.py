"""Operators that only rearrange: Reshape, Flatten, Transpose, Squeeze, Unsqueeze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...graph import Dim, Shape
from ..demand import Demand, Marks, any_along, demand, product
from ..site import Answer, Draft, Rule, Site, Wanted, opaque


@dataclass(frozen=True)
class Block:
    """Axes of input and output that hold the same elements in the same order; axes of size 1 are left out."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def align(before: Shape, after: Shape) -> list[Block] | None:
    """Split two shapes into the smallest blocks of equal product, from the left; None if a symbol gets in the way."""
    left = [axis for axis, dim in enumerate(before) if dim != 1]
    right = [axis for axis, dim in enumerate(after) if dim != 1]
    blocks = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = before[left[i]], after[right[j]]
        start = (i, j)
        i, j = i + 1, j + 1
        if isinstance(a, int) and isinstance(b, int):
            m, n = a, b
            while m != n:
                if m < n:
                    step = before[left[i]] if i < len(left) else None
                    i += 1
                    if not isinstance(step, int):
                        return None
                    m *= step
                else:
                    step = after[right[j]] if j < len(right) else None
                    j += 1
                    if not isinstance(step, int):
                        return None
                    n *= step
        elif a is None or a != b:
            return None
        blocks.append(Block(tuple(left[start[0] : i]), tuple(right[start[1] : j])))
    return blocks if i == len(left) and j == len(right) else None


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
    """Index sets travel block by block: one axis to many is unravelled, many to one becomes the product of the sets."""
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
        sizes = [int(after[axis] or 0) for axis in block.after]
        marks = [item.axis(axis, size) for axis, size in zip(block.after, sizes, strict=True)]
        if len(block.before) == 1:
            asked[block.before[0]] = product(marks)
            kept |= dict(zip(block.after, marks, strict=True))
        elif len(block.after) == 1:
            parts = [int(before[axis] or 0) for axis in block.before]
            table = marks[0].reshape(parts)
            sides = [any_along(table, tuple(k for k in range(len(parts)) if k != own)) for own in range(len(parts))]
            asked |= dict(zip(block.before, sides, strict=True))
            kept[block.after[0]] = product(sides)
        # Many to many without a common factor: both sides stay whole.
    ask, keep = demand(item.who, asked), demand(item.who, kept)
    constant = () if site.op == "Flatten" else (_shape_input(site, item),)
    return Answer((ask, *constant), (keep,))


def _shape_input(site: Site, item: Demand) -> Demand | None:
    """The target is written anew wherever that is possible, so whatever computed it is not needed."""
    after = reshaped(site)
    known = after is not None and sum(not isinstance(dim, int) for dim in after) <= 1
    return None if known else Demand(item.who)


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
    after, kept = reshaped(site), answer.kept[0]
    if site.op == "Flatten" or after is None or kept is None or answer.asks[1] is not None:
        return
    sizes = [kept.size(axis, dim) for axis, dim in enumerate(after)]
    draft.constants[1] = np.array([dim if isinstance(dim, int) else -1 for dim in sizes], dtype=np.int64)
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
    if _axes(site) is None and not site.has(1) and shape is not None:
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
    "Flatten": Rule(_reshape),
    "Transpose": Rule(_transpose),
    "Squeeze": Rule(_squeeze, _squeeze_write),
    "Unsqueeze": Rule(_unsqueeze),
}
