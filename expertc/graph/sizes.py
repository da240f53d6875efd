"""Numbers that a graph computes from its own shapes, folded to constants before any cut.

A channel count that is read from a tensor (``ReduceSum(x) / Shape(x)[1]``, targets of Reshape) must not change when the
tensor shrinks (RULES section 2). Sizes that are symbols are followed too: a target that is known up to symbols of its
own input is written with 0 and -1, so that inference, run again, knows what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .model import fresh_name
from .nodes import Dim, Shape

Numbers = np.ndarray[Any, Any]  # dtype object: integers and booleans, symbols, and None for what is not known

_SMALL = 1024
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
_WIDE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_EXACT = {onnx.TensorProto.FLOAT: 2**24, onnx.TensorProto.DOUBLE: 2**53, onnx.TensorProto.FLOAT16: 2**11}
_KEPT = ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Cast")


def fold_sizes(
    graph: onnx.GraphProto, shapes: Mapping[str, Shape], types: Mapping[str, int], learned: dict[str, Shape]
) -> bool:
    """Replace nodes whose result is a number computed from static dimensions by initializers, and spell out targets.

    In place; returns whether inference could know more now. ``learned`` is filled with the shapes that inference cannot
    tell, but a target that is known up to symbols does.
    """
    before = dict(learned)
    numbers: dict[str, Numbers] = {}
    given = {tensor.name: tensor for tensor in graph.initializer}
    symbols = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim}
    taken = set(given) | {name for node in graph.node for name in node.output}
    kept, changed = [], False
    for node in graph.node:
        if node.op_type not in _CONCERNED or node.domain:
            kept.append(node)
            continue
        name = node.output[0] if node.output else ""
        value = _evaluate(node, numbers, given, shapes, types.get(name, onnx.TensorProto.UNDEFINED))
        shape = None if value is not None else _outcome(node, numbers, given, shapes)
        # A symbol that inference invents means something else the next time.
        if shape is not None and shape != shapes.get(name) and all(isinstance(d, int) or d in symbols for d in shape):
            learned[name] = shape
        if value is None or len(node.output) != 1 or name not in types or value.size > _SMALL:
            changed |= _spelled_out(node, numbers, given, shapes, graph, taken)
            kept.append(node)
            continue
        numbers[name] = value
        if any(not isinstance(item, (int, np.integer)) for item in value.reshape(-1)):
            kept.append(node)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
            graph.initializer.append(numpy_helper.from_array(np.array(value.tolist(), dtype=dtype), name))
            changed = True
    if len(kept) != len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return changed or learned != before


def _evaluate(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
    kind: int,
) -> Numbers | None:
    """What a node computes, as far as numbers of type ``kind`` hold it; None if it is no computation with sizes."""
    found = _computed(node, numbers, given, shapes, kind)
    return None if found is None or found.size > _SMALL else _held(found, kind)


def _held(values: Numbers, kind: int) -> Numbers:
    """The same, and None for each that a number of type ``kind`` cannot be exactly: the runtime wraps or rounds it."""
    if kind in _EXACT:
        least, most = -_EXACT[kind], _EXACT[kind]
    elif kind == onnx.TensorProto.BOOL:
        least, most = 0, 1
    else:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else np.dtype(np.object_)
        least, most = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.kind in "iu" else (1, 0)
    held = np.empty(values.shape, dtype=object)
    for at, item in np.ndenumerate(values):
        known = kind in _WIDE if isinstance(item, str) else item is not None and least <= item <= most
        held[at] = item if known else None
    return held


def _computed(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
    kind: int,
) -> Numbers | None:
    if not node.input:
        return None
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        if shape is None:
            return None
        if node.op_type == "Shape":
            return _objects(shape[attributes.get("start", 0) : attributes.get("end", len(shape))])
        whole = all(isinstance(dim, int) for dim in shape)
        return np.array(prod(shape), dtype=object) if whole else None  # type: ignore[arg-type]
    inputs = [_numbers(name, numbers, given) for name in node.input]
    if inputs[0] is None:
        return None
    if node.op_type in _KEPT:
        shape = shapes.get(node.output[0])
        fixed = shape is not None and all(isinstance(dim, int) for dim in shape)
        integral = node.op_type != "Cast" or attributes["to"] != onnx.TensorProto.BOOL
        return inputs[0].reshape(shape) if fixed and integral else None
    known = [value for value in inputs if value is not None]
    if len(known) < len(inputs):
        return None
    rule = _RULES.get(node.op_type)
    if kind not in _INTEGERS and node.op_type in ("Div", "Mod"):
        rule = _FRACTIONS.get(node.op_type)
    if rule is None:
        return None
    try:
        return rule(attributes, *known)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):  # a stranger's node: left to the checks of the rules
        return None


def _gather(attributes: Mapping[str, Any], data: Numbers, index: Numbers) -> Numbers | None:
    fits = data.ndim == 1 and attributes.get("axis", 0) == 0
    return _objects(data[index.astype(np.int64)]) if fits else None


def _concat(attributes: Mapping[str, Any], *parts: Numbers) -> Numbers | None:
    return np.concatenate(parts, axis=attributes["axis"]) if sum(part.size for part in parts) <= _SMALL else None


def _slice(attributes: Mapping[str, Any], data: Numbers, *bounds: Numbers) -> Numbers | None:
    if len(bounds) < 2:
        return None  # before opset 10
    starts, ends, *rest = ([int(item) for item in value.reshape(-1)] for value in bounds)
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data.shape[axis]
        if step < 0 and end > size:
            return None  # runtimes do not agree
        first, last = (0, size) if step > 0 else (-1, size - 1)  # what bounds beyond the list mean
        begin = min(max(start + size * (start < 0), 0), last)
        stop = min(max(end + size * (end < 0), first), size)
        data = np.take(data, np.arange(begin, stop, step), axis=axis)
    return data


def _transpose(attributes: Mapping[str, Any], data: Numbers) -> Numbers | None:
    return np.transpose(data, attributes.get("perm"))


def _filled(attributes: Mapping[str, Any], shape: Numbers) -> Numbers | None:
    sizes = [int(item) for item in shape.reshape(-1)]
    value = attributes.get("value")
    if value is None or value.data_type not in _INTEGERS or prod(sizes) > _SMALL:
        return None
    return np.full(sizes, numpy_helper.to_array(value).reshape(-1)[0].item(), dtype=object)


def _where(attributes: Mapping[str, Any], condition: Numbers, first: Numbers, second: Numbers) -> Numbers | None:
    return _each(lambda c, a, b: None if not isinstance(c, (bool, np.bool_)) else a if c else b)(
        attributes, condition, first, second
    )


def _each(one: Callable[..., Any]) -> Callable[..., Numbers | None]:
    """The operator that applies ``one`` element by element."""

    def rule(attributes: Mapping[str, Any], *values: Numbers) -> Numbers | None:
        if prod(np.broadcast_shapes(*(value.shape for value in values))) > _SMALL:
            return None
        spread = np.broadcast_arrays(*values)
        found = np.empty(spread[0].shape, dtype=object)
        for at in np.ndindex(found.shape):
            found[at] = one(*(value[at] for value in spread))
        return found

    return rule


def _integers(one: Callable[[int, int], int | None], neutral: int | None = None) -> Callable[..., Numbers | None]:
    """Arithmetic: of a symbol nothing is known but what a neutral second operand does to it."""

    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return one(a, b)
        return a if b == neutral and neutral is not None else None

    return _each(apply)


def _equal(a: Any, b: Any) -> Any:
    """A symbol is a size, so it is no negative number."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, str) and a == b:
        return True
    return False if any(isinstance(item, int) and item < 0 for item in (a, b)) and None not in (a, b) else None


