"""embed: every control becomes a constant, for engines that take an image and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..card import CARD_KEY, Card
from ..graph import Constant, Model, Node, fresh_name, refreshed
from .inputs import default_values


@dataclass(frozen=True)
class Embed:
    """The embed pass: the model with the defaults of ``card``'s controls in it, and a card without controls."""

    card: Card
    name: str = "embed"
    requires: str = "the card's controls are inputs of the graph"
    ensures: str = "the image is the only input; scores are those for the defaults, bit for bit"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Let a node make what was an input, out of a constant: whoever reads it, subgraphs too, reads it by name."""
        if not self.card.controls:
            return model, False
        values = {c.name: default_values(model, c.name, c.default) for c in self.card.controls}
        graph, taken = model.graph, {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}
        frozen = [
            Node(
                "Identity",
                given.name,
                {},
                [Constant(fresh_name(f"{given.name}.default", taken), values[given.name])],
                [given],
            )
            for given in graph.inputs
            if given.name in values
        ]
        inputs = [given for given in graph.inputs if given.name not in values]
        written = replace(graph, nodes=[*frozen, *graph.nodes], inputs=inputs)
        metadata = {**model.metadata, CARD_KEY: replace(self.card, controls=()).to_json()}
        return refreshed(replace(model, graph=written, metadata=metadata)), True
