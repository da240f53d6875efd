"""Shapes and element types of all tensors, inferred once on a copy of the graph that carries no weights."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from math import prod

import onnx

from ..errors import ModelError
from ..text import clean_text
from .nodes import Constant, Shape, value_type

# Weights are of no use to shape inference and may be gigabytes; shapes, axes and indices are small whole numbers.
SMALL = 1024
FEW = 16
WHOLE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)

# Their output is like their input, which ONNX does not infer.
_LIKE_INPUT = ("GroupNormalization", "MeanVarianceNormalization")


def infer_shapes(
    proto: onnx.ModelProto,
    constants: Mapping[str, Constant],
    learned: Mapping[str, Shape] | None = None,
    bare: onnx.ModelProto | None = None,
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Infer shape and element type (``TensorProto.DataType``) of every tensor as far as ONNX can; symbols stay.

    What the file itself declares of inner tensors and outputs is believed only where nothing can be inferred: tools
    that change a graph leave stale declarations behind, and runtimes ignore them. ``constants`` are its initializers;
    ``learned`` are shapes that somebody else has found out, believed likewise; ``bare`` is the graph's ``skeleton`` if
    somebody has made it already, which is used up.
    """
    shapes, types = _infer(proto, skeleton(proto, constants) if bare is None else bare)
    inputs = {dim.dim_param for v in proto.graph.input for dim in v.type.tensor_type.shape.dim}
    unknown = _unknown(proto, shapes, inputs)
    if unknown and _computes_sizes(proto, types) and _is_small(proto, shapes):
        shapes, types = _infer(proto, skeleton(proto, constants), propagate=True)
        unknown = _unknown(proto, shapes, inputs)
    # Inference invents a symbol for a size it cannot tell; a name that the file itself gives it is better.
    declared = {v.name: v for v in (*proto.graph.value_info, *proto.graph.output)}
    declared |= {name: _value(name, types[name], shape) for name, shape in (learned or {}).items() if name in types}
    believed = [declared[name] for name in unknown if name in declared]
    if believed:
        shapes, types = _infer(proto, skeleton(proto, constants), believed, propagate=_is_small(proto, shapes))
    for name, constant in constants.items():
        shapes[name], types[name] = constant.shape, constant.kind
    return shapes, types


def _value(name: str, kind: int, shape: Shape) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, list(shape))


def _unknown(proto: onnx.ModelProto, shapes: Mapping[str, Shape], inputs: Container[str]) -> list[str]:
    """Names of tensors that nodes make and whose shape is not known in numbers and symbols of the inputs."""
    known = {s for s in set(shapes.values()) if all(isinstance(dim, int) or dim in inputs for dim in s)}
    made = [name for node in proto.graph.node for name in node.output[:] if name]
    return [name for name in made if shapes.get(name) not in known]


def _computes_sizes(proto: onnx.ModelProto, types: Mapping[str, int]) -> bool:
    """Whether a node makes integers: without any there are no values to follow through the graph."""
    return any(types.get(name) in WHOLE for node in proto.graph.node for name in node.output)


def _is_small(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether values may be followed through the graph: ONNX holds an object per element of every list it follows."""
    lists = (shapes.get(name, ()) for node in proto.graph.node for name in node.output)
    return sum(volume(shape) for shape in lists if len(shape) < 2) <= SMALL * max(64, len(proto.graph.node))


def _infer(
    proto: onnx.ModelProto,
    bare: onnx.ModelProto,
    declared: Sequence[onnx.ValueInfoProto] = (),
    *,
    propagate: bool = False,
) -> tuple[dict[str, Shape], dict[str, int]]:
    for node in bare.graph.node:
        if node.op_type in _LIKE_INPUT and not node.domain:
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    outputs = {value.name for value in bare.graph.output}
    believed = {value.name for value in declared}
    for value in bare.graph.output:
        if value.name not in believed:
            value.ClearField("type")
    bare.graph.value_info.extend(value for value in declared if value.name not in outputs)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=False, data_prop=propagate).graph
    except onnx.shape_inference.InferenceError as error:
        reason = clean_text(str(error).strip().partition("\n")[0])[:200].rstrip(".")
        raise ModelError(f"The shapes of the model contradict each other: {reason}.", "Export it again.") from error
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    read: dict[bytes, tuple[int | None, Shape | None]] = {}  # most tensors have a type that another has
    for value in (*inferred.value_info, *proto.graph.input, *inferred.output):
        name, written = value.name, value.type.SerializeToString()
        if written not in read:
            kind, dims = value_type(value)
            read[written] = kind, None if dims is None else tuple(dims)
        kind, shape = read[written]
        if shape is not None:
            shapes[name] = shape
        if kind is not None:
            types[name] = kind
    return shapes, types


def is_telling(kind: int, count: int) -> bool:
    """Whether shapes may depend on the values of a tensor: whole numbers, or a few factors (of a ``Resize``, say)."""
    return count <= (SMALL if kind in WHOLE else FEW)


def skeleton(proto: onnx.ModelProto, constants: Mapping[str, Constant]) -> onnx.ModelProto:
    """The same graph with most initializers as inputs: all that shape inference and the checker need."""
    bare = onnx.ModelProto(ir_version=max(4, proto.ir_version))  # from 4 on, initializers need not be inputs
    bare.opset_import.extend(proto.opset_import)
    graph, source = bare.graph, proto.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.output.extend(source.output)
    graph.input.extend(source.input)
    declared = {value.name for value in source.input}
    telling = {name for name, constant in constants.items() if is_telling(constant.kind, prod(constant.shape))}
    graph.initializer.extend([tensor for tensor in source.initializer if tensor.name in telling])
    faces: dict[tuple[int, Shape], onnx.ValueInfoProto] = {}  # one for each, as most weights look like others
    for name, constant in constants.items():
        if name not in telling and name not in declared:
            face = constant.kind, constant.shape
            if face not in faces:
                faces[face] = onnx.ValueInfoProto(type=onnx.helper.make_tensor_type_proto(*face))
            faces[face].name = name
            graph.input.append(faces[face])
    return bare


def volume(shape: Shape) -> int:
    """Number of elements with every symbol taken as 1 (a batch of one)."""
    total = 1
    for dim in shape:
        total *= dim if isinstance(dim, int) else 1
    return total
