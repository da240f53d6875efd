"""How much memory running a model takes, from the shapes of its tensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from onnx import helper

from ..graph import Model, Node, Variable, branch_model, captured_tensors, volume, with_batch
from ..graph.cost import cost
from ..graph.nodes import subgraphs

_UNKNOWN = 4  # bytes of an element whose type is not known


@dataclass(frozen=True)
class Footprint:
    """Bytes of all weights, and of the tensors that are alive at the worst moment."""

    weight_bytes: int
    activation_bytes: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.weight_bytes + self.activation_bytes


def footprint(model: Model, batch: int = 1) -> Footprint:
    """What a run with ``batch`` images holds at the same time if nothing is fused, and every tensor has a place.

    An engine that fuses needs less, its kernels' workspace comes on top. A size that is not known counts as 1.
    """
    return Footprint(cost(model).weight_bytes, _peak(with_batch(model, batch)))


def _peak(model: Model) -> int:
    uses = Counter(name for node in model.nodes for name in _reads(node))
    kept = {tensor.name for tensor in model.graph.outputs}
    alive = peak = sum(_bytes(model, name) for name in model.inputs)
    for node in model.nodes:
        made, read = {tensor.name for tensor in node.outputs}, _reads(node)
        alive += sum(_bytes(model, name) for name in made)
        peak = max(peak, alive + _inside(model, node))
        uses.subtract(read)
        alive -= sum(_bytes(model, name) for name in made | read if not uses[name] and name not in kept)
    return peak


def _reads(node: Node) -> set[str]:
    """Names of the tensors that a node, or a subgraph of it, reads and that are no weights."""
    tensors = (*node.inputs, *captured_tensors(node)) if node.has_graphs else node.inputs
    return {tensor.name for tensor in tensors if isinstance(tensor, Variable)}


def _inside(model: Model, node: Node) -> int:
    """What the larger of a node's subgraphs needs on top."""
    return max((_peak(branch_model(model, graph)) for graph in subgraphs(node)), default=0) if node.has_graphs else 0


def _bytes(model: Model, name: str) -> int:
    if not name:
        return 0
    kind = model.types.get(name)
    each = _UNKNOWN if kind is None else max(1, helper.tensor_dtype_to_np_dtype(kind).itemsize)
    return volume(model.shapes.get(name, ())) * each
