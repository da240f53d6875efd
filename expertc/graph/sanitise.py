"""Cleaning the protobuf an exporter wrote, before it becomes a full model that people hand on.

Exporters leave stack traces with the paths of the exporting machine in it, zero biases for layers that have none, and
the same little constants hundreds of times. The result computes the same, bit for bit, and is the same bytes every
time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx

from ..errors import ModelError
from ..taxonomy import clean_text
from .nodes import Shape

NODE_METADATA = ("pkg.torch.onnx.name_scopes",)
"""What of a node's metadata is kept: the module path that made it. Everything else may carry paths or source code."""

_BIASED = ("Conv", "ConvTranspose", "Gemm")  # the third input is an optional bias
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def sanitise(proto: onnx.ModelProto, *, parameters: Collection[str], metadata: Mapping[str, str]) -> None:
    """Clean ``proto`` in place.

    ``parameters`` are the names of the initializers that are the network's own: they stay as they are, one by one,
    even where two hold the same values. Other initializers came from the exporter: zero biases go, equal ones become
    one. ``metadata`` is all that the model's metadata will hold; the producer's name and version stay.
    """
    _strip(proto, metadata)
    own = set(parameters)
    _drop_zero_biases(proto.graph, own)
    _share_constants(proto.graph, own)
    _drop_unread(proto.graph)


def require_symbolic_batch(proto: onnx.ModelProto, static: Collection[str] = ()) -> str:
    """Return the symbol of axis 0, which every graph input and output but the ``static`` inputs must have.

    Raises ``ModelError`` otherwise.
    """
    inputs, outputs = face(proto)
    symbols = set()
    for name, shape in (*inputs.items(), *outputs.items()):
        if name in static:
            continue
        symbol = shape[0] if shape else None
        if not isinstance(symbol, str):
            raise ModelError(
                f"The exporter froze the batch size of '{clean_text(name)}'.",
                "Let the network's forward depend on the batch only through tensor shapes.",
            )
        symbols.add(symbol)
    if len(symbols) != 1:
        raise ModelError(
            f"The inputs and outputs differ in their batch ({', '.join(sorted(symbols))}).",
            "A classifier returns one row per image.",
        )
    return symbols.pop()


def face(proto: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Shapes of the graph's inputs and of its outputs, by name; a symbol stays a string, an unknown dimension None."""

    def shape(value: onnx.ValueInfoProto) -> Shape:
        dims = value.type.tensor_type.shape.dim
        return tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None) for dim in dims)

    return ({v.name: shape(v) for v in proto.graph.input}, {v.name: shape(v) for v in proto.graph.output})


def _strip(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Clear doc strings and metadata everywhere, but for ``metadata`` and the allowed entries of nodes."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    for scope in (*_graphs(proto.graph), *proto.functions):
        scope.doc_string = ""
        del scope.metadata_props[:]
        values = list(scope.value_info)
        if isinstance(scope, onnx.GraphProto):
            values += [*scope.input, *scope.output, *scope.initializer]
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]
        for node in scope.node:
            node.doc_string = ""
            kept = [(entry.key, entry.value) for entry in node.metadata_props if entry.key in NODE_METADATA]
            del node.metadata_props[:]
            for key, value in kept:
                node.metadata_props.add(key=key, value=value)
            for attribute in node.attribute:
                attribute.doc_string = ""


def _drop_zero_biases(graph: onnx.GraphProto, own: set[str]) -> None:
    zeros = {
        tensor.name
        for tensor in graph.initializer
        if tensor.name not in own and len(tensor.dims) == 1 and not np.any(onnx.numpy_helper.to_array(tensor))
    }
    for scope in _graphs(graph):
        for node in scope.node:
            if node.op_type in _BIASED and len(node.input) == 3 and node.input[2] in zeros:
                del node.input[2]


def _share_constants(graph: onnx.GraphProto, own: set[str]) -> None:
    """Keep the first of all equal shapes, axes and scalars, and let every reader read that one.

    Longer floats are left alone: they were computed from weights, and which branch they belong to must stay visible.
    """
    first: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        scalar = math.prod(tensor.dims) == 1
        if tensor.name in own or tensor.name in outputs or not (scalar or tensor.data_type in _INTEGERS):
            continue
        anonymous = onnx.TensorProto()
        anonymous.CopyFrom(tensor)
        anonymous.name = ""
        renamed[tensor.name] = first.setdefault(anonymous.SerializeToString(deterministic=True), tensor.name)
    for scope in _graphs(graph):
        for node in scope.node:
            for at, name in enumerate(node.input):
                node.input[at] = renamed.get(name, name)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {value.name for value in graph.output}
    for scope in _graphs(graph):
        read |= {name for node in scope.node for name in node.input} | {value.name for value in scope.output}
    for values in (graph.initializer, graph.value_info):
        made = {name for node in graph.node for name in node.output} if values is graph.value_info else read
        for at in reversed(range(len(values))):
            if values[at].name not in made:
                del values[at]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes' attributes."""
    stack = [graph]
    while stack:
        scope = stack.pop()
        yield scope
        for node in scope.node:
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else attribute.graphs
