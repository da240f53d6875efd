"""Tensors of the Open Inference Protocol: what a model takes and gives, and their data as JSON or as bytes.

Names of datatypes, shapes and the two forms of data in JSON (nested, or one row) are those of the protocol's REST
specification (https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md); bytes are
little-endian and row-major, as its binary tensor data extension says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ..errors import DataError
from ..text import shown

Array = np.ndarray[Any, Any]

DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
"""The specification's names, section "Tensor Data Types", of all but text."""

_NAMES = {np.dtype(kind): name for name, kind in DATATYPES.items()}

MAX_BATCH = 64
"""Images in a call of a model that takes any number: its activations are many times the size of its input."""

FREE = -1
"""An axis of any length, as the specification writes it."""


@dataclass(frozen=True)
class Tensor:
    """An input or an output: ``shape`` has ``FREE`` axes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def datatype(self) -> str:
        """The protocol's name of the type."""
        return _NAMES[self.dtype]

    def to_mapping(self) -> dict[str, Any]:
        """``$metadata_tensor``."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def check(self, datatype: Any, shape: Any) -> tuple[int, ...]:
        """``shape`` as a tuple, if data of it fit here; else ``DataError``."""
        if datatype != self.datatype:
            raise _no(self, f"is of datatype {self.datatype}, not {shown(datatype)}")
        if not isinstance(shape, list) or not all(type(axis) is int for axis in shape):
            raise _no(self, "has no shape that is a list of whole numbers")
        fits = len(shape) == len(self.shape) and all(
            own >= 1 and wanted in (own, FREE) for own, wanted in zip(shape, self.shape, strict=True)
        )
        if not fits:
            raise _no(self, f"is of shape {list(self.shape)}, not {shown(shape)}")
        if self.shape[:1] == (FREE,) and shape[0] > MAX_BATCH:
            raise _no(self, f"is for up to {MAX_BATCH} images, not {shown(shape[0])}")
        return tuple(shape)

    def from_json(self, data: Any, shape: Sequence[int]) -> Array:
        """The array of ``shape`` that ``data`` holds, nested or as one row; ``DataError`` if it is none."""
        values = _flat(self, data, shape)
        whole = self.dtype.kind in "iub"
        if values and not {*map(type, values)} <= (
            {bool} if self.dtype.kind == "b" else {int} if whole else {int, float}
        ):
            raise _no(self, f"holds something that is not {self.datatype}")
        try:
            if whole and values and not _range(self.dtype)[0] <= min(values) <= max(values) <= _range(self.dtype)[1]:
                raise _no(self, f"holds a number that is not {self.datatype}")
            with np.errstate(over="ignore"):
                made = np.array(values, self.dtype).reshape(shape)
        except OverflowError as error:
            raise _no(self, f"holds a number that is not {self.datatype}") from error
        return self._sound(made)

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> Array:
        """The array of ``shape`` that lies in ``data``; ``DataError`` if it has another size."""
        if len(data) != math.prod(shape) * self.dtype.itemsize:
            raise _no(self, f"of shape {list(shape)} has not {len(data)} bytes")
        if self.dtype.kind == "b" and not {*bytes(data)} <= {0, 1}:
            raise _no(self, "holds a byte that is neither 0 nor 1")
        return self._sound(np.frombuffer(data, self.dtype.newbyteorder("<")).reshape(shape).astype(self.dtype))

    def _sound(self, made: Array) -> Array:
        if self.dtype.kind == "f" and not np.isfinite(made).all():
            raise _no(self, "holds NaN, infinity, or more than its datatype does")
        return made


def to_json(values: Array) -> list[Any]:
    """The values as one row; ``DataError`` if JSON cannot say them."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("The model gives NaN or infinity, which JSON has no word for.", "Ask for binary data.")
    listed: list[Any] = values.ravel().tolist()
    return listed


def to_bytes(values: Array) -> bytes:
    """The values, row-major and little-endian."""
    return values.astype(values.dtype.newbyteorder("<"), order="C").tobytes()


def describe(name: str, values: Array) -> dict[str, Any]:
    """``$response_output`` of ``values``, without the data."""
    return {"name": name, "shape": list(values.shape), "datatype": _NAMES[values.dtype]}


def _flat(tensor: Tensor, data: Any, shape: Sequence[int]) -> list[Any]:
    if not isinstance(data, list):
        raise _no(tensor, "has no data that is a list")
    rows = [data]
    for size in shape if data and type(data[0]) is list else [math.prod(shape)]:
        if any(type(row) is not list or len(row) != size for row in rows):
            raise _no(tensor, f"does not hold {math.prod(shape)} values, in one row or nested as {list(shape)}")
        rows = list(chain.from_iterable(rows))
    return rows


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    found = np.iinfo(dtype)
    return int(found.min), int(found.max)


def _no(tensor: Tensor, why: str) -> DataError:
    return DataError(f"The input {shown(tensor.name)} {why}.", "See the model's metadata.")
