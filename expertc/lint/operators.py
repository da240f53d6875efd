"""Which operators TensorRT's ONNX parser reads, of which types, and up to which opset, by release.

The facts are those of the tables that onnx-tensorrt publishes with every release (``operators.json`` names them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from onnx import TensorProto

from ..targets import Release, release

OLDEST: Release = (8, 5)
NEWEST_TABLE: Release = (10, 1)
"""The last release whose table of operators is known; what a later one reads besides is not."""

# From this release on the parser reads up to that opset: "docs/operators.md" of each, and the changelogs of 10.9, 10.13
# and 11.0.
_CEILINGS: Mapping[Release, int] = {(8, 5): 17, (10, 0): 20, (10, 9): 22, (10, 13): 24, (11, 0): 25}

# How the tables write a type. DOUBLE is computed in single precision, and before 10.0 INT64 in 32 bits.
_TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT4: "INT4",
}


def ceiling(of: Release) -> int:
    """The newest opset that TensorRT's parser reads in release ``of``; of one before 8.5, that of 8.5."""
    return _CEILINGS[max((known for known in _CEILINGS if known <= of[:2]), default=OLDEST)]


def types(operator: str, of: Release) -> frozenset[str] | None:
    """The types that ``operator`` takes in release ``of``, or in the last one known; None if it is not read at all."""
    known = [(since, names) for since, names in _table().get(operator, {}).items() if since <= max(of[:2], OLDEST)]
    return max(known)[1] if known else None


def type_name(kind: int, of: Release) -> str:
    """An ONNX element type as the tables write it."""
    if kind == TensorProto.INT64 and of < (10,):
        return "INT32"
    return _TYPES.get(kind) or TensorProto.DataType.Name(kind)


@cache
def _table() -> Mapping[str, Mapping[Release, frozenset[str]]]:
    data = json.loads(Path(__file__).with_name("operators.json").read_text(encoding="utf-8"))
    return {
        operator: {release(since): frozenset(names.split()) for since, names in entry.items()}
        for operator, entry in data["operators"].items()
    }
