"""The only room that touches ONNX protobuf: reading, checking, writing, shapes, costs.

The graph itself is onnx-graphsurgeon's; ``Model`` adds what graphsurgeon drops.
"""

from .model import Dim, Model, Shape, captured, constant_copy, fresh_name
from .read import from_proto, parse, read_bytes, read_model
from .shapes import volume
from .write import refreshed, to_bytes, to_proto, with_batch

__all__ = [
    "Dim", "Model", "Shape", "captured", "constant_copy", "fresh_name", "from_proto", "parse", "read_bytes",
    "read_model", "refreshed", "to_bytes", "to_proto", "volume", "with_batch",
]  # fmt: skip
