"""ONNX files without the weights that can be drawn again: any machine fills the gaps, and needs no ONNX for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .seeds import Array, Draw

LEAST = 256  # numbers; smaller tensors stay in the graph
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}

Known = Mapping[bytes, Draw]
"""Draws by what ``digest`` makes of their values."""


def redraw(proto: onnx.ModelProto) -> dict[bytes, Draw]:
    """Give every large float32 initializer other values, which can be drawn again.

    Weights become as large as He et al. start them (2015, section 2.2), so that no network explodes; what has one axis
    keeps its mean and variance, and stays positive if it was. The draws are returned under the digests of their values,
    also of those rounded to float16.
    """
    known: dict[bytes, Draw] = {}
    for seed, tensor in enumerate(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or _count(tensor) < LEAST:
            continue
        old = numpy_helper.to_array(tensor)
        mean, spread = _range(old)
        if spread == 0:  # all the same, such as a batch norm's that was never trained
            continue
        draw = Draw(tensor.name, seed, old.size, mean, spread)
        tensor.CopyFrom(numpy_helper.from_array(draw.values().reshape(old.shape), tensor.name))
        for dtype in KINDS:
            typed = replace(draw, dtype=dtype)
            known[digest(typed.values())] = typed
    return known


def _range(old: Array) -> tuple[float, float]:
    """Mean and half the range of what takes the place of ``old``."""
    if old.ndim > 1:
        reads = np.prod(old.shape[1:]) if old.ndim > 3 else old.shape[-2]  # a convolution's, or a product's
        return 0.0, float(np.float32((6 / reads) ** 0.5))
    mean, spread = float(old.mean()), float(old.std()) * 3**0.5
    return mean, min(spread, 0.9 * mean) if old.min() > 0 else spread


def hollow(proto: onnx.ModelProto, known: Known) -> tuple[bytes, bytes, tuple[Draw, ...]]:
    """The file of ``proto``; what is left of it without the initializers whose values are ``known``; and their draws.

    A graph of other values, such as trained ones, is left whole.
    """
    found = []
    for tensor in proto.graph.initializer:
        if tensor.data_type in KINDS.values() and _count(tensor) >= LEAST:
            values = numpy_helper.to_array(tensor)
            draw = known.get(digest(values))
            if draw is not None:
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))  # as raw bytes, wherever they were
                found.append((tensor.raw_data, draw))
    data = proto.SerializeToString(deterministic=True)
    rest, draws, at = [], [], 0
    for raw, draw in found:  # initializers are written in their order
        start = data.index(raw, at)
        rest.append(data[at:start])
        draws.append(replace(draw, offset=start))
        at = start + len(raw)
    return data, b"".join((*rest, data[at:])), tuple(draws)


def digest(values: Array) -> bytes:
    """What tells tensors apart by their type and values, not by their shape."""
    return hashlib.sha256(str(values.dtype).encode() + np.ascontiguousarray(values).tobytes()).digest()


def _count(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
