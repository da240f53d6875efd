"""The graph we cut, as light objects over the protobuf.

Names follow onnx-graphsurgeon's object model (``op``, ``attrs``, ``inputs``, ``outputs``, ``values``), which TensorRT
engineers know; but a node costs microseconds, an attribute or a weight is decoded when it is asked for, and one that a
pass does not touch is written as it was read, whatever its type. Passes read one graph and write another: a tensor
does not know who reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, helper

from .external import External
from .tensors import Array, array_stored, as_array, as_proto, stored, stored_bytes

Dim = int | str | None
"""A dimension: a number, a symbol (equal only to itself), or nothing known."""

Shape = tuple[Dim, ...]


class Tensor:
    """Something a node reads or makes; ``name`` is "" for an optional one that is left out."""

    __slots__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


Scope = Callable[[str], Tensor]
"""Finds a tensor by its name."""


class Variable(Tensor):
    """A tensor that is computed or fed; ``kind`` (ONNX element type) and ``shape`` as a graph's face declares them."""

    __slots__ = ("kind", "shape")

    def __init__(self, name: str = "", kind: int | None = None, shape: Sequence[Dim] | None = None) -> None:
        self.name, self.kind, self.shape = name, kind, shape


class Constant(Tensor):
    """An initializer. Its ``values`` are decoded at each call; ``shape`` and ``kind`` are known without."""

    __slots__ = ("_source", "kind", "shape")

    def __init__(self, name: str, values: Array | TensorProto | External) -> None:
        self.name, self._source = name, values
        if isinstance(values, np.ndarray):
            self.shape, self.kind = values.shape, int(helper.np_dtype_to_tensor_dtype(values.dtype))
        elif isinstance(values, External):
            self.shape, self.kind = values.shape, values.kind
        else:
            self.shape, self.kind = tuple(values.dims), int(values.data_type)

    @property
    def values(self) -> Array:
        """The values; of an external one a read-only map of the file, so that a part can be taken without the rest."""
        if isinstance(self._source, np.ndarray):
            return self._source
        return self._source.values() if isinstance(self._source, External) else as_array(self._source)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values in numpy (or ml_dtypes)."""
        found: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(self.kind))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are stored."""
        return stored_bytes(self.kind, self.shape)

    def stored(self) -> bytes | memoryview:
        """The values as they are stored in a file."""
        if isinstance(self._source, np.ndarray):
            return array_stored(self._source, self.kind)
        return self._source.stored() if isinstance(self._source, External) else stored(self._source)

    def copy(self, name: str | None = None) -> Constant:
        """The same initializer as an object of its own, under ``name`` if one is given."""
        return Constant(self.name if name is None else name, self._source)

    def to_proto(self) -> TensorProto:
        """The initializer with its values inside."""
        if isinstance(self._source, TensorProto):
            proto = TensorProto()
            proto.CopyFrom(self._source)
            proto.name = self.name
            return proto
        return as_proto(self.values, self.name)


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, and the tensors at both ends; ``local`` are the initializers of a subgraph."""

    nodes: Sequence[Node]
    inputs: Sequence[Variable]
    outputs: Sequence[Tensor]
    name: str = "graph"
    opsets: Mapping[str, int] = field(default_factory=dict)
    local: Mapping[str, Constant] = field(default_factory=dict)


class Node:
    """An operator at work.

    ``attrs`` holds numbers, strings, lists of them, ``Constant`` for a tensor and ``Graph`` for a subgraph. ``like`` is
    a node whose metadata this one takes over, and with it the protobuf of every attribute that is still the same.
    """

    __slots__ = ("_attrs", "_read", "domain", "inputs", "metadata", "name", "op", "outputs")

    def __init__(
        self,
        op: str,
        name: str = "",
        attrs: Mapping[str, Any] | None = None,
        inputs: Iterable[Tensor] = (),
        outputs: Iterable[Tensor] = (),
        domain: str = "",
        like: Node | None = None,
    ) -> None:
        self.op, self.name, self.domain = op, name, domain
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.metadata: Mapping[str, str] = {} if like is None else like.metadata
        self._read: Attributes | None = None if like is None else like._read
        self._attrs: Mapping[str, Any] | None = attrs or {}

    @classmethod
    def read(cls, proto: NodeProto, tensors: Scope) -> Node:
        """A node of a graph whose ``tensors`` are found by name."""
        inputs, outputs = map(tensors, proto.input[:]), map(tensors, proto.output[:])
        node = cls(proto.op_type, proto.name, None, inputs, outputs, proto.domain)
        if proto.metadata_props:
            node.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        attributes = proto.attribute[:]
        if attributes:
            node._read, node._attrs = Attributes(attributes, tensors), None
        return node

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The attributes, decoded when they are first asked for."""
        if self._attrs is None:
            self._attrs = {} if self._read is None else self._read.values
        return self._attrs

    @property
    def has_graphs(self) -> bool:
        """Whether an attribute is a subgraph."""
        if self._attrs is None and self._read is not None:
            return self._read.graphs
        return bool(self._attrs) and any(isinstance(value, Graph) for value in self.attrs.values())

    def write(self) -> NodeProto:
        """The node's protobuf."""
        proto = NodeProto(op_type=self.op, name=self.name or None, domain=self.domain or None)
        proto.input.extend([tensor.name for tensor in self.inputs])
        proto.output.extend([tensor.name for tensor in self.outputs])
        if self._attrs is None and self._read is not None:
            proto.attribute.extend(self._read.protos)
        else:
            proto.attribute.extend(self._attribute(name, value) for name, value in sorted(self.attrs.items()))
        for key, value in sorted(self.metadata.items()):
            proto.metadata_props.add(key=key, value=value)
        return proto

    def _attribute(self, name: str, value: Any) -> AttributeProto:
        same = None if self._read is None else self._read.unchanged(name, value)
        return same or write_attribute(name, value)

    def __repr__(self) -> str:
        return f"Node({self.op!r}, {self.name!r})"


