"""Ways to damage a file, all of them reproducible."""

from __future__ import annotations

import random
from collections.abc import Iterator

import onnx


def flips(proto: onnx.ModelProto, count: int, seed: int, *, weights: bool) -> Iterator[bytes]:
    """``count`` files with one byte changed, in the values of the float weights, or anywhere else."""
    data, draw = proto.SerializeToString(), random.Random(seed)
    inside = set(places(proto, data))
    chosen = sorted(inside if weights else set(range(len(data))) - inside)
    for _ in range(count):
        broken = bytearray(data)
        # A single bit, as a bad disk does it, or any other byte.
        broken[draw.choice(chosen)] ^= draw.choice((1 << draw.randrange(8), draw.randrange(1, 256)))
        yield bytes(broken)


def places(proto: onnx.ModelProto, data: bytes) -> Iterator[int]:
    """The positions of the float weights' values."""
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            start = data.index(tensor.raw_data)
            yield from range(start, start + len(tensor.raw_data))


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Number and bytes (with tag and length) of the fields of a message, in their order."""
    found, at = [], 0
    while at < len(data):
        tag, end = varint(data, at)
        value, end = varint(data, end)
        end += value if tag & 7 == 2 else 0
        found.append((tag >> 3, data[at:end]))
        at = end
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number as protobuf writes it, and where it ends."""
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def truncations(data: bytes) -> Iterator[bytes]:
    """The file cut off behind each of its top-level fields but the last."""
    parts = [part for _, part in fields(data)]
    yield from (b"".join(parts[:end]) for end in range(1, len(parts)))


def shortened(proto: onnx.ModelProto) -> Iterator[bytes]:
    """The model whole, but its graph cut off behind each of its fields but the last."""
    for data in truncations(proto.graph.SerializeToString()):
        short = onnx.ModelProto.FromString(proto.SerializeToString())
        short.graph.CopyFrom(onnx.GraphProto.FromString(data))
        yield short.SerializeToString()
