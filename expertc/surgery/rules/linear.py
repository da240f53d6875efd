"""Convolutions and matrix products: the operators whose weights shrink."""

from __future__ import annotations

import numpy as np

from ..demand import Marks, any_along, demand
from ..site import Answer, Draft, Rule, Site, Wanted, opaque


def _conv(site: Site, wanted: Wanted) -> Answer:
    """Rows of the weight by output channel; of a grouped one, whole groups of the input.

    The touched output channels are read as a box on (group, position): touched groups times the *union* of touched
    positions. Groups must stay equal; asking for whole groups instead would break composability.
    """
    item, weight, x = wanted[0], site.shape(1), site.shape(0)
    if item is None or weight is None or x is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return opaque(site, wanted, f"the weight shape of {site.op} is not known")
    groups, who = int(site.attribute("group", 1)), item.who
    if groups < 1 or weight[0] % groups:
        return opaque(site, wanted, "the groups of Conv do not divide its channels")
    rows = item.axis(1, weight[0])
    if groups == 1:
        channels: dict[int, Marks] = {}
        closed = rows
    else:
        by_group, closed = _close_groups(rows, groups)
        channels = {1: np.repeat(by_group, weight[1])}
    asks = [demand(who, channels), demand(who, {0: closed})]
    if site.has(2):
        asks.append(demand(who, {0: closed}))
    return Answer(tuple(asks), (demand(who, {1: closed}),))


def _conv_transpose(site: Site, wanted: Wanted) -> Answer:
    """As ``_conv``, but the weight is ``[Cin, Cout / groups, ...]``: positions on axis 1, groups on axis 0."""
    item, weight = wanted[0], site.shape(1)
    if item is None or weight is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return opaque(site, wanted, "the weight shape of ConvTranspose is not known")
    groups, who = int(site.attribute("group", 1)), item.who
    if groups < 1 or weight[0] % groups:
        return opaque(site, wanted, "the groups of ConvTranspose do not divide its channels")
    rows = item.axis(1, weight[1] * groups)
    by_group, closed = _close_groups(rows, groups)
    inputs = np.repeat(by_group, weight[0] // groups)
    channels: dict[int, Marks] = {} if groups == 1 else {1: inputs}
    asks = [demand(who, channels), demand(who, {0: inputs, 1: any_along(closed.reshape(groups, -1), (0,))})]
    if site.has(2):
        asks.append(demand(who, {0: closed}))
    return Answer(tuple(asks), (demand(who, {1: closed}),))


def _close_groups(rows: Marks, groups: int) -> tuple[Marks, Marks]:
    """Return the touched groups ``[groups]`` and the closed marks of all rows (groups x union of positions)."""
    table = rows.reshape(groups, -1)
    by_group = any_along(table, (1,))
    return by_group, (by_group[:, None] & any_along(table, (0,))[None, :]).reshape(-1)


def _write_groups(site: Site, answer: Answer, draft: Draft) -> None:
    groups, kept, x = int(site.attribute("group", 1)), answer.asks[0], site.shape(0)
    if groups > 1 and kept is not None and 1 in kept.marks and x is not None:
        weight = site.shape(1)
        per_group = weight[1] if site.op == "Conv" else weight[0] // groups  # type: ignore[index, operator]
        draft.attrs["group"] = int(np.count_nonzero(kept.marks[1])) // int(per_group)  # type: ignore[arg-type]


def _gemm(site: Site, wanted: Wanted) -> Answer:
    """``alpha * A' @ B' + beta * C``: rows of A, columns of B, C by broadcasting."""
    item, out = wanted[0], site.out_shape()
    if item is None or out is None:
        return opaque(site, wanted, "the shape of Gemm is not known")
    a_axis = 1 if site.attribute("transA", 0) else 0
    b_axis = 0 if site.attribute("transB", 0) else 1
    asks = [item.moved({0: a_axis}), item.moved({1: b_axis})]
    if site.has(2):
        shape = site.shape(2)
        if shape is None:
            return opaque(site, wanted, "the shape of Gemm's bias is not known")
        offset = 2 - len(shape)
        axes = {a: a - offset for a in item.marks if a >= offset and shape[a - offset] == len(item.marks[a])}
        asks.append(item.moved(axes))
    return Answer(tuple(asks), (item,))


def _matmul(site: Site, wanted: Wanted) -> Answer:
    """Batch axes by broadcasting; the last axis comes from B, the one before it from A; the inner axis is whole."""
    item, out, a, b = wanted[0], site.out_shape(), site.shape(0), site.shape(1)
    if item is None or out is None or a is None or b is None or len(a) < 2 or len(b) < 2:
        return opaque(site, wanted, "MatMul with a vector or an unknown shape")
    last = len(out) - 1
    asks = []
    for shape, own, dropped in ((a, last - 1, last), (b, last, last - 1)):
        offset = len(out) - len(shape)
        axes = {}
        for axis in item.marks:
            if axis in (own, dropped):
                continue
            if axis >= offset and shape[axis - offset] == len(item.marks[axis]):
                axes[axis] = axis - offset
        if own in item.marks:
            axes[own] = own - offset
        asks.append(item.moved(axes))
    return Answer(tuple(asks), (item,))


RULES: dict[str, Rule] = {
    "Conv": Rule(_conv, _write_groups),
    "ConvTranspose": Rule(_conv_transpose, _write_groups),
    "Gemm": Rule(_gemm),
    "MatMul": Rule(_matmul),
}
