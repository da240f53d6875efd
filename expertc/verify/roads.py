"""Roads: the ways through a routed model, each of which is to be looked at.

A router sends an image down one road, and what the others would say of it shows nowhere. And the full model may send
it where the expert has nothing. So models are run with some of the roads closed, in the full model and in the expert
alike: first those that the expert does not have, so that both choose among the same; then all but one, for each in
turn. Closed is a road whose log-probability the choice sees as minus infinity; where nobody would have taken it, that
changes nothing.

This reads the graph by itself, from the card's columns and from which of them decides an If.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..card import Card
from ..graph import Constant, Graph, Model, Node, Tensor, Variable
from ..graph.routing import CHOICE, routing
from .certificate import Mismatch

Road = frozenset[str]
"""The columns of the routes that are open."""

_ON_THE_WAY = ("Cast", "Identity", "ReduceMax", "Reshape", "Squeeze")


def is_routed(model: Model, card: Card) -> bool:
    """Whether the model computes some of its branches only, and its card says which."""
    return card.routes is not None and bool(routing(model))


def roads(card: Card, indices: Sequence[int]) -> tuple[Road, ...]:
    """All that an expert for the classes ``indices`` has, and then each road to the end alone, if there are several."""
    routes, taxonomy = card.routes, card.taxonomy
    if routes is None:
        return ()
    kept = [routes.columns[at] for at in routes.kept(taxonomy, indices)]
    above = {routes.above(taxonomy, name) for name in kept}
    ends = [name for name in kept if name not in above]
    each = [frozenset(routes.columns[at] for at in routes.steps(taxonomy, name)) for name in ends]
    return (frozenset(kept), *each) if len(each) > 1 else (frozenset(kept),)


def closed(model: Model, card: Card, road: Road) -> Model:
    """``model``, whose card is ``card``, with every road closed but ``road``. Raises ``Mismatch`` if it routes
    otherwise than the card says."""
    if card.routes is None:
        return model
    columns = card.routes.columns
    routers = {name: [columns[at] for at in own] for name, own in card.routes.routers(card.taxonomy).items()}
    choice = next(node for node in model.nodes if node.op == CHOICE)
    kind = model.types.get(choice.inputs[0].name, onnx.TensorProto.FLOAT)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    graph = _Closing(routers, road, Constant("closed", np.array(-np.inf, dtype))).graph(model.graph, "")
    return replace(model, graph=graph)


@dataclass(frozen=True)
class _Closing:
    routers: Mapping[str, Sequence[str]]
    road: Road
    closed: Constant

    def graph(self, graph: Graph, at: str) -> Graph:
        """The graph of the branch ``at``, "" for the whole."""
        makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
        deciding: dict[int, Node] = {}
        inside: dict[int, str] = {}  # by If: the branch that it decides about
        for node in graph.nodes:
            found = _decided(makers, node) if node.op == "If" else None
            if found is None:
                continue
            choice, column = found
            names = self.routers.get(at, ())
            if column >= len(names):
                raise Mismatch("structure", "The model routes to branches that its card does not name.")
            deciding[id(choice)] = choice
            inside[id(node)] = names[column]
        if len(deciding) > 1:
            raise Mismatch("structure", "The model has two routers where its card has one.")
        nodes: list[Node] = []
        local = dict(graph.local)
        for node in graph.nodes:
            attrs, read = dict(node.attrs), list(node.inputs)
            if id(node) in inside:
                attrs["then_branch"] = self.graph(attrs["then_branch"], inside[id(node)])
            elif id(node) in deciding:
                open_ = np.array([name in self.road for name in self.routers[at]])
                seen = Variable(f"{node.outputs[0].name}.open")
                mask, floor = Constant(f"{seen.name}.mask", open_), self.closed.copy(f"{seen.name}.closed")
                nodes.append(Node("Where", seen.name, {}, [mask, read[0], floor], [seen]))
                local |= {mask.name: mask, floor.name: floor}
                read = [seen]
            else:
                nodes.append(node)
                continue
            nodes.append(Node(node.op, node.name, attrs, read, node.outputs, node.domain, like=node))
        return replace(graph, nodes=nodes, local=local if at else graph.local)


def _decided(makers: Mapping[str, Node], node: Node) -> tuple[Node, int] | None:
    """The choice that decides an If, and which of its columns does; None if it is something else."""
    column, maker = 0, makers.get(node.inputs[0].name)
    while maker is not None and maker.op != CHOICE:
        if maker.op in ("Slice", "Gather"):
            first = _first(maker.inputs[1])
            if first is None:
                return None
            column += first
        elif maker.op not in _ON_THE_WAY:
            return None
        maker = makers.get(maker.inputs[0].name)
    return None if maker is None else (maker, column)


def _first(tensor: Tensor) -> int | None:
    """The first of a vector of constants."""
    return int(np.asarray(tensor.values).reshape(-1)[0]) if isinstance(tensor, Constant) else None
