"""Where a rule stands: the model, what has been written so far, and names for what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from onnx import TensorProto

from ...graph import Constant, Model, Node, Shape, Tensor, Variable, captured, fresh_name
from ...graph.tensors import Array

STANDARD = (None, "", "ai.onnx")


class Place:
    """``model`` as it was; ``nodes[i]`` is what stands for its i-th node, ``gone`` what nobody reads any more."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes: dict[int, list[Node]] = {at: [node] for at, node in enumerate(model.nodes)}
        self.gone: set[Node] = set()
        self._fixed = {tensor.name for tensor in model.graph.outputs}
        self._fixed |= {name for node in model.nodes if node.has_graphs for name in captured(node)}

    @property
    def unchanged(self) -> bool:
        """Whether no rule has written anything."""
        return all(nodes == [self.model.nodes[at]] for at, nodes in self.nodes.items())

    @cached_property
    def _taken(self) -> set[str]:
        found = {t.name for node in self.model.nodes for t in (*node.inputs, *node.outputs)}
        return found | self.model.inputs.keys() | self._fixed

    def is_single(self, tensor: Tensor) -> bool:
        """Whether a tensor holds float32."""
        kind = tensor.kind if isinstance(tensor, Constant) else self.model.types.get(tensor.name)
        return bool(kind == TensorProto.FLOAT)

    def shape(self, tensor: Tensor) -> Shape | None:
        """A tensor's shape if its rank is known."""
        return tuple(tensor.shape) if isinstance(tensor, Constant) else self.model.shapes.get(tensor.name)

    def sole_maker(self, tensor: Tensor) -> Node | None:
        """The node that makes a tensor which only one node, and nobody outside, reads."""
        at = self.model.producers.get(tensor.name)
        if at is None or tensor.name in self._fixed or len(self.model.consumers.get(tensor.name, ())) != 1:
            return None
        return self.model.nodes[at]

    def constant(self, like: Node, what: str, values: Array) -> Constant:
        """A new initializer for what stands in the place of ``like``."""
        return Constant(fresh_name(f"{like.outputs[0].name}.{what}", self._taken), values)

    def emit(
        self, like: Node, op: str, what: str, inputs: list[Tensor], attrs: Mapping[str, Any] | None = None
    ) -> Node:
        """A new node of one output."""
        name = fresh_name(f"{like.outputs[0].name}.{what}", self._taken)
        return Node(op, name, attrs, inputs, [Variable(name)])


def last(like: Node, made: Node) -> Node:
    """``made`` as the node that makes what ``like`` has made."""
    return Node(made.op, like.name, made.attrs, made.inputs, like.outputs[:1], made.domain, like=like)