class Attributes:
    """The attributes of a node as they were read."""

    __slots__ = ("_tensors", "_values", "graphs", "protos")

    def __init__(self, protos: Iterable[AttributeProto], tensors: Scope) -> None:
        self.protos = sorted(protos, key=lambda proto: proto.name)
        self.graphs = AttributeProto.GRAPH in [proto.type for proto in self.protos]
        self._tensors = tensors
        self._values: dict[str, Any] | None = None

    @property
    def values(self) -> Mapping[str, Any]:
        """All of them, decoded."""
        if self._values is None:
            self._values = {proto.name: _decode(proto, self._tensors) for proto in self.protos}
        return self._values

    def unchanged(self, name: str, value: Any) -> AttributeProto | None:
        """The protobuf of attribute ``name`` if ``value`` is the very object that was read from it."""
        if self.values.get(name, _ABSENT) is not value:
            return None
        return next(proto for proto in self.protos if proto.name == name)


_ABSENT = object()


def _decode(proto: AttributeProto, tensors: Scope) -> Any:
    if proto.type == AttributeProto.TENSOR:
        return Constant(proto.t.name, proto.t)
    if proto.type == AttributeProto.GRAPH:
        return read_graph(proto.g, tensors)
    value = helper.get_attribute_value(proto)
    if proto.type == AttributeProto.STRING:
        return value.decode("utf-8", "surrogateescape")
    if proto.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "surrogateescape") for item in value]
    return list(value) if proto.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def write_attribute(name: str, value: Any) -> AttributeProto:
    """An attribute's protobuf."""
    if isinstance(value, Constant):
        value = value.to_proto()
    elif isinstance(value, Graph):
        value = write_graph(value)
    empty = AttributeProto.INTS if isinstance(value, list) and not value else None  # in ONNX, all lists that may be
    return helper.make_attribute(name, value, attr_type=empty)


