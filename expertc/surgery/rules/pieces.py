"""Operators that put tensors together or take them apart: Concat, Split, Slice, Gather."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from ..demand import Demand, Marks, demand, join, nothing
from ..site import Answer, Draft, Rule, Site, Wanted, everyone, opaque

# -- Concat ------------------------------------------------------------------------------------------------------------


def _concat(site: Site, wanted: Wanted) -> Answer:
    """On its axis the set is split by offsets, and inputs nobody wants are dropped; other axes pass through."""
    item, out = wanted[0], site.out_shape()
    shapes = [site.shape(i) for i in range(len(site.node.inputs))]
    if item is None or out is None or any(shape is None for shape in shapes):
        return opaque(site, wanted, "the shapes of Concat are not known")
    axis = site.axis(int(site.attribute("axis", 0)), len(out))
    if axis not in item.marks:
        return Answer((item,) * len(shapes), (item,))
    sizes = [shape[axis] for shape in shapes if shape is not None]
    if not all(isinstance(size, int) for size in sizes):
        return opaque(site, wanted, "Concat joins pieces of unknown size")
    ends = list(accumulate(int(size) for size in sizes))  # type: ignore[arg-type]
    pieces = np.split(item.marks[axis], ends[:-1])
    asks = tuple(demand(item.who, {**item.marks, axis: piece}) for piece in pieces)
    return Answer(asks, (item,))


def _concat_write(site: Site, answer: Answer, draft: Draft) -> None:
    draft.inputs = [tensor for tensor, ask in zip(draft.inputs, answer.asks, strict=True) if ask is not None]
    if len(draft.inputs) == 1:
        draft.alias = 0


# -- Split -------------------------------------------------------------------------------------------------------------


def _split_sizes(site: Site) -> list[int] | None:
    """Sizes of the outputs: attribute before opset 13, input from then on, equal parts without either."""
    given = site.attribute("split")
    if given is None and site.has(1):
        value = site.constant(1)
        if value is None:
            return None
        given = value.tolist()
    if given is not None:
        return [int(size) for size in given]
    shape = site.shape(0)
    axis = site.axis(int(site.attribute("axis", 0)), len(shape or ()))
    if shape is None or not isinstance(shape[axis], int):
        return None
    total, count = int(shape[axis]), len(site.node.outputs)  # type: ignore[arg-type]
    chunk = -(-total // count)  # the last one may be smaller (num_outputs, opset 18)
    return [min(chunk, total - chunk * k) for k in range(count)]


def _split(site: Site, wanted: Wanted) -> Answer:
    """On its axis the outputs' sets stand side by side; the other axes join, and every output keeps the join."""
    shape, sizes = site.shape(0), _split_sizes(site)
    if shape is None or sizes is None:
        return opaque(site, wanted, "Split with sizes that are not constant")
    axis = site.axis(int(site.attribute("axis", 0)), len(shape))
    pieces = [
        nothing(everyone(wanted), size) if item is None else item.axis(axis, size)
        for item, size in zip(wanted, sizes, strict=True)
    ]
    others = join(None if item is None else item.without(axis) for item in wanted)
    if others is None:
        return opaque(site, wanted)
    ask = demand(others.who, {**others.marks, axis: np.concatenate(pieces)})
    kept = tuple(
        None if item is None else demand(others.who, {**others.marks, axis: piece})
        for item, piece in zip(wanted, pieces, strict=True)
    )
    return Answer((ask, None)[: len(site.node.inputs)], kept)


def _split_write(site: Site, answer: Answer, draft: Draft) -> None:
    shape, sizes = site.shape(0), _split_sizes(site)
    if shape is None or sizes is None or answer.stopped:
        return
    axis = site.axis(int(site.attribute("axis", 0)), len(shape))
    live = [(kept, size) for kept, size in zip(answer.kept, sizes, strict=True) if kept is not None]
    if len(live) == 1:
        draft.alias = 0
        return
    parts = [int(kept.size(axis, size) or 0) for kept, size in live]
    draft.outputs = [name for name, kept in zip(draft.outputs, answer.kept, strict=True) if kept is not None]
    draft.attrs.pop("num_outputs", None)
    if site.opset < 13:
        draft.attrs["split"] = parts
    else:
        draft.constants[1] = np.array(parts, dtype=np.int64)


# -- Slice -------------------------------------------------------------------------------------------------------------


def _slice_indices(site: Site) -> dict[int, np.ndarray[Any, Any]] | None:
    """Per sliced axis the input index of every output index; None if a bound or a size is not constant."""
    shape = site.shape(0)
    if shape is None:
        return None
    if site.opset < 10:
        starts, ends, axes = site.attribute("starts"), site.attribute("ends"), site.attribute("axes")
        steps = None
    else:
        values = [site.constant(i) if site.has(i) else None for i in range(1, 5)]
        if any(site.has(i + 1) and value is None for i, value in enumerate(values)):
            return None
        starts, ends, axes, steps = (None if value is None else value.tolist() for value in values)
    axes = list(range(len(starts))) if axes is None else [site.axis(int(axis), len(shape)) for axis in axes]
    steps = [1] * len(starts) if steps is None else steps
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if not isinstance(size, int):
            if start == 0 and end >= np.iinfo(np.int32).max and step == 1:
                continue  # all of it, whatever it is
            return None
        # A negative end beyond the front means "to the very first", which Python writes as None.
        stop = None if step < 0 and end < -size else int(end)
        found[axis] = np.arange(size)[slice(int(start), stop, int(step))]
    return found


