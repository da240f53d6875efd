"""Convolutions and matrix products, the quantised ones too: the operators whose weights shrink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ...graph import Shape
from ..demand import Demand, Marks, any_along, demand
from ..site import Answer, Draft, Rule, Site, Wanted, opaque
from .zeros import columns_of

# -- Convolutions ------------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """Positions of the inputs of a convolution; ``vectors`` hold a value per output channel, or one for all."""

    weight: int
    vectors: tuple[int, ...]


_CONVOLUTIONS: Mapping[str, Convolution] = {
    "Conv": Convolution(1, (2,)),
    "ConvTranspose": Convolution(1, (2,)),
    "ConvInteger": Convolution(1, (3,)),
    "QLinearConv": Convolution(3, (4, 5, 8)),
}


def _conv(site: Site, wanted: Wanted) -> Answer:
    """Rows of the weight by output channel; of a grouped one, whole groups of the input.

    The touched output channels are read as a box on (group, position): touched groups times the *union* of touched
    positions. Groups must stay equal; asking for whole groups instead would break composability.

    The weight of a ConvTranspose is ``[Cin, Cout / groups, ...]``: positions on axis 1, groups on axis 0.
    """
    place = _CONVOLUTIONS[site.op]
    item, weight = wanted[0], site.shape(place.weight)
    if item is None or weight is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return opaque(site, wanted, f"the weight shape of {site.op} is not known")
    groups, who = int(site.attribute("group", 1)), item.who
    if groups < 1 or weight[0] % groups:
        return opaque(site, wanted, f"the groups of {site.op} do not divide its channels")
    turned = site.op == "ConvTranspose"
    count = weight[1] * groups if turned else weight[0]
    by_group, closed = _close_groups(item.axis(1, count), groups)
    inputs = np.repeat(by_group, weight[0] // groups if turned else weight[1])
    images: dict[int, Marks] = {0: item.marks[0]} if 0 in item.marks else {}
    channels: dict[int, Marks] = {1: inputs} if groups > 1 else {}
    rows = {0: inputs, 1: any_along(closed.reshape(groups, -1), (0,))} if turned else {0: closed}

    asks: list[Demand | None] = [Demand(who) if site.has(i) else None for i in range(len(site.node.inputs))]
    asks[0], asks[place.weight] = demand(who, {**images, **channels}), demand(who, rows)
    for vector in place.vectors:
        if site.has(vector):
            shape = site.shape(vector)
            if shape == (count,):
                asks[vector] = demand(who, {0: closed})
            elif shape not in ((), (1,)):
                return opaque(site, wanted, f"the shape of an input of {site.op} is not known")
    return Answer(tuple(asks), (demand(who, {**images, 1: closed}),))


def _close_groups(rows: Marks, groups: int) -> tuple[Marks, Marks]:
    """Return the touched groups ``[groups]`` and the closed marks of all rows (groups x union of positions)."""
    table = rows.reshape(groups, -1)
    by_group = any_along(table, (1,))
    return by_group, (by_group[:, None] & any_along(table, (0,))[None, :]).reshape(-1)


def _write_groups(site: Site, answer: Answer, draft: Draft) -> None:
    groups, kept, weight = int(site.attribute("group", 1)), answer.asks[0], site.shape(_CONVOLUTIONS[site.op].weight)
    if groups > 1 and kept is not None and 1 in kept.marks and weight is not None:
        draft.attrs["group"] = np.count_nonzero(kept.marks[1]) * groups // len(kept.marks[1])


# -- Products ----------------------------------------------------------------------------------------------------------


def _gemm(site: Site, wanted: Wanted) -> Answer:
    """``alpha * A' @ B' + beta * C``: rows of A, columns of B, C by broadcasting."""
    item = wanted[0]
    if item is None:
        return opaque(site, wanted)
    a_axis = 1 if site.attribute("transA", 0) else 0
    b_axis = 0 if site.attribute("transB", 0) else 1
    asks: list[Demand | None] = [item.moved({0: a_axis}), item.moved({1: b_axis})]
    _leave_zeros(site, asks, (0, 1), (a_axis, 1 - a_axis), (b_axis, 1 - b_axis))
    if site.has(2):
        shape = site.shape(2)
        bias = None if shape is None else _aligned(item, shape, {0: len(shape) - 2, 1: len(shape) - 1})
        if bias is None:
            return opaque(site, wanted, "the shape of Gemm's bias is not known")
        asks.append(bias)
    return Answer(tuple(asks), (item,))


class Product(NamedTuple):
    """Positions of the inputs of a matrix product: its operands, and the scales and zero points of each."""

    a: int
    b: int
    of_a: tuple[int, ...] = ()
    of_b: tuple[int, ...] = ()
    of_y: tuple[int, ...] = ()


_PRODUCTS: Mapping[str, Product] = {
    "MatMul": Product(0, 1),
    "MatMulInteger": Product(0, 1, (2,), (3,)),
    "QLinearMatMul": Product(0, 3, (1, 2), (4, 5), (6, 7)),
}


def _matmul(site: Site, wanted: Wanted) -> Answer:
    """Batch axes by broadcasting; the columns come from B, the rows from A; the inner axis is whole.

    A vector on the left has no rows, one on the right no columns, and the output has not either.
    """
    place = _PRODUCTS[site.op]
    item, out, a, b = wanted[0], site.out_shape(), site.shape(place.a), site.shape(place.b)
    if item is None or out is None or not a or not b:
        return opaque(site, wanted, f"the shapes of {site.op} are not known")
    has_rows, has_columns = len(a) > 1, len(b) > 1
    batch = len(out) - has_rows - has_columns
    a_axes = {axis: axis - batch + len(a) - 2 for axis in range(batch)} | ({batch: len(a) - 2} if has_rows else {})
    b_axes = {axis: axis - batch + len(b) - 2 for axis in range(batch)}
    b_axes |= {len(out) - 1: len(b) - 1} if has_columns else {}
    sides = [_aligned(item, a, a_axes), _aligned(item, b, b_axes)]
    if sides[0] is None or sides[1] is None:
        return opaque(site, wanted, f"{site.op} broadcasts an axis of unknown size")
    asks: list[Demand | None] = [None] * len(site.node.inputs)
    asks[place.a], asks[place.b] = sides
    if site.op == "MatMul" and len(a) == len(b) == 2:  # a quantised zero need not be zero
        _leave_zeros(site, asks, (place.a, place.b), (0, 1), (1, 0))
    # A scale of A with one axis is the specification's, per row, and NumPy's, per inner index: it is not believed.
    for positions, ask, shape, axis in (
        (place.of_a, sides[0], a, None), (place.of_b, sides[1], b, len(b) - 1), (place.of_y, item, out, None)
    ):  # fmt: skip
        for position in positions:
            if site.has(position):
                asks[position] = _parameter(ask, shape, site.shape(position), axis)
                if asks[position] is None:
                    return opaque(site, wanted, f"the scales of {site.op} do not fit its operands")
    return Answer(tuple(asks), (item,))


def _aligned(item: Demand, shape: Shape, axes: Mapping[int, int]) -> Demand | None:
    """The demand on an operand whose axis ``axes[a]`` is broadcast to axis a of the output (negative: it has none).

    An axis of size 1 stays whole. None if a size is a symbol, which may turn out to be 1.
    """
    own = {}
    for axis, mark in item.marks.items():
        if axes.get(axis, -1) >= 0:
            size = shape[axes[axis]]
            if size == len(mark):
                own[axis] = axes[axis]
            elif size != 1:
                return None
    return item.moved(own)


def _parameter(item: Demand, operand: Shape, shape: Shape | None, axis: int | None) -> Demand | None:
    """The demand on a scale or zero point of an operand of which ``item`` is wanted: one for all, one per index of
    ``axis``, or broadcast to the operand; None if it is none of these."""
    if shape is None:
        return None
    if all(dim == 1 for dim in shape):
        return Demand(item.who)
    if len(shape) == 1 and axis is not None:
        return item.moved({axis: 0}) if shape[0] == operand[axis] else None
    return _aligned(item, shape, {a: a for a in range(len(shape))}) if len(shape) == len(operand) else None


def _leave_zeros(
    site: Site, asks: list[Demand | None], positions: tuple[int, int], a_axes: tuple[int, int], b_axes: tuple[int, int]
) -> None:
    """Narrow the inner axis of a product of two matrices to where a constant one is not zero; changes ``asks``.

    ``a_axes`` and ``b_axes`` are the free and the inner axis of each side. A weight that is wanted whole is not read.
    """
    sides = list(zip(positions, (a_axes, b_axes), strict=True))
    for (own, (free, inner)), (other, (_, other_inner)) in (sides, sides[::-1]):
        ask, across = asks[own], asks[other]
        if ask is None or across is None or free not in ask.marks:
            continue
        values = site.constant(own)
        if values is None:
            continue
        columns = columns_of(values if free == 0 else values.T, ask.marks[free])
        if columns is not None:
            asks[own] = demand(ask.who, {**ask.marks, inner: columns})
            asks[other] = demand(across.who, {**across.marks, other_inner: columns})


RULES: dict[str, Rule] = {
    **{op: Rule(_conv, _write_groups, plain=True) for op in _CONVOLUTIONS},
    **{op: Rule(_matmul, plain=True) for op in _PRODUCTS},
    "Gemm": Rule(_gemm, plain=True),
}