def read_graph(proto: GraphProto, outer: Scope) -> Graph:
    """A subgraph: what it does not make itself is found in the graph around it."""
    local = {tensor.name: Constant(tensor.name, tensor) for tensor in proto.initializer}
    tensors: dict[str, Tensor] = dict(local)
    made = {name for node in proto.node for name in node.output}
    inputs = [variable(value) for value in proto.input]
    tensors.update((tensor.name, tensor) for tensor in inputs)

    def scope(name: str) -> Tensor:
        if name not in tensors:
            tensors[name] = Variable(name) if name in made or not name else outer(name)
        return tensors[name]

    nodes = [Node.read(node, scope) for node in proto.node]
    outputs = []
    for value in proto.output:
        tensor = scope(value.name)
        if isinstance(tensor, Variable) and tensor.kind is None:
            tensor.kind, tensor.shape = value_type(value)
        outputs.append(tensor)
    return Graph(nodes, inputs, outputs, proto.name, local=local)


def write_graph(graph: Graph) -> GraphProto:
    """The protobuf of a graph without the initializers it does not own."""
    proto = GraphProto(name=graph.name)
    proto.node.extend(node.write() for node in graph.nodes)
    proto.initializer.extend(constant.to_proto() for constant in graph.local.values())
    proto.input.extend(value_info(tensor) for tensor in graph.inputs)
    proto.output.extend(value_info(tensor) for tensor in graph.outputs)
    return proto


def variable(value: ValueInfoProto) -> Variable:
    """A tensor of a graph's face."""
    return Variable(value.name, *value_type(value))


def value_type(value: ValueInfoProto) -> tuple[int | None, list[Dim] | None]:
    """Element type and shape as far as they are declared."""
    declared = value.type.tensor_type
    shape = [read_dim(dim) for dim in declared.shape.dim] if declared.HasField("shape") else None
    return declared.elem_type or None, shape


def read_dim(dim: TensorShapeProto.Dimension) -> Dim:
    """A dimension: its number, its symbol, or None."""
    size = dim.dim_value
    if size or dim.HasField("dim_value"):
        return int(size)
    return str(dim.dim_param) or None


def value_info(tensor: Tensor) -> ValueInfoProto:
    """What a graph's face says about a tensor."""
    kind, shape = (tensor.kind, tensor.shape) if isinstance(tensor, (Variable, Constant)) else (None, None)
    if kind is None:
        return ValueInfoProto(name=tensor.name)
    return helper.make_tensor_value_info(tensor.name, kind, shape)


def captured(node: Node) -> list[str]:
    """Names of the tensors that a control-flow node's subgraphs read from outside, each once."""
    return list(dict.fromkeys(tensor.name for tensor in captured_tensors(node))) if node.has_graphs else []


def captured_tensors(node: Node) -> Iterable[Tensor]:
    """The tensors that a control-flow node's subgraphs read from outside."""
    for graph in reversed(subgraphs(node)):
        yield from outside(graph)


def outside(branch: Graph) -> Iterable[Tensor]:
    """The tensors that a subgraph, or one inside it, reads from the graph around it."""
    stack: list[tuple[Graph, frozenset[str]]] = [(branch, frozenset())]
    while stack:
        graph, outer = stack.pop()
        local = outer | {t.name for t in graph.inputs} | graph.local.keys()
        local |= {t.name for inner in graph.nodes for t in inner.outputs}
        for inner in graph.nodes:
            yield from (t for t in inner.inputs if t.name and t.name not in local)
            stack += [(found, local) for found in subgraphs(inner)]
        yield from (t for t in graph.outputs if t.name not in local)


def subgraphs(node: Node) -> list[Graph]:
    """The graphs in a node's attributes."""
    return [value for value in node.attrs.values() if isinstance(value, Graph)]
