"""Numbers that a graph computes from its own shapes, folded to constants before any cut.

A channel count that is read from a tensor (``ReduceSum(x) / Shape(x)[1]``, targets of Reshape) must not change when the
tensor shrinks (RULES section 2). Sizes that are symbols stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .nodes import Shape
from .shapes import volume

Numbers = np.ndarray[Any, Any]  # dtype object: integers, and None for what is not known

_SMALL = 1024
_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
_KEPT = ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Cast")


def fold_sizes(graph: onnx.GraphProto, shapes: Mapping[str, Shape], types: Mapping[str, int]) -> list[onnx.TensorProto]:
    """Take out, in place, the nodes whose result is a number computed from static dimensions; returns the results."""
    if not any(node.op_type in ("Shape", "Size") for node in graph.node):
        return []
    numbers: dict[str, Numbers] = {}
    given = {tensor.name: tensor for tensor in graph.initializer}
    kept, made = [], []
    for node in graph.node:
        value = _evaluate(node, numbers, given, shapes)
        name = node.output[0] if node.output else ""
        if value is None or len(node.output) != 1 or name not in types:
            kept.append(node)
            continue
        numbers[name] = value
        if any(item is None for item in value.reshape(-1)):
            kept.append(node)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
            made.append(numpy_helper.from_array(np.array(value.tolist(), dtype=dtype), name))
    if len(kept) != len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return made


def _evaluate(
    node: onnx.NodeProto,
    numbers: Mapping[str, Numbers],
    given: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, Shape],
) -> Numbers | None:
    if node.domain or not node.input:
        return None
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Shape":
        shape = shapes.get(node.input[0])
        if shape is None:
            return None
        dims = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
        return np.array([dim if isinstance(dim, int) else None for dim in dims], dtype=object)
    if node.op_type == "Size":
        shape = shapes.get(node.input[0])
        whole = shape is not None and all(isinstance(dim, int) for dim in shape)
        return np.array(volume(shape), dtype=object) if whole and shape is not None else None
    if not any(name in numbers for name in node.input):
        return None  # constants alone are the fold pass's work
    inputs = [_numbers(name, numbers, given) for name in node.input]
    return _rearranged(node.op_type, inputs, attributes, shapes.get(node.output[0]))


def _rearranged(
    op: str, inputs: list[Numbers | None], attributes: Mapping[str, Any], shape: Shape | None
) -> Numbers | None:
    first = inputs[0]
    if op in _KEPT and first is not None and shape is not None and all(isinstance(dim, int) for dim in shape):
        return first.reshape([int(dim or 0) for dim in shape])
    if any(value is None for value in inputs) or first is None:
        return None
    known = [value for value in inputs if value is not None]
    if op == "Gather" and attributes.get("axis", 0) == 0 and first.ndim == 1:
        index = known[1].astype(np.int64)
        fits = bool(((index < len(first)) & (index >= -len(first))).all())
        return np.array(first[index], dtype=object) if fits else None
    if op == "Concat" and all(value.ndim == 1 for value in known) and sum(map(len, known)) <= _SMALL:
        return np.concatenate(known)
    if op == "Slice" and first.ndim == 1 and all(value.size == 1 for value in known[1:]):
        start, end, *rest = (int(value.reshape(-1)[0]) for value in known[1:])
        step = rest[1] if len(rest) > 1 else 1
        return first[start:end:step] if step > 0 else None
    if op in _ARITHMETIC and len(known) == 2:
        if any(item is None for value in known for item in value.reshape(-1)):
            return None
        return np.array(_ARITHMETIC[op](*known), dtype=object)
    return None


def _numbers(name: str, numbers: Mapping[str, Numbers], given: Mapping[str, onnx.TensorProto]) -> Numbers | None:
    if name in numbers:
        return numbers[name]
    tensor = given.get(name)
    if tensor is None or tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return None
    small = int(np.prod(tensor.dims, dtype=np.int64)) <= _SMALL
    return numpy_helper.to_array(tensor).astype(object) if small else None
