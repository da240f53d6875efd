"""What works channel by channel, and what only moves: the same node on the wide tensor."""

from __future__ import annotations

import numpy as np

from ...graph import Model, Shape, volume
from .form import Form
from .packs import Array, Pack, Row, Slot, Wide, Widened, has_only_channels


def unary(model: Model, row: Row, form: Form) -> Widened:
    """A function of one element, with the same parameters in all branches."""
    node, pack = model.nodes[row.nodes[0]], row.main
    if pack is None or row.children > 1 or any(not slot.constant for slot in row.slots[1:]):
        return ()
    # What is no weight is the same for all: they would be no siblings else.
    rest = [np.asarray(model.value(tensor.name)) if tensor.name else "" for tensor in node.inputs[1:]]
    if any(isinstance(values, np.ndarray) and values.size > 1 for values in rest):
        return ()
    return (Wide(node.op, node.attrs, (pack.wide, *rest)),)


def pool(model: Model, row: Row, form: Form) -> Widened:
    """A pooling of each channel."""
    node, pack = model.nodes[row.nodes[0]], row.main
    return (Wide(node.op, node.attrs, (pack.wide,)),) if pack is not None and row.children == 1 else ()


def reduction(model: Model, row: Row, form: Form) -> Widened:
    """A reduction over neither the batch nor the channels."""
    node, pack = model.nodes[row.nodes[0]], row.main
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and row.slots[1].constant and node.inputs[1].name:
        axes = np.asarray(model.value(node.inputs[1].name)).tolist()
    rank = len(model.shapes.get(node.inputs[0].name, ()))
    if pack is None or row.children > 1 or not axes or {axis % rank for axis in axes} & {0, 1}:
        return ()
    rest = (np.array(axes, np.int64),) if len(node.inputs) > 1 else ()
    return (Wide(node.op, node.attrs, (pack.wide, *rest)),)


def binary(model: Model, row: Row, form: Form) -> Widened:
    """A function of an element of each input: packs, what has one channel for all, constants per channel."""
    node, main = model.nodes[row.nodes[0]], row.main
    made = model.shapes[node.outputs[0].name]
    if main is None or row.children > 1 or made[1] != main.width:
        return ()
    steps: list[Wide] = []
    inputs: list[str | Array | None] = []
    for position, slot in enumerate(row.slots):
        shape = model.shapes.get(node.inputs[position].name)
        if shape is None:
            return ()
        if slot.pack is not None and _fits(slot, shape, main, len(made)):
            inputs.append(slot.pack.wide)
        elif slot.pack is not None:
            if steps or not _may_fit(model, node.inputs[position].name, slot.pack, main, len(made)):
                return ()
            steps = _fitted(slot, main, len(made), len(row.nodes))
            inputs.append(None)
        elif slot.shared is not None:
            if len(shape) > len(made) or (len(shape) >= len(made) - 1 and shape[1 - len(made)] != 1):
                return ()  # it has channels of its own, which would have to be repeated
            inputs.append(slot.shared)
        else:
            values = _constants(model, row, position, len(made), main.width)
            if values is None:
                return ()
            inputs.append(values)
    return (*steps, Wide(node.op, node.attrs, tuple(inputs)))


def _fits(slot: Slot, shape: Shape, main: Pack, rank: int) -> bool:
    """Whether what a row reads there lies channel by channel beside the main pack already."""
    pack = slot.pack
    assert pack is not None
    return pack.axis == 1 and slot.order is None and pack.width == main.width and len(shape) == rank


def _may_fit(model: Model, name: str, pack: Pack, main: Pack, rank: int) -> bool:
    """Whether a pack is small, and only its channels have to be put in order or repeated."""
    if pack.axis == 0:  # a vector's elements lie along the last axis
        return pack.width == 1 or (rank == 2 and pack.width == main.width)
    return has_only_channels(model, name) and len(model.shapes[name]) == rank and pack.width in (1, main.width)


def _fitted(slot: Slot, main: Pack, rank: int, count: int) -> list[Wide]:
    """A small pack in the order of the main one, and as wide."""
    pack = slot.pack
    assert pack is not None
    order = np.array(range(count) if slot.order is None else slot.order, np.int64)[:, None] * pack.width
    indices = (order + np.arange(main.width) % pack.width).reshape(-1)
    taken = Wide("Gather", {"axis": pack.axis}, (pack.wide, indices))
    shape = np.array([1, -1, *[1] * (rank - 2)], np.int64)
    return [taken, Wide("Reshape", {}, (None, shape))] if pack.axis == 0 else [taken]


def _constants(model: Model, row: Row, position: int, rank: int, width: int) -> Array | None:
    """Constants of all branches for the wide tensor: one value, or a value per channel."""
    each = [np.asarray(model.value(model.nodes[at].inputs[position].name)) for at in row.nodes]
    if each[0].size == 1 and all(np.array_equal(values, each[0]) for values in each):
        return each[0]
    if each[0].ndim > rank:
        return None
    aligned: list[Array] = [values.reshape((1,) * (rank - values.ndim) + values.shape) for values in each]
    if aligned[0].shape[0] != 1 or aligned[0].shape[1] not in (1, width):
        return None
    return np.concatenate([np.broadcast_to(v, (1, width, *v.shape[2:])) for v in aligned], axis=1)


def expand(model: Model, row: Row, form: Form) -> Widened:
    """One channel repeated."""
    node, pack = model.nodes[row.nodes[0]], row.main
    if pack is None or row.children > 1 or not row.slots[1].constant:
        return ()
    before, after = model.shapes[node.inputs[0].name], model.shapes[node.outputs[0].name]
    if pack.width != 1 or (before[0], before[2:]) != (after[0], after[2:]):
        return ()
    indices = np.repeat(np.arange(len(pack.members)), after[1])  # type: ignore[arg-type]
    return (Wide("Gather", {"axis": 1}, (pack.wide, indices)),)


def reshape(model: Model, row: Row, form: Form) -> Widened:
    """``[N, C, ...]`` to ``[N, C', ...]`` of as many values, or a vector to ``[1, C, ...]``: branch after branch."""
    node, pack = model.nodes[row.nodes[0]], row.main
    if pack is None or row.children > 1 or any(not slot.constant for slot in row.slots[1:]):
        return ()
    before, after = model.shapes[node.inputs[0].name], model.shapes[node.outputs[0].name]
    if pack.axis == 0:
        before = (1, pack.width)
    if not all(isinstance(dim, int) for dim in (*before[1:], *after[1:])) or volume(before[1:]) != volume(after[1:]):
        return ()
    first = 1 if pack.axis == 0 else 0
    shape = [first, after[1] * len(pack.members), *after[2:]]  # type: ignore[operator]
    return (Wide("Reshape", {}, (pack.wide, np.array(shape, np.int64))),)
