"""A stranger's graphs, the fields that everybody asks for read once: with protobuf, reading is what takes the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import onnx


class GivenTensor(NamedTuple):
    """A tensor with values, which are ``outside`` the protobuf or in it."""

    proto: onnx.TensorProto
    name: str
    kind: int
    shape: tuple[int, ...]
    outside: bool

    @classmethod
    def read(cls, proto: onnx.TensorProto) -> GivenTensor:
        """Read the protobuf."""
        outside = proto.data_location == onnx.TensorProto.EXTERNAL or len(proto.external_data) > 0
        return cls(proto, proto.name, proto.data_type, tuple(proto.dims), outside)


class GivenNode(NamedTuple):
    """A node, with the names of its tensors and the graphs among its attributes."""

    proto: onnx.NodeProto
    name: str
    op: str
    domain: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Sequence[onnx.AttributeProto]
    graphs: Sequence[onnx.GraphProto]

    @classmethod
    def read(cls, proto: onnx.NodeProto) -> GivenNode:
        """Read the protobuf."""
        attributes = proto.attribute[:]
        graphs = [attribute.g for attribute in attributes if attribute.HasField("g")]
        names = proto.input[:], proto.output[:]
        return cls(proto, proto.name, proto.op_type, proto.domain, *names, attributes, graphs)

    @property
    def reads(self) -> Iterable[str]:
        """Names of the tensors it reads from the graph it stands in, those captured by its subgraphs included."""
        return (*self.inputs, *_captured(self.graphs)) if self.graphs else self.inputs


class Scope(NamedTuple):
    """A graph, the main one or one inside a node."""

    graph: onnx.GraphProto
    tensors: Sequence[GivenTensor]
    nodes: Sequence[GivenNode]


def read_scopes(main: onnx.GraphProto) -> list[Scope]:
    """The graph, first, and every graph inside its nodes."""
    found, stack = [], [main]
    while stack:
        graph = stack.pop()
        nodes = [GivenNode.read(node) for node in graph.node]
        found.append(Scope(graph, [GivenTensor.read(tensor) for tensor in graph.initializer], nodes))
        stack += [inner for node in nodes for inner in node.graphs]
    return found


def graphs_in(main: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes."""
    stack = [main]
    while stack:
        found = stack.pop()
        yield found
        stack += [attribute.g for node in found.node for attribute in node.attribute if attribute.HasField("g")]


def _captured(graphs: Iterable[onnx.GraphProto]) -> Iterator[str]:
    """Names of the tensors that a node's subgraphs read from outside."""
    stack = [(graph, frozenset[str]()) for graph in graphs]
    while stack:
        graph, outer = stack.pop()
        local = outer | {t.name for t in graph.initializer} | {v.name for v in graph.input}
        local |= {tensor for inner in graph.node for tensor in inner.output}
        for inner in graph.node:
            yield from (tensor for tensor in inner.input if tensor and tensor not in local)
            stack += [(attribute.g, local) for attribute in inner.attribute if attribute.HasField("g")]
        yield from (value.name for value in graph.output if value.name not in local)
