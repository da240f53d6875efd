"""Reading a model somebody handed us: every assumption the passes make is checked here, once.

Nothing is executed. What cannot be read is refused with ``ModelError`` and a sentence a person can act on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from ..errors import ModelError
from ..taxonomy import clean_text
from .model import Model
from .shapes import infer_shapes

MAX_BYTES = 2**31 - 1  # protobuf's own limit

# graphsurgeon would skip other kinds with a warning and so change the model.
_KNOWN_ATTRIBUTES = {
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.INT,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.TENSOR,
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.STRINGS,
}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}

logging.getLogger("onnx_graphsurgeon").setLevel(logging.ERROR)
gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR


def read_model(source: str | Path | bytes) -> Model:
    """Read an ONNX model from a file or from bytes.

    Raises ``ModelError`` if it is missing, not ONNX, inconsistent, or uses what cannot be cut exactly (random
    operators, training mode).
    """
    name = "the model" if isinstance(source, bytes) else f"'{clean_text(str(source))}'"
    return from_proto(parse(source), name)


def parse(source: str | Path | bytes) -> onnx.ModelProto:
    """Read the protobuf and check that it is a model at all; weights are not looked at."""
    name = "The model" if isinstance(source, bytes) else f"'{clean_text(str(source))}'"
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(source if isinstance(source, bytes) else _read_file(Path(source)))
    except DecodeError as error:
        raise ModelError(f"{name} is not an ONNX file.", "Give the .onnx file that the full model was exported to.") from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError(f"{name} holds no graph.", "Give the .onnx file that the full model was exported to.")
    return proto


def from_proto(proto: onnx.ModelProto, name: str = "the model") -> Model:
    """Turn a parsed protobuf into a ``Model``, checked, functions inlined, constants lifted, shapes inferred."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    _check(proto, name)
    _lift_constants(proto.graph)
    shapes, types = infer_shapes(proto)
    graph = gs.import_onnx(proto)
    return Model(
        graph,
        shapes,
        types,
        proto.ir_version,
        {prop.key: prop.value for prop in proto.metadata_props},
        {
            at: {prop.key: prop.value for prop in node.metadata_props}
            for at, node in enumerate(proto.graph.node)
            if node.metadata_props
        },
        (proto.producer_name, proto.producer_version),
    )


def _read_file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"'{path}' is a folder, not an ONNX file.", "Give the .onnx file itself.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"'{path}' is larger than the 2 GiB that an ONNX file may have.", "Use external data.")
        if size == 0:
            raise ModelError(f"'{path}' is empty.", "Export the model again.")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"The model '{path}' cannot be read ({error.strerror}).", "Check the path.") from error


def _check(proto: onnx.ModelProto, name: str) -> None:
    graph = proto.graph
    if not graph.output:
        raise ModelError(f"{name} has no outputs.", "Export the model with its scores as an output.")
    if not any(opset.domain in ("", "ai.onnx") for opset in proto.opset_import):
        raise ModelError(f"{name} does not say which ONNX operator set it uses.", "Export the model again.")
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"{name} keeps weights in another file ('{clean_text(tensor.name)}').",
                "Save it as one file: onnx.save(model, path, save_as_external_data=False).",
            )
    if graph.sparse_initializer:
        raise ModelError(f"{name} has sparse weights, which are not supported.", "Export it with dense weights.")
    made = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    _check_order(graph.node, made, name)
    for value in graph.output:
        if value.name not in made:
            raise ModelError(f"{name} declares the output '{clean_text(value.name)}' that no node makes.", "Export it again.")


def _check_order(nodes: Sequence[onnx.NodeProto], made: set[str], name: str) -> None:
    """Check that every tensor is made once, before it is read; adds what the nodes make to ``made``."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type not in _KNOWN_ATTRIBUTES:
                raise ModelError(f"{name}: '{_where(node)}' has an attribute of an unknown kind.", "Update onnx.")
            if attribute.name == "training_mode" and attribute.i:
                raise ModelError(f"{name} was exported in training mode ('{_where(node)}').", "Export it after model.eval().")
        if node.op_type in _RANDOM and node.domain in ("", "ai.onnx"):
            raise ModelError(f"{name} draws random numbers ('{_where(node)}').", "Export it after model.eval().")
        for tensor in _reads(node):
            if tensor not in made:
                raise ModelError(
                    f"{name}: '{_where(node)}' reads '{clean_text(tensor)}' before anything makes it.",
                    "The graph has a cycle, a gap, or its nodes are out of order: export it again.",
                )
        for tensor in node.output:
            if tensor and tensor in made:
                raise ModelError(f"{name} makes the tensor '{clean_text(tensor)}' twice.", "Export it again.")
            made.add(tensor)


def _where(node: onnx.NodeProto) -> str:
    return clean_text(node.name or node.op_type)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """Names of the tensors a node reads from the graph it stands in, those captured by its subgraphs included."""
    yield from (tensor for tensor in node.input if tensor)
    stack = [(attribute.g, frozenset[str]()) for attribute in node.attribute if attribute.HasField("g")]
    while stack:
        graph, outer = stack.pop()
        local = outer | {t.name for t in graph.initializer} | {v.name for v in graph.input}
        local |= {tensor for inner in graph.node for tensor in inner.output}
        for inner in graph.node:
            yield from (tensor for tensor in inner.input if tensor and tensor not in local)
            stack += [(attribute.g, local) for attribute in inner.attribute if attribute.HasField("g")]
        yield from (value.name for value in graph.output if value.name not in local)


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn ``Constant`` nodes into initializers: one exporter writes them as nodes, and rules look for initializers."""
    kept = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
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
        f"The constant '{clean_text(node.output[0])}' is of a kind that is not supported.", "Export the model again."
    )
