"""Where a rule stands: the model, what has been written so far, and names for what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto

from ...graph import Constant, Model, Node, Shape, Tensor, Variable, fresh_name
from ...graph.tensors import Array
from ..folding.draft import STANDARD, Draft

__all__ = ["STANDARD", "Place", "last"]


class Place:
    """``model`` as it was; ``nodes[i]`` is what stands for its i-th node, ``gone`` what nobody reads any more."""

    def __init__(self, model: Model) -> None:
        self.model, self._draft = model, Draft(model)
        self.nodes: dict[int, list[Node]] = {at: [node] for at, node in enumerate(model.nodes)}
        self.gone: set[Node] = set()

    @property
    def unchanged(self) -> bool:
        """Whether no rule has written anything."""
        return all(nodes == [self.model.nodes[at]] for at, nodes in self.nodes.items())

    def is_single(self, tensor: Tensor) -> bool:
        """Whether a tensor holds float32."""
        return bool(self._draft.kind(tensor) == TensorProto.FLOAT)

    def shape(self, tensor: Tensor) -> Shape | None:
        """A tensor's shape if its rank is known."""
        return self._draft.shape(tensor)

    def sole_maker(self, tensor: Tensor) -> Node | None:
        """The node that makes a tensor which only one node, and nobody outside, reads."""
        at = self._draft.sole_maker(tensor)
        return None if at is None else self.model.nodes[at]

    def constant(self, like: Node, what: str, values: Array) -> Constant:
        """A new initializer for what stands in the place of ``like``."""
        return self._draft.constant(f"{like.outputs[0].name}.{what}", values)

    def emit(
        self, like: Node, op: str, what: str, inputs: list[Tensor], attrs: Mapping[str, Any] | None = None
    ) -> Node:
        """A new node of one output."""
        name = fresh_name(f"{like.outputs[0].name}.{what}", self._draft.taken)
        return Node(op, name, attrs, inputs, [Variable(name)])


def last(like: Node, made: Node) -> Node:
    """``made`` as the node that makes what ``like`` has made."""
    return Node(made.op, like.name, made.attrs, made.inputs, like.outputs[:1], made.domain, like=like)
