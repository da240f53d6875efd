"""Shapes and element types of all tensors, inferred once on a copy of the graph that carries no weights."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import onnx

from ..errors import ModelError
from ..text import clean_text
from .nodes import Shape, read_dim

# Weights are of no use to shape inference and may be gigabytes; shapes, axes and indices are small.
SMALL = 1024

# Their output is like their input, which ONNX does not infer.
_LIKE_INPUT = ("GroupNormalization", "MeanVarianceNormalization")


def infer_shapes(
    proto: onnx.ModelProto, learned: Mapping[str, Shape] | None = None, bare: onnx.ModelProto | None = None
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Infer shape and element type (``TensorProto.DataType``) of every tensor as far as ONNX can; symbols stay.

    What the file itself declares of inner tensors and outputs is believed only where nothing can be inferred: tools
    that change a graph leave stale declarations behind, and runtimes ignore them. ``learned`` are shapes that somebody
    else has found out, believed likewise; ``bare`` is the graph's ``skeleton`` if somebody has made it already.
    """
    shapes, types = _infer(proto, (), bare=bare)
    inputs = {dim.dim_param for v in proto.graph.input for dim in v.type.tensor_type.shape.dim}
    if _unknown(proto, shapes, inputs) and _is_small(proto, shapes):
        shapes, types = _infer(proto, (), propagate=True)
    # Inference invents a symbol for a size it cannot tell; a name that the file itself gives it is better.
    declared = {v.name: v for v in (*proto.graph.value_info, *proto.graph.output)}
    declared |= {name: _value(name, types[name], shape) for name, shape in (learned or {}).items() if name in types}
    believed = [declared[name] for name in _unknown(proto, shapes, inputs) if name in declared]
    if believed:
        shapes, types = _infer(proto, believed, propagate=_is_small(proto, shapes))
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    types |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    return shapes, types


def _value(name: str, kind: int, shape: Shape) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, list(shape))


def _unknown(proto: onnx.ModelProto, shapes: Mapping[str, Shape], inputs: Container[str]) -> list[str]:
    """Names of tensors that nodes make and whose shape is not known in numbers and symbols of the inputs."""
    made = [name for node in proto.graph.node for name in node.output if name]
    return [n for n in made if not all(isinstance(dim, int) or dim in inputs for dim in shapes.get(n, (None,)))]


def _is_small(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether values may be followed through the graph: ONNX holds an object per element of every list it follows."""
    lists = (shapes.get(name, ()) for node in proto.graph.node for name in node.output)
    return sum(volume(shape) for shape in lists if len(shape) < 2) <= SMALL * max(64, len(proto.graph.node))


def _infer(
    proto: onnx.ModelProto,
    declared: Sequence[onnx.ValueInfoProto],
    *,
    propagate: bool = False,
    bare: onnx.ModelProto | None = None,
) -> tuple[dict[str, Shape], dict[str, int]]:
    bare = skeleton(proto) if bare is None else bare
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
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(read_dim(dim) for dim in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    return shapes, types


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its large initializers as inputs: all that shape inference and the checker need."""
    bare = onnx.ModelProto(ir_version=max(4, proto.ir_version))  # from 4 on, initializers need not be inputs
    bare.opset_import.extend(proto.opset_import)
    graph, source = bare.graph, proto.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.output.extend(source.output)
    graph.input.extend(source.input)
    declared = {value.name for value in source.input}
    for tensor in source.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        if count <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return bare


def volume(shape: Shape) -> int:
    """Number of elements with every symbol taken as 1 (a batch of one)."""
    total = 1
    for dim in shape:
        total *= dim if isinstance(dim, int) else 1
    return total
