"""Writing a model: the same model gives the same bytes, whatever the hash seed.

A protobuf cannot hold more than 2 GiB, so the weights of a large model go to a file beside it, one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from .model import Model
from .nodes import Constant, value_info
from .read import assemble
from .shapes import SMALL, infer_shapes, volume
from .stream import Lean, outline

EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of weights from which on they are written to a file of their own."""

DATA_SUFFIX = ".data"
"""What that file's name has after the model's."""

ALIGNMENT = 4096  # the runtime maps what starts at a page

File = bytes | Path
"""A model as it stands: its bytes, or its file where weights lie beside it."""


def to_proto(model: Model, *, weights: bool = True) -> onnx.ModelProto:
    """The ONNX protobuf of ``model``, with its opset, IR version and metadata.

    Without ``weights`` all but small initializers are names and shapes only: enough to infer shapes, at no cost.
    """
    return _proto(
        model, lambda constant: constant.to_proto() if weights or _is_small(constant) else _elsewhere(constant)
    )


def to_lean(model: Model) -> Lean:
    """``model`` as a protobuf and, where they are, the weights that are to be written into it."""
    held = {name: constant for name, constant in model.constants.items() if not _is_small(constant)}
    return Lean(
        _proto(model, lambda constant: outline(constant) if constant.name in held else constant.to_proto()), held
    )


def _proto(model: Model, write: Callable[[Constant], onnx.TensorProto]) -> onnx.ModelProto:
    proto = onnx.ModelProto(ir_version=model.ir_version)
    proto.producer_name, proto.producer_version = model.producer
    for domain, version in model.graph.opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = model.graph.name
    proto.graph.node.extend([node.write() for node in model.nodes])
    proto.graph.initializer.extend(map(write, model.constants.values()))
    proto.graph.input.extend([value_info(tensor) for tensor in model.graph.inputs])
    proto.graph.output.extend([value_info(tensor) for tensor in model.graph.outputs])
    _set(proto.metadata_props, model.metadata)
    return proto


def _is_small(constant: Constant) -> bool:
    """Whether the values go into the protobuf in any case; text has no other place."""
    return volume(constant.shape) <= SMALL or constant.kind == onnx.TensorProto.STRING


def _elsewhere(constant: Constant) -> onnx.TensorProto:
    tensor = outline(constant)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


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


def with_input(model: Model, name: str, shape: Sequence[int]) -> Model:
    """The same model for an input ``name`` of exactly ``shape``: what is a symbol there is that number everywhere."""
    declared = model.inputs[name]
    if all(isinstance(dim, int) for dim in declared):
        return model
    sizes = {dim: size for dim, size in zip(declared, shape, strict=True) if isinstance(dim, str)}
    proto = to_proto(model, weights=False)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
            elif value.name == name:
                dim.dim_value = shape[axis]
    return assemble(proto, model.constants, "The model", model.files)


def reread(model: Model) -> Model:
    """The same model as if it had been read: sizes are folded, shapes and types inferred."""
    return assemble(to_proto(model, weights=False), model.constants, "The model", model.files)


def refreshed(model: Model) -> Model:
    """The same model with shapes and types inferred anew: what a pass calls on the graph it wrote."""
    shapes, types = infer_shapes(to_proto(model, weights=False))
    return replace(model, shapes=shapes, types=types)


def to_bytes(model: Model) -> bytes:
    """Serialise ``model``; deterministic."""
    return b"".join(to_lean(model).serialise())


def is_large(model: Model) -> bool:
    """Whether the weights are too many for one protobuf, so that ``pack`` needs a place."""
    return sum(constant.nbytes for constant in model.constants.values()) > EXTERNAL_ABOVE


def pack(model: Model, path: Path | None) -> File:
    """Serialise ``model``: as bytes, or if they are too many, to ``path`` and a file beside it; returns ``path`` then.

    Weights are copied from map to file, one at a time. Raises ``ValueError`` for a large model without a path.
    """
    if not is_large(model):
        return to_bytes(model)
    if path is None:
        raise ValueError("a large model needs a place for its weights")
    layout = _layout(model, path.name + DATA_SUFFIX)
    path.write_bytes(layout.proto)
    with path.with_name(path.name + DATA_SUFFIX).open("wb") as file:
        for offset, constant in layout.parts:
            file.seek(offset)
            file.write(memoryview(constant.stored()))
    return path


def is_exactly(model: Model, file: File) -> bool:
    """Whether ``file`` holds ``model`` as it would be written, and nothing else."""
    if isinstance(file, bytes):
        return to_bytes(model) == file
    layout = _layout(model, file.name + DATA_SUFFIX)
    weights = file.with_name(file.name + DATA_SUFFIX)
    if file.read_bytes() != layout.proto or weights.stat().st_size != layout.size:
        return False
    with weights.open("rb") as data:  # its weights are the model's; what lies between them must be nothing
        end = 0
        for start, constant in layout.parts:
            data.seek(end)
            if data.read(start - end).strip(b"\0"):
                return False
            end = start + constant.nbytes
    return True


@dataclass(frozen=True)
class _Layout:
    """A protobuf and what its file of weights holds: where each starts, and bytes in all."""

    proto: bytes
    parts: tuple[tuple[int, Constant], ...]
    size: int


def _layout(model: Model, location: str) -> _Layout:
    proto, end, parts = to_proto(model, weights=False), 0, []
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            constant = model.constants[tensor.name]
            start = end + -end % ALIGNMENT
            for key, value in (("location", location), ("offset", start), ("length", constant.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            parts.append((start, constant))
            end = start + constant.nbytes
    return _Layout(proto.SerializeToString(deterministic=True), tuple(parts), end)


def _set(target: object, properties: Mapping[str, str]) -> None:
    for key, value in sorted(properties.items()):
        entry = target.add()  # type: ignore[attr-defined]
        entry.key, entry.value = key, value
