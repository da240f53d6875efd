"""Targets of Reshape, Expand and Resize: what they amount to, and how one is spelled that is known up to symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from .model import fresh_name
from .nodes import Dim, Shape
from .numbers import Numbers, known_numbers


def spelled_out(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
    graph: onnx.GraphProto,
    taken: Callable[[], set[str]],
) -> bool:
    """Give a Reshape or Expand whose computed target is known well enough a constant one; ``taken`` gives all names."""
    if node.domain or node.op_type not in ("Reshape", "Expand") or len(node.input) < 2:
        return False
    before, wanted = shapes.get(node.input[0]), numbers.get(node.input[1])
    if (
        before is None
        or wanted is None
        or wanted.ndim != 1
        or node.input[1] in given
        or any(a.i for a in node.attribute)
    ):
        return False
    target = (_reshape_target if node.op_type == "Reshape" else _expand_target)(before, wanted.tolist())
    if target is None:
        return False
    name = fresh_name(f"{node.output[0]}.target", taken())
    graph.initializer.append(numpy_helper.from_array(np.array(target, dtype=np.int64), name))
    node.input[1] = name
    return True


def _reshape_target(before: Shape, wanted: list[Dim]) -> list[int] | None:
    """0 for a size that the input has at the same place, -1 for the only one that is still open."""
    target: list[int | None] = []
    for axis, dim in enumerate(wanted):
        same = axis < len(before) and isinstance(dim, str) and before[axis] == dim
        target.append(0 if same else dim if isinstance(dim, int) else None)
    if target.count(None) + target.count(-1) > 1:
        return None
    return [-1 if dim is None else dim for dim in target]


def _expand_target(before: Shape, wanted: list[Dim]) -> list[int] | None:
    """1 for a size that the input has already."""
    shift = len(wanted) - len(before)
    target = []
    for axis, dim in enumerate(wanted):
        if isinstance(dim, int):
            target.append(dim)
        elif dim is not None and axis >= shift and before[axis - shift] == dim:
            target.append(1)
        else:
            return None
    return target


TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3}  # the input that says how large the result is


def outcome(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
) -> Shape | None:
    """The shape that a Reshape, Expand or Resize gives, if each of its sizes is a number or a symbol."""
    position = TARGETS.get(node.op_type, 0)
    if (
        not position
        or node.domain
        or len(node.input) <= position
        or any(a.name == "allowzero" and a.i for a in node.attribute)
    ):
        return None
    before, target = shapes.get(node.input[0]), known_numbers(node.input[position], numbers, given)
    if before is None or target is None or target.ndim != 1 or None in before or None in target:
        return None
    wanted: list[Dim] = target.tolist()
    if node.op_type == "Resize":
        return tuple(wanted) if len(wanted) == len(before) else None
    if node.op_type == "Expand":
        shift = len(wanted) - len(before)
        return tuple(before[a - shift] if a >= shift and dim == 1 else dim for a, dim in enumerate(wanted))
    after = [before[axis] if dim == 0 else dim for axis, dim in enumerate(wanted) if dim != 0 or axis < len(before)]
    if -1 not in after:
        return tuple(after)
    left, symbols = 1, [dim for dim in after if isinstance(dim, str)]
    for dim in before:
        if isinstance(dim, int):
            left *= dim
        elif dim in symbols:
            symbols.remove(dim)
        else:
            return None
    taken = prod(dim for dim in after if isinstance(dim, int) and dim != -1)
    if symbols or not taken or left % taken:
        return None
    return tuple(left // taken if dim == -1 else dim for dim in after)
