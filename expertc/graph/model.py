"""The model we cut: a graph, the shapes of its tensors, and its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .nodes import Constant, Dim, Graph, Node, Shape, captured_tensors


@dataclass(frozen=True)
class Model:
    """A graph with its metadata; nodes are in topological order.

    ``shapes`` and ``types`` (ONNX element types) hold every tensor of which they are known. ``files`` are the sizes of
    the files, by location, that hold weights.
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]
    ir_version: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    producer: tuple[str, str] = ("", "")
    files: Mapping[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes in topological order."""
        return self.graph.nodes

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set."""
        return self.graph.opsets[""]

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
            for name in dict.fromkeys([tensor.name for tensor in node.inputs]):
                if name:
                    found.setdefault(name, []).append(at)
        return found

    @cached_property
    def constants(self) -> dict[str, Constant]:
        """Every initializer that a node (or a subgraph of one) or an output reads, by name."""
        found: dict[str, Constant] = {}
        for node in self.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, Constant):
                    found[tensor.name] = tensor
            if node.has_graphs:
                found.update((t.name, t) for t in captured_tensors(node) if isinstance(t, Constant))
        found.update((t.name, t) for t in self.graph.outputs if isinstance(t, Constant))
        return found

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """The values of an initializer, loaded now; None if ``name`` is not one."""
        found = self.constants.get(name)
        return None if found is None else found.values

    def with_metadata(self, metadata: Mapping[str, str]) -> Model:
        """The same model with other metadata."""
        return replace(self, metadata=dict(metadata))


def symbol_source(model: Model, symbol: Dim) -> tuple[str, int] | None:
    """The graph input, and the axis of it, that has a symbolic size: where it can be read at run time."""
    for name, shape in model.inputs.items():
        if isinstance(symbol, str) and symbol in shape:
            return name, shape.index(symbol)
    return None


def fresh_name(base: str, taken: set[str]) -> str:
    """``base``, or the first ``base.N`` that is not taken; the result is added to ``taken``."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}.{number}", number + 1
    taken.add(name)
    return name
