"""Writing a model as bytes: the same model gives the same bytes, whatever the hash seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx

from .model import Model
from .nodes import Constant, value_info
from .read import assemble
from .shapes import SMALL, infer_shapes, volume


def to_proto(model: Model, *, weights: bool = True) -> onnx.ModelProto:
    """The ONNX protobuf of ``model``, with its opset, IR version and metadata.

    Without ``weights`` all but small initializers are names and shapes only: enough to infer shapes, at no cost.
    """
    proto = onnx.ModelProto(ir_version=model.ir_version)
    proto.producer_name, proto.producer_version = model.producer
    for domain, version in model.graph.opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = model.graph.name
    proto.graph.node.extend([node.write() for node in model.nodes])
    for constant in model.constants.values():
        whole = weights or volume(constant.shape) <= SMALL
        proto.graph.initializer.append(constant.to_proto() if whole else _outline(constant))
    proto.graph.input.extend([value_info(tensor) for tensor in model.graph.inputs])
    proto.graph.output.extend([value_info(tensor) for tensor in model.graph.outputs])
    _set(proto.metadata_props, model.metadata)
    return proto


def _outline(constant: Constant) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=constant.name,
        data_type=constant.kind,
        dims=constant.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )


def with_batch(model: Model, batch: int) -> Model:
    """The same model for exactly ``batch`` images, if its batch is a symbol; otherwise the model itself."""
    symbols = {shape[0] for shape in model.inputs.values() if shape and not isinstance(shape[0], int)}
    if not symbols:
        return model
    proto = to_proto(model, weights=False)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and (dim.dim_param in symbols or axis == 0):
                dim.dim_value = batch
    return assemble(proto, model.constants, "The model", model.files)


def refreshed(model: Model) -> Model:
    """The same model with shapes and types inferred anew: what a pass calls on the graph it wrote."""
    shapes, types = infer_shapes(to_proto(model, weights=False))
    return replace(model, shapes=shapes, types=types)


def to_bytes(model: Model) -> bytes:
    """Serialise ``model``; deterministic."""
    data: bytes = to_proto(model).SerializeToString(deterministic=True)
    return data


def _set(target: object, properties: Mapping[str, str]) -> None:
    for key, value in sorted(properties.items()):
        entry = target.add()  # type: ignore[attr-defined]
        entry.key, entry.value = key, value
