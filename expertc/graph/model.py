"""The graph we cut: an onnx-graphsurgeon graph, and beside it what graphsurgeon would drop.

graphsurgeon 0.6 loses the metadata of the model and its nodes and skips attribute kinds it does not know; it also
defines equality of nodes by structure, which makes removal quadratic. So a graph is never edited in place here: the
passes read one and write a new one, node by node, and everything that must survive travels in ``Model``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

Dim = int | str | None
"""A dimension: a number, a symbol (equal only to itself), or nothing known."""

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Model:
    """A graph with its metadata; nodes are in topological order.

    ``shapes`` and ``types`` (ONNX element types) hold every tensor of which they are known.
    """

    graph: gs.Graph
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]
    ir_version: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    node_metadata: Mapping[int, Mapping[str, str]] = field(default_factory=dict)  # by position in graph.nodes
    producer: tuple[str, str] = ("", "")

    @property
    def nodes(self) -> Sequence[gs.Node]:
        """The nodes in topological order."""
        return self.graph.nodes  # type: ignore[no-any-return]

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set."""
        return int(self.graph.opset)

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the graph inputs by name; reading has made sure that they are known."""
        return {tensor.name: self.shapes[tensor.name] for tensor in self.graph.inputs}

    @property
    def outputs(self) -> dict[str, Shape]:
        """Shapes of the graph outputs by name, () for one of which nothing is known."""
        return {tensor.name: self.shapes.get(tensor.name, ()) for tensor in self.graph.outputs}

    @cached_property
    def producers(self) -> dict[str, int]:
        """Position of the node that makes each tensor."""
        return {tensor.name: at for at, node in enumerate(self.nodes) for tensor in node.outputs if tensor.name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Positions of the nodes that read each tensor, ascending."""
        found: dict[str, list[int]] = {}
        for at, node in enumerate(self.nodes):
            for name in dict.fromkeys(tensor.name for tensor in node.inputs if tensor.name):
                found.setdefault(name, []).append(at)
        return found

    @cached_property
    def constants(self) -> dict[str, gs.Constant]:
        """Every initializer that a node or an output reads, by name."""
        read = [tensor for node in self.nodes for tensor in node.inputs] + list(self.graph.outputs)
        return {tensor.name: tensor for tensor in read if isinstance(tensor, gs.Constant)}

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """The values of an initializer, loaded now; None if ``name`` is not one."""
        found = self.constants.get(name)
        return None if found is None else np.asarray(found.values)

    def with_metadata(self, metadata: Mapping[str, str]) -> Model:
        """The same model with other metadata."""
        return replace(self, metadata=dict(metadata))


def fresh_name(base: str, taken: set[str]) -> str:
    """``base``, or the first ``base.N`` that is not taken; the result is added to ``taken``."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}.{number}", number + 1
    taken.add(name)
    return name


def captured(node: gs.Node) -> list[str]:
    """Names of the tensors that a control-flow node's subgraphs read from outside, each once."""
    found: dict[str, None] = {}
    stack: list[tuple[gs.Graph, frozenset[str]]] = [
        (value, frozenset()) for value in node.attrs.values() if isinstance(value, gs.Graph)
    ]
    while stack:
        graph, outer = stack.pop()
        local = outer | {t.name for t in graph.inputs} | {t.name for inner in graph.nodes for t in inner.outputs}
        for inner in graph.nodes:
            found.update((t.name, None) for t in inner.inputs if t.name and t.name not in local)
            stack += [(value, local) for value in inner.attrs.values() if isinstance(value, gs.Graph)]
        found.update((t.name, None) for t in graph.outputs if t.name not in local)
    return list(found)


def constant_copy(constant: gs.Constant) -> gs.Constant:
    """The same initializer as a new object: a tensor knows its consumers, and the old graph is not to be touched."""
    # The values stay lazy: those of an untouched weight are copied by protobuf, never read here.
    return gs.Constant(constant.name, constant._values, constant.data_location)
