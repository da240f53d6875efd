"""The pass: rules that each rewrite one node, tried on every node in order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...graph import Model, Node, refreshed
from ..passes import MALFORMED, malformed
from .factors import factored
from .place import Place
from .sums import as_product


@dataclass(frozen=True)
class Strength:
    """The strength pass; scores agree within rounding. What it wrote it does not change again."""

    name: str = "strength"
    requires: str = "inference mode, shapes inferred, folded"
    ensures: str = (
        "what is multiplied onto a tensor is multiplied together first, where that is smaller; sums over all but the "
        "last axes of large tensors are matrix products"
    )

    def run(self, model: Model) -> tuple[Model, bool]:
        """Rewrite what a rule knows, once. Raises ``ModelError`` for a malformed node."""
        place = Place(model)
        for at, node in enumerate(model.nodes):
            try:
                place.nodes[at] = factored(place, node) or as_product(place, node) or place.nodes[at]
            except MALFORMED as error:
                raise malformed(node) from error
        if place.unchanged:
            return model, False
        nodes: list[Node] = [node for at in sorted(place.nodes) for node in place.nodes[at] if node not in place.gone]
        return refreshed(replace(model, graph=replace(model.graph, nodes=nodes))), True
