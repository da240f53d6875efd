"""Values of initializers: from the protobuf to numpy and back, for every type that ONNX has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

_PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}  # bits; several values to a byte


@cache
def bits(kind: int) -> int:
    """Bits per value of an ONNX element type, as it is stored; 0 for strings."""
    name = TensorProto.DataType.Name(kind)
    if name == "STRING":
        return 0
    return _PACKED.get(name) or 8 * int(np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize)


def stored_bytes(kind: int, shape: Sequence[int]) -> int:
    """Bytes that the values of a tensor take in a file."""
    return (prod(shape) * bits(kind) + 7) // 8


def stored(proto: TensorProto) -> bytes:
    """The values of a tensor that holds them itself, as a file would store them."""
    found: bytes = proto.raw_data or as_proto(as_array(proto), proto.name).raw_data
    return found


def array_stored(values: Array, kind: int) -> bytes | memoryview:
    """The values as a file stores them, the last axis the fastest; no copy of what lies so already."""
    if bits(kind) < 8 or sys.byteorder == "big":
        return stored(as_proto(values, ""))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def as_array(proto: TensorProto) -> Array:
    """The values of a tensor that holds them itself."""
    if proto.raw_data and bits(proto.data_type) >= 8:
        return from_bytes(proto.raw_data, proto.data_type, proto.dims)
    return np.asarray(numpy_helper.to_array(proto))


def from_bytes(data: Any, kind: int, shape: Sequence[int]) -> Array:
    """Values from stored bytes, without a copy where a value has whole bytes."""
    if bits(kind) < 8:
        packed = TensorProto(data_type=kind, dims=shape, raw_data=bytes(data))
        return np.asarray(numpy_helper.to_array(packed))
    values: Array = np.frombuffer(data, dtype=helper.tensor_dtype_to_np_dtype(kind))
    return values.reshape(tuple(shape))


def as_proto(values: Array, name: str) -> TensorProto:
    """A tensor with ``values`` inside, several to a byte for the types that are stored so."""
    return numpy_helper.from_array(np.asarray(values, order="C"), name)
