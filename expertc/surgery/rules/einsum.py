"""Einsum: every letter of the output carries its own set, letters that are summed stay whole."""

from __future__ import annotations

from ...graph.equation import letters
from ..demand import Marks, demand
from ..site import Answer, Rule, Site, Wanted, opaque


def _einsum(site: Site, wanted: Wanted) -> Answer:
    """An operand is asked for the output's set on each axis of that name; a repeated letter, for both its axes."""
    item, shapes = wanted[0], [site.shape(i) for i in range(len(site.node.inputs))]
    known = [shape for shape in shapes if shape is not None]
    if item is None or len(known) < len(shapes):
        return opaque(site, wanted, "the shapes of Einsum are not known")
    operands, result = letters(str(site.attribute("equation")), [len(shape) for shape in known])
    wants = {result[axis]: marks for axis, marks in item.marks.items()}
    asks = []
    for axes, shape in zip(operands, known, strict=True):
        own: dict[int, Marks] = {}
        for axis, (letter, size) in enumerate(zip(axes, shape, strict=True)):
            if letter in wants and size == len(wants[letter]):
                own[axis] = wants[letter]
            elif letter in wants and size != 1:  # 1 is broadcast; a symbol may turn out to be 1
                return opaque(site, wanted, "Einsum broadcasts an axis of unknown size")
        asks.append(demand(item.who, own))
    return Answer(tuple(asks), (item,))


RULES: dict[str, Rule] = {"Einsum": Rule(_einsum)}
