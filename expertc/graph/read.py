"""Reading a model somebody handed us: every assumption the passes make is checked here, once.

Nothing is executed. What cannot be read is refused with ``ModelError`` and a sentence a person can act on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from ..errors import ModelError
from ..text import clean_text, shown
from .check import check, check_functions, check_sizes
from .external import Files
from .model import Model
from .nodes import Constant, Graph, Node, Shape, Tensor, Variable, variable
from .scopes import GivenTensor, Scope, read_scopes
from .shapes import infer_shapes, is_telling, skeleton
from .sizes import fold_sizes

MAX_BYTES = 2**31 - 1  # protobuf's own limit
ROUNDS = 8  # of folding sizes and inferring shapes: a number that is known may fix the size of another tensor
OLDEST_IR = 4  # from here on initializers need not be inputs too; what we write has them as initializers only


def read_model(source: str | Path | bytes) -> Model:
    """Read an ONNX model from a file or from bytes.

    Raises ``ModelError`` if it is missing, not ONNX, inconsistent, or uses what cannot be cut exactly (random
    operators, training mode).
    """
    if isinstance(source, bytes):
        return from_proto(parse(source))
    return from_proto(parse(read_bytes(source), shown(source)), shown(source), Path(source).parent)


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


def from_proto(proto: onnx.ModelProto, name: str = "The model", folder: Path | None = None) -> Model:
    """Turn a parsed protobuf into a ``Model``, checked, functions inlined, constants lifted, shapes inferred.

    Weights that it keeps in files are looked for in ``folder``; none are read.
    """
    try:
        return _convert(proto, name, folder)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:  # ValueError: names that are not UTF-8
        reason = clean_text(str(error).strip().partition("\n")[0])[:200].rstrip(".")
        raise ModelError(f"{name} is not a valid ONNX model: {reason}.", "Export the model again.") from error


def _convert(proto: onnx.ModelProto, name: str, folder: Path | None) -> Model:
    _standard_domain(proto)
    if proto.functions:
        check_functions(proto, name)
        proto = onnx.inliner.inline_local_functions(proto)
        _standard_domain(proto)
    files = Files(folder)
    constants = _checked(proto, files, name)
    bare = skeleton(proto, constants)
    onnx.checker.check_model(bare)
    return assemble(proto, constants, name, files.sizes, bare)


def _checked(proto: onnx.ModelProto, files: Files, name: str) -> dict[str, Constant]:
    """The initializers of a graph that nothing is wrong with; what was read for that is given back at the end."""
    scopes = read_scopes(proto.graph)
    check(proto, scopes, name)
    _forget_prose(scopes)
    constants = {given.name: _constant(given, files, name) for given in scopes[0].tensors}
    return constants | {tensor.name: Constant(tensor.name, tensor) for tensor in _lift_constants(proto.graph)}


def _constant(given: GivenTensor, files: Files, name: str) -> Constant:
    """An initializer where it lies; one that shapes may depend on is taken into the protobuf."""
    tensor = given.proto
    if not given.outside:
        return Constant(given.name, tensor)
    found = files.find(given, name)
    if not is_telling(given.kind, prod(given.shape)):
        return Constant(given.name, found)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(found.stored())
    return Constant(given.name, tensor)


def assemble(
    proto: onnx.ModelProto,
    constants: Mapping[str, Constant],
    name: str,
    files: Mapping[str, int],
    bare: onnx.ModelProto | None = None,
) -> Model:
    """The model of a checked protobuf with ``constants`` for its initializers; sizes are folded, shapes inferred."""
    shapes, types = infer_shapes(proto, constants, bare=bare)
    check_sizes(shapes, name)
    learned: dict[str, Shape] = {}
    for _ in range(ROUNDS):
        if not fold_sizes(proto.graph, shapes, types, learned):
            break
        folded = {t.name: Constant(t.name, t) for t in proto.graph.initializer if t.name not in constants}
        constants = {**constants, **folded}
        shapes, types = infer_shapes(proto, constants, learned)
        check_sizes(shapes, name)
    return Model(
        _graph(proto, constants),
        shapes,
        types,
        max(OLDEST_IR, proto.ir_version),
        {prop.key: prop.value for prop in proto.metadata_props},
        (proto.producer_name, proto.producer_version),
        files,
    )


class _Tensors(dict[str, Tensor]):
    """The tensors of a graph by name; whatever else a node names is computed, or left out if its name is empty."""

    def __missing__(self, name: str) -> Variable:
        found = Variable(name)
        if name:
            self[name] = found
        return found


def _graph(proto: onnx.ModelProto, constants: Mapping[str, Constant]) -> Graph:
    inputs = [variable(value) for value in proto.graph.input if value.name not in constants]
    find = _Tensors({**constants, **{tensor.name: tensor for tensor in inputs}}).__getitem__
    nodes = [Node.read(node, find) for node in proto.graph.node]
    outputs = []
    for value in proto.graph.output:
        declared, tensor = variable(value), find(value.name)
        if isinstance(tensor, Variable):
            tensor.kind, tensor.shape = declared.kind, declared.shape
        outputs.append(tensor)
    return Graph(nodes, inputs, outputs, proto.graph.name, {o.domain: o.version for o in proto.opset_import})


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


def _forget_prose(scopes: Iterable[Scope]) -> None:
    """Drop the free text of graphs, nodes and weights: exporters leave paths of their machine there."""
    for scope in scopes:
        attributes = [attribute for node in scope.nodes for attribute in node.attributes]
        for part in (*(node.proto for node in scope.nodes), *attributes):
            part.ClearField("doc_string")
        weights = [*(given.proto for given in scope.tensors), *(a.t for a in attributes if a.HasField("t"))]
        for part in (scope.graph, *weights):
            part.ClearField("doc_string")
            part.ClearField("metadata_props")


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
            stack += [attribute.g for attribute in node.attribute[:] if attribute.HasField("g")]


def _lift_constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Turn ``Constant`` nodes into initializers: one exporter writes them as nodes, and rules look for initializers.

    Returns the new ones.
    """
    kept, already = [], len(graph.initializer)
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
    return list(graph.initializer[already:])


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
