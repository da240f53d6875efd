"""QuantizeLinear and DequantizeLinear: one scale for all, one per index of an axis, or one per block of it."""

from __future__ import annotations

import numpy as np

from ..demand import Demand, Marks, demand, nothing
from ..site import Answer, Rule, Site, Wanted, opaque


def _linear(site: Site, wanted: Wanted) -> Answer:
    """The same box on x; a scale and a zero point go with its axis, if they have one.

    Blocks stay whole: of the blocked axis is kept every block that is touched, so that blocks stay equal.
    """
    item, shape, scale = wanted[0], site.shape(0) or site.out_shape(), site.shape(1)
    if item is None or shape is None or scale is None:
        return opaque(site, wanted, f"the shapes of {site.op} are not known")
    kept: Demand | None = item
    given = int(site.attribute("axis", 1))
    if len(scale) == len(shape) and int(site.attribute("block_size", 0)) > 0:
        axis, block = site.axis(given, len(shape)), int(site.attribute("block_size"))
        marks, parameter = dict(item.marks), kept
        if axis in marks:
            blocks = _blocks(marks[axis], block)
            marks[axis] = np.repeat(blocks, block)[: len(marks[axis])]
            kept, parameter = demand(item.who, marks), demand(item.who, {**marks, axis: blocks})
    elif all(dim == 1 for dim in scale):
        parameter = Demand(item.who)  # one for all: the axis means nothing, and x may not have it
    else:
        axis = site.axis(given, len(shape))
        if len(scale) != 1 or (axis in item.marks and scale[0] != len(item.marks[axis])):
            return opaque(site, wanted, f"the scales of {site.op} do not fit its input")
        parameter = item.moved({axis: 0})
    return Answer((kept, *(parameter if site.has(i) else None for i in range(1, len(site.node.inputs)))), (kept,))


def _blocks(marks: Marks, block: int) -> Marks:
    """Who needs any index of each block; the last one may be shorter."""
    count = -(-len(marks) // block)
    padded = np.concatenate([marks, nothing(False if marks.dtype == bool else 0, count * block - len(marks))])
    return np.bitwise_or.reduce(padded.reshape(count, block), axis=1)  # type: ignore[no-any-return]


def _dynamic(site: Site, wanted: Wanted) -> Answer:
    """The range is taken over the whole tensor."""
    return opaque(site, wanted, f"{site.op} takes the range of a whole tensor")


RULES: dict[str, Rule] = {
    "QuantizeLinear": Rule(_linear),
    "DequantizeLinear": Rule(_linear),
    "DynamicQuantizeLinear": Rule(_dynamic),
}
