"""What a rewrite may ask about the node's surroundings, and how it makes new tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...graph import Constant, Model, Node, Shape, Tensor, Variable, captured, fresh_name
from ...graph.tensors import Array


class NotExactError(Exception):
    """A node uses what the older opset cannot say; the message completes "it cannot be lowered: ..."."""


class Scope:
    """A model on its way to ``opset``. What is not known of a tensor, as inside a subgraph, is None."""

    def __init__(self, model: Model, opset: int) -> None:
        self.model, self.opset = model, opset
        self._taken = {t.name for node in model.nodes for t in (*node.inputs, *node.outputs)} | model.inputs.keys()
        self._taken |= {name for node in model.nodes for name in captured(node)}

    def kind(self, tensor: Tensor) -> int | None:
        """ONNX element type."""
        return tensor.kind if isinstance(tensor, Constant) else self.model.types.get(tensor.name)

    def shape(self, tensor: Tensor) -> Shape | None:
        """Shape, if the rank is known."""
        return tuple(tensor.shape) if isinstance(tensor, Constant) else self.model.shapes.get(tensor.name)

    def whole(self, tensor: Tensor, what: str) -> list[int]:
        """The values of an initializer of integers. Raises ``NotExactError`` saying that ``what`` is computed."""
        if not isinstance(tensor, Constant):
            raise NotExactError(f"its {what} are computed")
        return [int(value) for value in tensor.values.reshape(-1)]

    def rank(self, tensor: Tensor) -> int:
        """The number of axes. Raises ``NotExactError`` where that is not known."""
        shape = self.shape(tensor)
        if shape is None:
            raise NotExactError("the shape of its input is not known")
        return len(shape)

    def constant(self, base: str, values: Array | Sequence[int]) -> Constant:
        """A new initializer; a list becomes int64."""
        array = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        return Constant(fresh_name(base, self._taken), array)

    def variable(self, base: str) -> Variable:
        """A new tensor."""
        return Variable(fresh_name(base, self._taken))


def given(node: Node, position: int) -> Tensor | None:
    """An input that may be left out."""
    found = node.inputs[position] if position < len(node.inputs) else None
    return found if found is not None and found.name else None


def changed(
    node: Node, *, without: Sequence[str] = (), inputs: Sequence[Tensor] | None = None, **attributes: Any
) -> Node:
    """The node without some attributes, with others, and with other inputs."""
    attrs: Mapping[str, Any] = {k: v for k, v in node.attrs.items() if k not in without} | attributes
    read = node.inputs if inputs is None else inputs
    while read and not read[-1].name:  # optional ones that are left out at the end are not written
        read = read[:-1]
    return Node(node.op, node.name, attrs, read, node.outputs, node.domain, like=node)
