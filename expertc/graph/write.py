"""Writing a model as bytes: the same model gives the same bytes, whatever the hash seed."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_graphsurgeon as gs

from .model import Model
from .read import from_proto
from .shapes import infer_shapes


def to_proto(model: Model) -> onnx.ModelProto:
    """The ONNX protobuf of ``model``, with its opset, IR version and metadata."""
    empty = _set_aside_empty_lists(model)
    proto = gs.export_onnx(model.graph, do_type_check=False)
    for at, kept in empty.items():
        model.nodes[at].attrs.update(kept)
        for name in kept:
            proto.graph.node[at].attribute.append(onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS))
    proto.ir_version = model.ir_version
    proto.producer_name, proto.producer_version = model.producer
    for at, properties in sorted(model.node_metadata.items()):
        _set(proto.graph.node[at].metadata_props, properties)
    _set(proto.metadata_props, model.metadata)
    del proto.graph.value_info[:]  # whoever needs shapes can infer them
    return proto


def _set_aside_empty_lists(model: Model) -> dict[int, dict[str, list[int]]]:
    """Take empty list attributes off the nodes: the exporter cannot tell their type. In ONNX all of them are INTS."""
    found = {}
    for at, node in enumerate(model.nodes):
        empty = {name: value for name, value in node.attrs.items() if isinstance(value, list) and not value}
        if empty:
            found[at] = empty
            for name in empty:
                del node.attrs[name]
    return found


def with_batch(model: Model, batch: int) -> Model:
    """The same model for exactly ``batch`` images, if its batch is a symbol; otherwise the model itself."""
    symbols = {shape[0] for shape in model.inputs.values() if shape and not isinstance(shape[0], int)}
    if not symbols:
        return model
    proto = to_proto(model)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and (dim.dim_param in symbols or axis == 0):
                dim.dim_value = batch
    return replace(from_proto(proto), metadata=model.metadata)


def refreshed(model: Model) -> Model:
    """The same model with shapes and types inferred anew: what a pass calls on the graph it wrote."""
    shapes, types = infer_shapes(to_proto(model))
    return replace(model, shapes=shapes, types=types)


def to_bytes(model: Model) -> bytes:
    """Serialise ``model``; deterministic."""
    data: bytes = to_proto(model).SerializeToString(deterministic=True)
    return data


def _set(target: object, properties: object) -> None:
    for key, value in sorted(properties.items()):  # type: ignore[attr-defined]
        entry = target.add()  # type: ignore[attr-defined]
        entry.key, entry.value = key, value