def _quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # towards zero


def _modulo(attributes: Mapping[str, Any], *values: Numbers) -> Numbers | None:
    if attributes.get("fmod", 0):
        return None
    return _integers(lambda a, b: a % b)(attributes, *values)


_FRACTIONS = {"Div": _integers(lambda a, b: a // b if a % b == 0 else None, 1)}  # of types that have them

_RULES: Mapping[str, Callable[..., Numbers | None]] = {
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Transpose": _transpose,
    "ConstantOfShape": _filled,
    "Where": _where,
    "Equal": _each(_equal),
    "Add": _integers(lambda a, b: a + b, 0),
    "Sub": _integers(lambda a, b: a - b, 0),
    "Mul": _integers(lambda a, b: a * b, 1),
    "Div": _integers(_quotient, 1),
    "Mod": _modulo,
}


def _spelled_out(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
    graph: onnx.GraphProto,
    taken: set[str],
) -> bool:
    """Give a Reshape or Expand whose computed target is known well enough a constant one."""
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
    name = fresh_name(f"{node.output[0]}.target", taken)
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


_TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3}  # the input that says how large the result is


def _outcome(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
) -> Shape | None:
    """The shape that a Reshape, Expand or Resize gives, if each of its sizes is a number or a symbol."""
    position = _TARGETS.get(node.op_type, 0)
    if (
        not position
        or node.domain
        or len(node.input) <= position
        or any(a.name == "allowzero" and a.i for a in node.attribute)
    ):
        return None
    before, target = shapes.get(node.input[0]), _numbers(node.input[position], numbers, given)
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


def _numbers(name: str, numbers: Mapping[str, Numbers], given: Mapping[str, onnx.TensorProto]) -> Numbers | None:
    if name in numbers:
        return numbers[name]
    tensor = given.get(name)
    if tensor is None or tensor.data_type not in _INTEGERS:
        return None
    small = prod(tensor.dims) <= _SMALL
    return _objects(numpy_helper.to_array(tensor)) if small else None


def _objects(values: Any) -> Numbers:
    """An array of Python's own integers, strings and None."""
    if isinstance(values, tuple):
        found = np.empty(len(values), dtype=object)
        found[:] = values
        return found
    array = np.asarray(values)
    return np.array(array.tolist(), dtype=object).reshape(array.shape)


_CONCERNED = frozenset({"Shape", "Size", *_KEPT, *_RULES, *_TARGETS})
