"""What nodes compute from sizes, as far as it is known: numbers, symbols, and None for what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .nodes import Shape
from .shapes import SMALL, WHOLE

Numbers = np.ndarray[Any, Any]  # dtype object: integers and booleans, symbols, and None for what is not known

_WIDE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_EXACT = {onnx.TensorProto.FLOAT: 2**24, onnx.TensorProto.DOUBLE: 2**53, onnx.TensorProto.FLOAT16: 2**11}
KEPT = ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Cast")


def evaluate(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
    kind: int,
) -> Numbers | None:
    """What a node computes, as far as numbers of type ``kind`` hold it; None if it is no computation with sizes."""
    found = _computed(node, numbers, given, shapes, kind)
    return None if found is None or found.size > SMALL else _held(found, kind)


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
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        if shape is None:
            return None
        if node.op_type == "Shape":
            attributes = _attributes(node)
            return _objects(shape[attributes.get("start", 0) : attributes.get("end", len(shape))])
        whole = all(isinstance(dim, int) for dim in shape)
        return np.array(prod(shape), dtype=object) if whole else None  # type: ignore[arg-type]
    inputs = [known_numbers(name, numbers, given) for name in node.input]
    if inputs[0] is None:
        return None
    attributes = _attributes(node)
    if node.op_type in KEPT:
        shape = shapes.get(node.output[0])
        fixed = shape is not None and all(isinstance(dim, int) for dim in shape)
        integral = node.op_type != "Cast" or attributes["to"] != onnx.TensorProto.BOOL
        return inputs[0].reshape(shape) if fixed and integral else None
    known = [value for value in inputs if value is not None]
    if len(known) < len(inputs):
        return None
    rule = RULES.get(node.op_type)
    if kind not in WHOLE and node.op_type in ("Div", "Mod"):
        rule = _FRACTIONS.get(node.op_type)
    if rule is None:
        return None
    try:
        return rule(attributes, *known)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):  # a stranger's node: left to the checks of the rules
        return None


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _gather(attributes: Mapping[str, Any], data: Numbers, index: Numbers) -> Numbers | None:
    fits = data.ndim == 1 and attributes.get("axis", 0) == 0
    return _objects(data[index.astype(np.int64)]) if fits else None


def _concat(attributes: Mapping[str, Any], *parts: Numbers) -> Numbers | None:
    return np.concatenate(parts, axis=attributes["axis"]) if sum(part.size for part in parts) <= SMALL else None


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
    if value is None or value.data_type not in WHOLE or prod(sizes) > SMALL:
        return None
    return np.full(sizes, numpy_helper.to_array(value).reshape(-1)[0].item(), dtype=object)


def _where(attributes: Mapping[str, Any], condition: Numbers, first: Numbers, second: Numbers) -> Numbers | None:
    return _each(lambda c, a, b: None if not isinstance(c, (bool, np.bool_)) else a if c else b)(
        attributes, condition, first, second
    )


def _each(one: Callable[..., Any]) -> Callable[..., Numbers | None]:
    """The operator that applies ``one`` element by element."""

    def rule(attributes: Mapping[str, Any], *values: Numbers) -> Numbers | None:
        if prod(np.broadcast_shapes(*(value.shape for value in values))) > SMALL:
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

RULES: Mapping[str, Callable[..., Numbers | None]] = {
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


def known_numbers(name: str, numbers: Mapping[str, Numbers], given: Mapping[str, onnx.TensorProto]) -> Numbers | None:
    """What is known of a tensor: computed by a node before, or a small initializer of integers."""
    if name in numbers:
        return numbers[name]
    tensor = given.get(name)
    if tensor is None or tensor.data_type not in WHOLE:
        return None
    small = prod(tensor.dims) <= SMALL
    return _objects(numpy_helper.to_array(tensor)) if small else None


def _objects(values: Any) -> Numbers:
    """An array of Python's own integers, strings and None."""
    if isinstance(values, tuple):
        found = np.empty(len(values), dtype=object)
        found[:] = values
        return found
    array = np.asarray(values)
    return np.array(array.tolist(), dtype=object).reshape(array.shape)
