"""The only room that touches ONNX protobuf: reading, checking, writing, shapes, costs.

Nodes and tensors are light objects over the protobuf (``nodes``); weights stay where they are until they are asked for.
"""

from .branch import branch_model
from .model import Model, fresh_name, symbol_source
from .nodes import Constant, Dim, Graph, Node, Shape, Tensor, Variable, captured, captured_tensors, outside
from .read import from_proto, parse, read_bytes, read_model
from .shapes import volume
from .write import (
    DATA_SUFFIX,
    File,
    is_exactly,
    is_large,
    pack,
    refreshed,
    reread,
    to_bytes,
    to_proto,
    with_batch,
    with_input,
)

__all__ = [
    "DATA_SUFFIX", "Constant", "Dim", "File", "Graph", "Model", "Node", "Shape", "Tensor", "Variable", "branch_model",
    "captured", "captured_tensors", "fresh_name", "from_proto", "is_exactly", "is_large", "outside", "pack", "parse",
    "read_bytes", "read_model", "refreshed", "reread", "symbol_source", "to_bytes", "to_proto", "volume", "with_batch",
    "with_input",
]  # fmt: skip
