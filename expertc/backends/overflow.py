"""Whether ONNX Runtime would compute an int8 model wrongly on this processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from .processor import saturates

SAFE = 64
"""The largest weight with which two products still fit: 2 × 255 × 64 < 32,768. ``reduce_range`` makes none larger."""


def overflows(model: Path | bytes) -> bool:
    """Whether the sums of its integer kernels would saturate here, which they do without a word.

    So do 8-bit weights between Q and DQ on a processor without VNNI (``processor.saturates``): those of an expert that
    was built for another machine, as every one for TensorRT is. In single precision between Q and DQ, which needs no
    kernels for integers, the same model computes what it should. Raises ``OSError`` if the file cannot be read.
    """
    if not saturates():
        return False
    data = model if isinstance(model, bytes) else model.read_bytes()
    if b"uantizeLinear" not in data:
        return False
    try:
        graph = onnx.ModelProto.FromString(data).graph
    except DecodeError:  # the runtime says what is wrong with it
        return False
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        tensor = weights.get(node.input[0]) if node.input else None
        if tensor is not None and (node.op_type == "QuantizeLinear" or _is_wide(node, tensor)):
            return True
    return False


def _is_wide(node: onnx.NodeProto, tensor: onnx.TensorProto) -> bool:
    """Whether a weight, as it is stored, has values beyond ``SAFE``; one in another file may have."""
    if node.op_type != "DequantizeLinear" or tensor.data_type != onnx.TensorProto.INT8:
        return False
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return True
    return int(np.abs(onnx.numpy_helper.to_array(tensor).astype(np.int16)).max(initial=0)) > SAFE
