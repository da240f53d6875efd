"""Index maps: GatherElements, GatherND, ScatterElements, ScatterND.

A scatter along one axis says where each row of its output comes from: an update, or the data below. So it is a Gather
from both put together, and is cut as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...graph import Dim, Shape
from ..demand import Demand, Marks, demand, nothing
from ..site import Answer, Draft, Rule, Site, Wanted, opaque
from .index import Rows, along, coordinates

# -- Scatter -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scatter:
    """Row ``rows[j]`` of an axis is row j of the updates; the other axes are the same on both."""

    axis: int
    rows: Rows


def _scatter_map(site: Site) -> _Scatter | None:
    """The index map along one axis; None if the indices are none, computed, doubled, or the updates are reduced."""
    data, updates = site.shape(0), site.shape(2)
    if site.attribute("reduction", "none") not in ("none", b"none") or data is None or updates is None:
        return None
    found = _elements(site, data, updates) if site.op in ("ScatterElements", "Scatter") else _grid(site, data, updates)
    if found is None:
        return None
    size, count = data[found.axis], updates[found.axis]
    if not isinstance(size, int) or count != len(found.rows) or not ((found.rows >= -size) & (found.rows < size)).all():
        return None
    rows = np.where(found.rows < 0, found.rows + size, found.rows)
    return _Scatter(found.axis, rows) if len(np.unique(rows)) == len(rows) else None


def _elements(site: Site, data: Shape, updates: Shape) -> _Scatter | None:
    axis = site.axis(int(site.attribute("axis", 0)), len(data))
    found = along(site.model, site.inputs[1])
    others = [a for a in range(len(data)) if a != axis]
    if (
        found is None
        or not isinstance(found.rows, np.ndarray)
        or any(data[a] is None or data[a] != updates[a] for a in others)
    ):
        return None
    return _Scatter(axis, found.rows) if found.axis == axis - len(data) or len(found.rows) == 1 else None


def _grid(site: Site, data: Shape, updates: Shape) -> _Scatter | None:
    """Coordinate k varies along axis k of the updates, and all but one count through theirs."""
    index = site.shape(1)
    found = coordinates(site, 1)
    if index is None or found is None or len(index) - 1 != len(found) or len(updates) != len(data):
        return None
    partial = []
    for axis, coordinate in enumerate(found):
        one = isinstance(coordinate.rows, np.ndarray) and len(coordinate.rows) == 1
        if not one and coordinate.axis != axis - len(found):
            return None
        if not coordinate.counts(data[axis]):
            partial.append(axis)
    numbered = [axis for axis, dim in enumerate(data[: len(found)]) if isinstance(dim, int)]
    chosen = partial or numbered[-1:]
    rows = found[chosen[0]].rows if len(chosen) == 1 else None
    return _Scatter(chosen[0], rows) if isinstance(rows, np.ndarray) else None


def _scatter(site: Site, wanted: Wanted) -> Answer:
    """Of the data only what is never overwritten is needed, of the updates what is wanted of their rows."""
    item, found, data, index = wanted[0], _scatter_map(site), site.shape(0), site.shape(1)
    if item is None or data is None or index is None:
        return opaque(site, wanted, f"the shapes of {site.op} are not known")
    if found is None:
        return _beside(site, wanted, len(data) if site.op != "ScatterND" else index[-1])
    size = int(data[found.axis] or 0)
    marks = item.axis(found.axis, size)
    below = marks.copy()
    below[found.rows] = nothing(item.who, len(found.rows))
    asks = (
        demand(item.who, {**item.marks, found.axis: below}),
        None,
        demand(item.who, {**item.marks, found.axis: marks[found.rows]}),
    )
    return Answer(asks, (item,))


def _beside(site: Site, wanted: Wanted, inner: Dim) -> Answer:
    """No map that can be followed: the axes it indexes stay whole, those behind pass through."""
    item, index = wanted[0], site.shape(1)
    if item is None or index is None or not isinstance(inner, int) or any(axis < inner for axis in item.marks):
        return opaque(site, wanted, f"{site.op} with indices that are computed, doubled or summed")
    moved = {axis: axis - inner + len(index) - 1 for axis in item.marks}
    return Answer((item, Demand(item.who), item.moved(moved)), (item,))


def _scatter_write(site: Site, answer: Answer, draft: Draft) -> None:
    found, data, kept = _scatter_map(site), site.shape(0), answer.kept[0]
    if answer.asks[1] is not None or found is None or data is None or kept is None:
        return
    size = int(data[found.axis] or 0)
    wanted = kept.axis(found.axis, size).astype(bool)
    written = np.zeros(size, dtype=bool)
    written[found.rows] = True
    source = np.full(size, -1)
    below, taken = np.flatnonzero(wanted & ~written), [row for row in found.rows.tolist() if wanted[row]]
    source[below] = np.arange(len(below))
    source[taken] = len(below) + np.arange(len(taken))
    order = source[wanted]
    parts = [draft.inputs[i] for i in (0, 2) if answer.asks[i] is not None]
    whole = parts[0]
    if len(parts) > 1:
        whole = draft.make.emit("Concat", f"{draft.outputs[0]}@both", {"axis": found.axis}, parts)
    draft.op, draft.attrs, draft.inputs = "Gather", {"axis": found.axis}, [whole]
    if np.array_equal(order, np.arange(len(order))):
        draft.alias = 0
    else:
        draft.constants[1] = order


# -- Gather ------------------------------------------------------------------------------------------------------------


def _gather_elements(site: Site, wanted: Wanted) -> Answer:
    """Constant indices: along their axis those rows that any wanted element reads; other axes are the same."""
    item, shape = wanted[0], site.shape(0)
    if item is None or shape is None:
        return opaque(site, wanted, "the shape of GatherElements is not known")
    axis = site.axis(int(site.attribute("axis", 0)), len(shape))
    (index, _), size = _row_index(site, axis), shape[axis]
    if index is None or not index.size or not isinstance(size, int) or not -size <= index.min() <= index.max() < size:
        return opaque(site, wanted, "GatherElements with indices that are computed")
    asked = {}
    for a, length in enumerate(shape):
        own = item.marks.get(a) if index.shape[a] == 1 else item.axis(a, index.shape[a])
        if a != axis and own is not None and isinstance(length, int):
            asked[a] = np.concatenate([own, nothing(item.who, length - len(own))])  # the index may be shorter
    asked[axis] = nothing(item.who, size)
    np.bitwise_or.at(asked[axis], (index % size).reshape(-1), _entries(item, index.shape).reshape(-1))
    return Answer((demand(item.who, asked), None), (item,))


def _row_index(site: Site, axis: int) -> tuple[Rows | None, bool]:
    """The constant index, and whether it takes whole rows, as a Gather does: all other axes are then of length 1."""
    shape, index, found = site.shape(0), site.shape(1), along(site.model, site.inputs[1])
    if shape is not None and index is not None and found is not None and isinstance(found.rows, np.ndarray):
        same = all(shape[a] is not None and shape[a] == index[a] for a in range(len(shape)) if a != axis)
        fits = found.axis == axis - len(shape) or len(found.rows) == 1
        if same and fits and index[axis] == len(found.rows):
            return found.rows.reshape([-1 if a == axis else 1 for a in range(len(shape))]), True
    return site.constant(1), False


def _entries(item: Demand, shape: tuple[int, ...]) -> Marks:
    """Marks of an index tensor laid out like the output; an axis of length 1 stands for all of that axis."""
    table = np.full(shape, item.who, dtype=bool if isinstance(item.who, bool) else object)
    for axis, size in enumerate(shape):
        if axis in item.marks and len(item.marks[axis]) == size:
            table = table & item.marks[axis].reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return table


def _gather_elements_write(site: Site, answer: Answer, draft: Draft) -> None:
    shape, ask, kept = site.shape(0), answer.asks[0], answer.kept[0]
    if shape is None or ask is None or kept is None or answer.asks[1] is not None:
        return
    axis = site.axis(int(site.attribute("axis", 0)), len(shape))
    (index, plain), size = _row_index(site, axis), int(shape[axis] or 0)
    if index is None:
        return
    for a in (axis,) if plain else range(len(shape)):
        chosen = kept.indices(a)
        index = index if chosen is None else np.take(index, chosen, axis=a)
    place = np.cumsum(ask.axis(axis, size).astype(bool)) - 1
    draft.constants[1] = place[index % size]
    if plain:
        draft.op, draft.attrs, draft.constants[1] = "Gather", {"axis": axis}, draft.constants[1].reshape(-1)
        draft.alias = 0 if np.array_equal(draft.constants[1], np.arange(place[-1] + 1)) else None


def _gather_nd(site: Site, wanted: Wanted) -> Answer:
    """Constant indices: per indexed axis the coordinates that any wanted entry has; other axes are the same."""
    item, shape, index = wanted[0], site.shape(0), site.constant(1)
    first = int(site.attribute("batch_dims", 0))
    if item is None or shape is None:
        return opaque(site, wanted, "the shape of GatherND is not known")
    rank = len(site.shape(1) or ()) - 1
    count = index.shape[-1] if index is not None else (site.shape(1) or (None,))[-1]
    if not isinstance(count, int):
        return opaque(site, wanted, "the shape of GatherND is not known")
    behind = {axis: axis - rank + first + count for axis in item.marks if axis >= rank}
    asked: dict[int, Marks] = dict(item.moved(behind).marks)
    if index is None:
        free = item.only(*behind)
        return Answer((demand(item.who, asked), Demand(item.who)), (free,))
    asked |= {axis: item.marks[axis] for axis in item.marks if axis < first}
    entries = _entries(item.only(*range(rank)), index.shape[:-1])
    for k in range(count):
        size = shape[first + k]
        if not isinstance(size, int) or not -size <= index[..., k].min() <= index[..., k].max() < size:
            return opaque(site, wanted, "GatherND with indices that are out of range")
        needed = nothing(item.who, size)
        np.bitwise_or.at(needed, (index[..., k] % size).reshape(-1), entries.reshape(-1))
        asked[first + k] = needed
    return Answer((demand(item.who, asked), None), (item,))


def _gather_nd_write(site: Site, answer: Answer, draft: Draft) -> None:
    shape, ask, kept, index = site.shape(0), answer.asks[0], answer.kept[0], site.constant(1)
    if shape is None or ask is None or kept is None or index is None or answer.asks[1] is not None:
        return
    first = int(site.attribute("batch_dims", 0))
    for axis in range(index.ndim - 1):
        chosen = kept.indices(axis)
        index = index if chosen is None else np.take(index, chosen, axis=axis)
    parts = []
    for k in range(index.shape[-1]):
        size = int(shape[first + k] or 0)
        place = np.cumsum(ask.axis(first + k, size).astype(bool)) - 1
        parts.append(place[index[..., k] % size])
    draft.constants[1] = np.stack(parts, axis=-1)


RULES: dict[str, Rule] = {
    "ScatterElements": Rule(_scatter, _scatter_write),
    "Scatter": Rule(_scatter, _scatter_write),
    "ScatterND": Rule(_scatter, _scatter_write),
    "GatherElements": Rule(_gather_elements, _gather_elements_write),
    "GatherND": Rule(_gather_nd, _gather_nd_write),
}
