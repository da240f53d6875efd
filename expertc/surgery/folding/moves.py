"""What changes nothing, and moves of data that cancel each other or become one."""

from __future__ import annotations

import numpy as np
from onnx import helper

from ...graph import Shape
from .affine import affine
from .draft import Draft

RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def idle(draft: Draft, at: int) -> bool:
    """Identity, inference-time Dropout, a product with ones, a sum with zeros."""
    node, op = draft.node(at), draft.op(at)
    if op in ("Dropout", "Identity"):
        return not any(tensor.name for tensor in node.outputs[1:]) and draft.bypass(at, node.inputs[0])
    found = affine(draft, at)
    return found is not None and not found.scales and not found.shifts and draft.bypass(at, found.source)


def size(draft: Draft, at: int) -> bool:
    """A shape that is read of a tensor is read of the one before it, so that nobody need make the tensor for that."""
    source = draft.node(at).inputs[0]
    before = draft.maker(source)
    if before is None:
        return False
    found = affine(draft, before)
    same = found.source if found is not None else draft.node(before).inputs[0] if draft.op(before) == "Cast" else None
    if same is None:
        return False
    draft.write(at, [same])
    return True


def cast(draft: Draft, at: int) -> bool:
    """A cast to the type that is there already, of a wider copy of what was narrow, or that somebody else makes too."""
    node = draft.node(at)
    source, kind = node.inputs[0], int(node.attrs["to"])
    if draft.kind(source) == kind:
        return draft.bypass(at, source)
    for other in sorted(draft.readers.get(source.name, ())):
        same = other < at and draft.op(other) == "Cast" and dict(draft.node(other).attrs) == dict(node.attrs)
        if same and draft.bypass(at, draft.node(other).outputs[0]):
            return True
    before = draft.maker(source)
    if before is None or draft.op(before) != "Cast":
        return False
    first = draft.node(before).inputs[0]
    if not _holds(draft.kind(source), draft.kind(first)):
        return False
    if draft.kind(first) == kind:
        return draft.bypass(at, first)
    if draft.sole_maker(source) is None:
        return False
    draft.write(at, [first])
    return True


def _holds(wide: int | None, narrow: int | None) -> bool:
    """Whether every value of the one type is a value of the other."""
    if not wide or not narrow:
        return False
    types = [np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for kind in (narrow, wide)]
    return types[0].kind != "O" and np.can_cast(types[0], types[1], "safe")


def transpose(draft: Draft, at: int) -> bool:
    """A transposition that moves nothing, or is one with the one before it."""
    order = _order(draft, at)
    if order is None:
        return False
    source = draft.node(at).inputs[0]
    if order == sorted(order):
        return draft.bypass(at, source)
    before = draft.maker(source)
    first = None if before is None else _order(draft, before)
    if before is None or first is None:
        return False
    whole, start = [first[axis] for axis in order], draft.node(before).inputs[0]
    if whole == sorted(whole):
        return draft.bypass(at, start)
    if draft.sole_maker(source) is None:
        return False
    draft.write(at, [start], attrs={"perm": whole})
    return True


def _order(draft: Draft, at: int) -> list[int] | None:
    if draft.op(at) != "Transpose":
        return None
    node = draft.node(at)
    given, shape = node.attrs.get("perm"), draft.shape(node.inputs[0])
    if given is not None:
        return list(given)
    return None if shape is None else list(reversed(range(len(shape))))


def reshape(draft: Draft, at: int) -> bool:
    """A reshape to the shape that is there already, or one that is one with the one before it."""
    node = draft.node(at)
    source, shape = node.inputs[0], draft.shape(node.outputs[0])
    if shape is None:
        return False
    if _same(draft.shape(source), shape):
        return draft.bypass(at, source)
    before = draft.maker(source)
    if before is None or draft.op(before) not in RESHAPES:
        return False
    first = draft.node(before).inputs[0]
    given = draft.shape(first)
    if _same(given, shape):
        return draft.bypass(at, first)
    target = None if given is None or draft.sole_maker(source) is None else _target(shape, given)
    if target is None:
        return False
    wanted = draft.constant(f"{node.outputs[0].name}.shape", np.array(target, np.int64))
    draft.write(at, [first, wanted], op="Reshape", attrs={})
    return True


def _same(one: Shape | None, other: Shape) -> bool:
    """Whether two shapes of the same elements are equal; a single size that is open in both follows from the others."""
    if one is None or len(one) != len(other):
        return False
    if 0 in (*one, *other):
        return one == other
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b or a is None]
    open_ones = [sum(not isinstance(dim, int) for dim in shape) for shape in (one, other)]
    return not pairs or (len(pairs) == 1 and open_ones == [1, 1] and not any(isinstance(dim, int) for dim in pairs[0]))


def _target(shape: Shape, given: Shape) -> list[int] | None:
    """How a Reshape writes ``shape``: 0 copies a size, -1 once leaves it open; None if that does not tell it."""
    target: list[int] = []
    for axis, dim in enumerate(shape):
        copies = axis < len(given) and given[axis] == dim and not isinstance(dim, int)
        target.append(dim if isinstance(dim, int) else 0 if copies else -1)
    empty = any(dim == 0 for dim in (*shape, *given))
    return None if empty or target.count(-1) > 1 else target
