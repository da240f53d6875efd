"""Reading a model somebody handed us: every assumption the passes make is checked here, once.

Nothing is executed. What cannot be read is refused with ``ModelError`` and a sentence a person can act on.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from ..errors import ModelError
from ..text import clean_text, shown
from .check import check, check_functions, check_sizes
from .model import Model
from .shapes import infer_shapes, skeleton
from .sizes import fold_sizes

MAX_BYTES = 2**31 - 1  # protobuf's own limit
OLDEST_IR = 4  # from here on initializers need not be inputs too; what we write has them as initializers only

logging.getLogger("onnx_graphsurgeon").setLevel(logging.ERROR)
gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR


def read_model(source: str | Path | bytes) -> Model:
    """Read an ONNX model from a file or from bytes.

    Raises ``ModelError`` if it is missing, not ONNX, inconsistent, or uses what cannot be cut exactly (random
    operators, training mode).
    """
    name = "The model" if isinstance(source, bytes) else shown(source)
    return from_proto(parse(source if isinstance(source, bytes) else read_bytes(source), name), name)


def parse(data: bytes, name: str = "The model") -> onnx.ModelProto:
    """Read the protobuf and check that it is a model at all; weights are not looked at."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{name} is not an ONNX file.", "Give the .onnx file that the full model was exported to."
        ) from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError(f"{name} holds no graph.", "Give the .onnx file that the full model was exported to.")
    return proto


def from_proto(proto: onnx.ModelProto, name: str = "The model") -> Model:
    """Turn a parsed protobuf into a ``Model``, checked, functions inlined, constants lifted, shapes inferred."""
    try:
        return _convert(proto, name)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:  # ValueError: names that are not UTF-8
        reason = clean_text(str(error).strip().partition("\n")[0])[:200].rstrip(".")
        raise ModelError(f"{name} is not a valid ONNX model: {reason}.", "Export the model again.") from error


def _convert(proto: onnx.ModelProto, name: str) -> Model:
    _standard_domain(proto)
    if proto.functions:
        check_functions(proto, name)
        proto = onnx.inliner.inline_local_functions(proto)
        _standard_domain(proto)
    check(proto, name)
    onnx.checker.check_model(skeleton(proto))
    _lift_constants(proto.graph)
    _forget_prose(proto.graph)
    shapes, types = infer_shapes(proto)
    check_sizes(shapes, name)
    fold_sizes(proto.graph, shapes, types)
    return Model(
        gs.import_onnx(proto),
        shapes,
        types,
        max(OLDEST_IR, proto.ir_version),
        {prop.key: prop.value for prop in proto.metadata_props},
        {
            at: {prop.key: prop.value for prop in node.metadata_props}
            for at, node in enumerate(proto.graph.node)
            if node.metadata_props
        },
        (proto.producer_name, proto.producer_version),
    )


def read_bytes(path: str | Path) -> bytes:
    """The bytes of an ONNX file. Raises ``ModelError`` if it is not a file, empty or larger than 2 GiB."""
    path = Path(path)
    try:
        if path.is_dir():
            raise ModelError(f"{shown(path)} is a folder, not an ONNX file.", "Give the .onnx file itself.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{shown(path)} is larger than the 2 GiB that an ONNX file may have.", "Use external data."
            )
        if size == 0:
            raise ModelError(f"{shown(path)} is empty.", "Export the model again.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"The model {shown(path)} cannot be read ({reason}).", "Check the path.") from error


def _forget_prose(graph: onnx.GraphProto) -> None:
    """Drop the free text of the graph and its weights: exporters leave paths of their machine there."""
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")


def _standard_domain(proto: onnx.ModelProto) -> None:
    """``ai.onnx`` is another way to write the standard domain ""; everything else here compares with ""."""
    for opset in proto.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    stack = [proto.graph, *proto.functions]
    while stack:
        for node in stack.pop().node:
            if node.domain == "ai.onnx":
                node.domain = ""
            stack += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn ``Constant`` nodes into initializers: one exporter writes them as nodes, and rules look for initializers."""
    kept = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain:
            kept.append(node)
            continue
        tensor = _constant_value(node)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto:
    attribute = node.attribute[0] if len(node.attribute) == 1 else None
    if attribute is not None and attribute.name == "value":
        return attribute.t
    if attribute is not None and attribute.name in ("value_int", "value_ints"):
        value = attribute.i if attribute.name == "value_int" else list(attribute.ints)
        return onnx.numpy_helper.from_array(np.array(value, dtype=np.int64))
    if attribute is not None and attribute.name in ("value_float", "value_floats"):
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return onnx.numpy_helper.from_array(np.array(value, dtype=np.float32))
    raise ModelError(
        f"The constant {shown(node.output[0])} is of a kind that is not supported.", "Export the model again."
    )
