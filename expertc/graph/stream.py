"""A model whose weights are elsewhere in memory: written piece by piece, so that they are never there twice.

A protobuf owns its bytes: building one around weights copies them, and serialising it copies them again, twice over.
Here the protobuf has outlines, tensors without values, and the values go from where they are to the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from ..errors import ModelError
from .nodes import Constant

LIMIT = 2**31 - 2**20  # protobuf's is 2 GiB; a MiB for what is no weight
_MODEL = {name: field.number for name, field in onnx.ModelProto.DESCRIPTOR.fields_by_name.items()}
_GRAPH = {name: field.number for name, field in onnx.GraphProto.DESCRIPTOR.fields_by_name.items()}
_RAW = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def outline(constant: Constant) -> TensorProto:
    """The tensor's name, type and shape, without its values."""
    return TensorProto(name=constant.name, data_type=constant.kind, dims=constant.shape)


@dataclass(frozen=True)
class Lean:
    """``proto``, in which the initializers named in ``weights`` are outlines: their values are there."""

    proto: onnx.ModelProto
    weights: Mapping[str, Constant]

    def serialise(self) -> Iterator[bytes | memoryview]:
        """The bytes of the whole model, the same every time, in pieces; each initializer's values are one.

        Raises ``ModelError`` from 2 GiB on, protobuf's limit.
        """
        graph, number = self.proto.graph, _GRAPH["initializer"]
        before, after = _fields(graph, range(number)), _fields(graph, range(number + 1, 2**29))
        heads = [self._head(tensor) for tensor in graph.initializer]
        sizes = [len(head) + self._size(tensor) for head, tensor in zip(heads, graph.initializer, strict=True)]
        entries = [_length_delimited(number, size) for size in sizes]
        if sum(sizes) >= LIMIT:
            raise ModelError("The model is larger than the 2 GiB an ONNX file may have.", "Export a smaller network.")
        yield _fields(self.proto, range(_MODEL["graph"]))
        inside = len(before) + len(after) + sum(sizes) + sum(map(len, entries))
        yield _length_delimited(_MODEL["graph"], inside)
        yield before
        for entry, head, tensor in zip(entries, heads, graph.initializer, strict=True):
            yield entry + head
            if tensor.name in self.weights:
                yield memoryview(self.weights[tensor.name].stored())
        yield after
        yield _fields(self.proto, range(_MODEL["graph"] + 1, 2**29))

    def write(self, path: Path) -> onnx.ModelProto:
        """Write the model to ``path``; returns its protobuf with the weights left there, as external data.

        A runtime that is given that, as a file beside ``path``, reads the values out of it one after the other; given
        ``path`` itself, it would hold the whole protobuf beside them.
        """
        mapped, end = onnx.ModelProto(), 0
        mapped.CopyFrom(self.proto)
        missing = iter([tensor for tensor in mapped.graph.initializer if tensor.name in self.weights])
        with path.open("wb") as file:
            for piece in self.serialise():
                file.write(piece)
                if isinstance(piece, memoryview):
                    tensor = next(missing)
                    tensor.data_location = TensorProto.EXTERNAL
                    for key, value in (("location", path.name), ("offset", end), ("length", len(piece))):
                        tensor.external_data.add(key=key, value=str(value))
                end += len(piece)
        return mapped

    def _size(self, tensor: TensorProto) -> int:
        """Bytes of the values that are elsewhere."""
        constant = self.weights.get(tensor.name)
        return 0 if constant is None else constant.nbytes

    def _head(self, tensor: TensorProto) -> bytes:
        """What comes before those values; ``raw_data`` is the last field that an initializer with values has."""
        head: bytes = tensor.SerializeToString(deterministic=True)
        constant = self.weights.get(tensor.name)
        return head if constant is None else head + _length_delimited(_RAW, constant.nbytes)


def _fields(message: Message, numbers: range) -> bytes:
    """The bytes of some fields of a message."""
    part = type(message)()
    for field, value in message.ListFields():
        if field.number not in numbers:
            continue
        if hasattr(value, "MergeFrom"):  # a message or a list
            getattr(part, field.name).MergeFrom(value)
        else:
            setattr(part, field.name, value)
    data: bytes = part.SerializeToString(deterministic=True)
    return data


def _length_delimited(field: int, size: int) -> bytes:
    """The head of a field of ``size`` bytes on the wire: its number and type 2, then the size."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
