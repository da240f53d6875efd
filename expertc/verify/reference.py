"""What an expert is compared with: the full model, or the part of it that the expert has with NaN for all the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from ..graph import Constant, Dim, Graph, Model, Node, Tensor, Variable, captured
from .structure import MOVERS
from .zeros import Unread


@dataclass(frozen=True)
class Reference:
    """A model to compare with, and how many of its tensors are poison."""

    model: Model
    poisoned: int


def whole(model: Model, outputs: Sequence[str]) -> Model:
    """The model with these tensors as its outputs; nodes that they do not need are left out."""
    return _Writer(model, None, {}, {}).write(outputs)


def poisoned(
    model: Model,
    keep: Collection[int],
    outputs: Sequence[str],
    sizes: Mapping[Dim, int],
    unread: Mapping[int, Unread] = MappingProxyType({}),
) -> Reference:
    """The model with only the nodes at ``keep``, and these tensors as its outputs; ``sizes`` are those of symbols.

    What a kept node reads from one that is gone becomes NaN of the right shape: if anything the selected classes
    depend on was cut off, NaN reaches their scores. Nodes that only rearrange stay (an expert may have lost them to
    renaming), and so does whatever cannot be poison, being an integer or of unknown size. What a product multiplies
    with zeros alone (``unread``) becomes zero, poison or not.
    """
    writer = _Writer(model, frozenset(keep), sizes, unread)
    return Reference(writer.write(outputs), writer.poisoned)


class _Writer:
    def __init__(
        self, model: Model, keep: frozenset[int] | None, sizes: Mapping[Dim, int], unread: Mapping[int, Unread]
    ) -> None:
        self.model, self.keep, self.sizes, self.unread = model, keep, sizes, unread
        self.tensors: dict[str, Tensor] = {}
        self.poisoned = 0

    def write(self, outputs: Sequence[str]) -> Model:
        graph = self.model.graph
        inputs = [Variable(tensor.name, tensor.kind, tensor.shape) for tensor in graph.inputs]
        self.tensors = {tensor.name: tensor for tensor in inputs}
        nodes = [node for at in sorted(self._needed(outputs)) for node in self._copied(at)]
        results = [self._tensor(name) for name in dict.fromkeys(outputs)]
        for tensor in results:
            if isinstance(tensor, Variable):
                tensor.kind = self.model.types.get(tensor.name)
        made = Graph(nodes, inputs, results, graph.name, graph.opsets)
        return replace(self.model, graph=made)  # with the card, which tells a session its inputs

    def _needed(self, outputs: Sequence[str]) -> set[int]:
        """Positions of the nodes to write; poisons what stands in for the others."""
        found: set[int] = set()
        seen = set(outputs)
        stack = list(seen)
        while stack:
            name = stack.pop()
            at = self.model.producers.get(name)
            if at is None or at in found or self._poison(name, at):
                continue
            found.add(at)
            node = self.model.nodes[at]
            read = {tensor.name for tensor in node.inputs if tensor.name} | set(captured(node))
            stack += read - seen
            seen |= read
        return found

    def _poison(self, name: str, at: int) -> bool:
        """Put NaN in the place of a tensor, if its maker is gone and all that it makes can be NaN."""
        node = self.model.nodes[at]
        if self.keep is None or at in self.keep or node.op in MOVERS:
            return False
        made = {tensor.name: self._nan(tensor.name) for tensor in node.outputs if tensor.name}
        poison = made[name]
        if poison is None or None in made.values():
            return False
        self.tensors[name] = poison
        self.poisoned += 1
        return True

    def _nan(self, name: str) -> Constant | None:
        shape, dtype = self.model.shapes.get(name), self._dtype(name)
        dims = None if shape is None else [self.sizes.get(dim, dim) for dim in shape]
        if (
            dims is None
            or not all(isinstance(dim, int) for dim in dims)
            or dtype is None
            or not np.issubdtype(dtype, np.floating)
        ):
            return None
        return Constant(name, np.full(dims, np.nan, dtype))

    def _dtype(self, name: str) -> np.dtype[Any] | None:
        kind = self.model.types.get(name)
        return None if kind is None else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))

    def _copied(self, at: int) -> list[Node]:
        """The node; before it, what takes the poison out of what it multiplies with zeros."""
        node, blind = self.model.nodes[at], self.unread.get(at)
        read = [self._tensor(tensor.name) for tensor in node.inputs]
        made = [self._tensor(tensor.name) for tensor in node.outputs]
        copy = Node(node.op, node.name, node.attrs, read, made, node.domain, like=node)
        if blind is None:
            return [copy]
        given = read[blind.position]
        size = self.model.shapes[given.name][blind.axis]
        name = f"{given.name}@read-by-{at}"
        mask = Constant(f"{name}.mask", blind.mask(int(size or 0)))
        zero = Constant(f"{name}.zero", np.zeros((), self._dtype(given.name)))
        copy.inputs[blind.position] = Variable(name)
        return [Node("Where", name, {}, [mask, given, zero], [copy.inputs[blind.position]]), copy]

    def _tensor(self, name: str) -> Tensor:
        if not name:
            return Tensor()
        if name not in self.tensors:
            constant = self.model.constants.get(name)
            self.tensors[name] = Variable(name) if constant is None else constant.copy()
        return self.tensors[name]