def _slice(site: Site, wanted: Wanted) -> Answer:
    """Index arithmetic through start, end and step; the rows it takes are asked for, so the node itself can go."""
    item, shape, taken = wanted[0], site.shape(0), _slice_indices(site)
    if item is None or shape is None or taken is None:
        return _slice_somewhere(site, wanted)
    marks = dict(item.marks)
    for axis, rows in taken.items():
        marks[axis] = nothing(item.who, int(shape[axis] or 0))
        marks[axis][rows] = item.axis(axis, len(rows))
    ask = demand(item.who, marks)
    return opaque(site, wanted, "Slice takes nothing") if ask is None else Answer((ask,), (item,))


def _slice_somewhere(site: Site, wanted: Wanted) -> Answer:
    """Bounds that are computed: the axes that are sliced stay whole, the others pass through."""
    item, shape, axes = wanted[0], site.shape(0), site.constant(3)
    if (
        item is None
        or shape is None
        or axes is None
        or not item.without(*(site.axis(int(axis), len(shape)) for axis in axes)).marks
    ):
        return opaque(site, wanted, "Slice with bounds that are not constant")
    free = item.without(*(site.axis(int(axis), len(shape)) for axis in axes))
    rest = (Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs)))
    return Answer((free, *rest), (free,))


def _slice_write(site: Site, answer: Answer, draft: Draft) -> None:
    taken = _slice_indices(site)
    if taken is None or answer.asks[0] is None or not all(len(rows) for rows in taken.values()):
        return
    back = sorted(axis for axis, rows in taken.items() if len(rows) > 1 and rows[0] > rows[-1])
    if not back:
        draft.alias = 0
        return
    # The right rows are there, in ascending order; what is left of a negative step is to turn them round.
    first, last = [-1] * len(back), [np.iinfo(np.int64).min] * len(back)
    if site.opset < 10:
        raise ValueError("Slice had no steps before opset 10")
    for position, values in enumerate((first, last, back, first), start=1):
        draft.constants[position] = np.array(values, dtype=np.int64)


# -- Gather ------------------------------------------------------------------------------------------------------------


def _gather(site: Site, wanted: Wanted) -> Answer:
    """Constant indices: ask for exactly those rows. Computed ones may be any."""
    item, shape, index = wanted[0], site.shape(0), site.constant(1)
    if item is None or shape is None:
        return opaque(site, wanted, "the shape of Gather is not known")
    axis = site.axis(int(site.attribute("axis", 0)), len(shape))
    size = shape[axis]
    rank = len(site.shape(1) or ())
    if index is None and site.shape(1) is None:
        return opaque(site, wanted, "Gather with an index of unknown shape")
    own = {out: out if out < axis else out - rank + 1 for out in item.marks if not axis <= out < axis + rank}
    data = item.moved(own)
    if index is not None and isinstance(size, int) and index.size and not -size <= index.min() <= index.max() < size:
        return opaque(site, wanted, "Gather with an index that is out of range")
    if index is None or not isinstance(size, int):
        index_ask = item.moved({axis + k: k for k in range(rank)})
        return Answer((data, index_ask), (item,))
    rows = np.where(index < 0, index + size, index).reshape(-1)
    marks = _entries(item, axis, index.shape)
    needed = nothing(item.who, size)
    np.bitwise_or.at(needed, rows, marks.reshape(-1))
    return Answer((demand(item.who, {**data.marks, axis: needed}), None), (item,))


def _entries(item: Demand, axis: int, shape: tuple[int, ...]) -> Marks:
    """Marks of the entries of a Gather's index, from the output axes it takes up."""
    marks = np.full(shape, item.who, dtype=bool if isinstance(item.who, bool) else object)
    for k, size in enumerate(shape):
        along = item.axis(axis + k, size)
        marks = marks & along.reshape([-1 if j == k else 1 for j in range(len(shape))])
    return marks


def _gather_write(site: Site, answer: Answer, draft: Draft) -> None:
    index, shape, ask, kept = site.constant(1), site.shape(0), answer.asks[0], answer.kept[0]
    if index is None or shape is None or ask is None or kept is None or answer.asks[1] is not None:
        return
    axis = site.axis(int(site.attribute("axis", 0)), len(shape))
    size = int(shape[axis] or 0)
    place = np.cumsum(ask.axis(axis, size).astype(bool)) - 1
    for k in range(index.ndim):
        chosen = kept.indices(axis + k)
        if chosen is not None:
            index = np.take(index, chosen, axis=k)
    renumbered = np.asarray(place[np.where(index < 0, index + size, index)], dtype=index.dtype)
    if renumbered.ndim == 1 and np.array_equal(renumbered, np.arange(place[-1] + 1)):
        draft.alias = 0
    draft.constants[1] = renumbered


def is_selection(site: Site) -> bool:
    """Whether a node only takes rows in ascending order, so that it can be merged into whoever reads it."""
    if site.node.domain not in (None, "", "ai.onnx"):
        return False
    if site.op == "Slice":
        taken = _slice_indices(site)
        return taken is not None and all(len(rows) and bool((np.diff(rows) > 0).all()) for rows in taken.values())
    if site.op == "Gather":
        index, shape = site.constant(1), site.shape(0)
        if index is None or shape is None or index.ndim != 1 or not len(index):
            return False
        size = shape[site.axis(int(site.attribute("axis", 0)), len(shape))]
        return isinstance(size, int) and index.min() >= 0 and bool((np.diff(index) > 0).all())
    return False


RULES: dict[str, Rule] = {
    "Concat": Rule(_concat, _concat_write),
    "Split": Rule(_split, _split_write),
    "Slice": Rule(_slice, _slice_write),
    "Gather": Rule(_gather, _gather_write),
}
