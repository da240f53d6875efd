"""Operators that make an axis longer: Pad and Tile."""

from __future__ import annotations

import numpy as np

from ...graph import Dim, Shape
from ..demand import Demand, demand, nothing, product
from ..site import Answer, Draft, Rule, Site, Wanted, opaque, readable
from .index import sizes_of
from .layout import sides
from .sizes import target_name

# -- Pad ---------------------------------------------------------------------------------------------------------------


def _axes(site: Site) -> list[int] | None:
    """The axes that ``pads`` speaks of: all, or from opset 18 on those that an input names."""
    shape, named = site.shape(0), site.constant(3)
    if shape is None or (site.has(3) and named is None):
        return None
    return list(range(len(shape))) if named is None else [site.axis(int(axis), len(shape)) for axis in named]


def _pads(site: Site) -> dict[int, tuple[int, int]] | None:
    """Amounts before and after, of every axis that has any; negative ones crop. None if they are computed."""
    axes, pads = _axes(site), site.attribute("pads") if site.opset < 11 else site.constant(1)
    if axes is None or pads is None:
        return None
    before, after = np.asarray(pads).reshape(2, -1).tolist()
    amounts = {axis: (int(b), int(a)) for axis, b, a in zip(axes, before, after, strict=True)}
    return {axis: amount for axis, amount in amounts.items() if any(amount)}


def _mode(site: Site) -> str:
    given = site.attribute("mode", "constant")
    return given.decode() if isinstance(given, bytes) else str(given)


def _pad(site: Site, wanted: Wanted) -> Answer:
    """Constant padding shifts the set; how much of the padding itself is wanted is kept as a count.

    Other modes show neighbouring rows, so an axis they pad stays whole.
    """
    item, shape, pads = wanted[0], site.shape(0), _pads(site)
    if item is None or shape is None or pads is None:
        return opaque(site, wanted, "Pad with amounts that are not constant")
    if _mode(site) != "constant":
        item = item.without(*pads)
    asked = dict(item.marks)
    for axis in pads.keys() & item.marks.keys():
        before, size = pads[axis][0], int(shape[axis] or 0)
        asked[axis] = nothing(item.who, size)
        first, end = max(0, -before), min(size, len(item.marks[axis]) - before)
        asked[axis][first:end] = item.marks[axis][first + before : end + before]
    ask = demand(item.who, asked)
    if ask is None or ask.who != item.who:
        return opaque(site, wanted, "nothing but padding is wanted of a Pad")
    rest = [Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs))]
    if rest and pads.keys() & item.marks.keys():
        rest[0] = None  # written anew
    return Answer((ask, *rest), (item,))


def _pad_write(site: Site, answer: Answer, draft: Draft) -> None:
    kept, axes, pads = answer.kept[0], _axes(site), _pads(site)
    if kept is None or axes is None or pads is None or not pads.keys() & kept.marks.keys():
        return
    for axis in pads.keys() & kept.marks.keys():
        before, after = pads[axis]
        marks = kept.marks[axis].astype(bool)
        pads[axis] = int(marks[: max(0, before)].sum()), int(marks[len(marks) - max(0, after) :].sum())
    amounts = [pads.get(axis, (0, 0))[side] for side in (0, 1) for axis in axes]
    if not any(amounts):
        draft.alias = 0
    elif site.opset < 11:
        draft.attrs["pads"] = amounts
    else:
        draft.constants[1] = np.array(amounts, dtype=np.int64)


# -- Tile --------------------------------------------------------------------------------------------------------------


def _repeats(site: Site) -> Shape | None:
    """How often each axis is repeated: a number, or a symbol."""
    shape = site.shape(0)
    repeats = None if site.opset < 6 else sizes_of(site.model, site.inputs[1])
    return repeats if shape is not None and repeats is not None and len(repeats) == len(shape) else None


def _tile(site: Site, wanted: Wanted) -> Answer:
    """An index is (repeat, position): touched repeats times touched positions stay."""
    item, shape, repeats = wanted[0], site.shape(0), _repeats(site)
    if item is None or shape is None or repeats is None:
        return opaque(site, wanted, "Tile with repeats that are computed")
    asked, kept = {}, {}
    for axis, marks in item.marks.items():
        size, times = shape[axis], repeats[axis]
        if not isinstance(size, int) or not isinstance(times, int):
            return opaque(site, wanted, "Tile with repeats that are computed")
        both = sides(marks, (times, size))
        asked[axis], kept[axis] = both[1], product(both)
    ask, keep = demand(item.who, asked), demand(item.who, kept)
    if keep is None or not _is_repeated(shape, repeats, keep):
        return Answer((ask, Demand(item.who)), (keep,))
    return Answer((ask, None), (keep,)) if readable(site.model, repeats) else opaque(site, wanted, "Tile is computed")


def _is_repeated(shape: Shape, repeats: Shape, kept: Demand) -> bool:
    return any(repeats[axis] != 1 for axis in kept.marks)


def _tile_write(site: Site, answer: Answer, draft: Draft) -> None:
    ask, kept, shape, repeats = answer.asks[0], answer.kept[0], site.shape(0), _repeats(site)
    if ask is None or kept is None or shape is None or repeats is None or answer.asks[1] is not None:
        return

    def times(axis: int) -> Dim:
        size, held = kept.size(axis, None), ask.size(axis, shape[axis])
        return size // held if isinstance(size, int) and isinstance(held, int) else repeats[axis]

    draft.inputs[1] = draft.make.sizes(tuple(times(axis) for axis in range(len(shape))), target_name(site, 1))


RULES: dict[str, Rule] = {"Pad": Rule(_pad, _pad_write), "Tile": Rule(_tile, _tile_write)}
