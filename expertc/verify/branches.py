"""Branches of an If: an expert's may be smaller than the full model's, so they are compared as graphs of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..graph import Constant, Graph, Model, Node, Tensor


def as_model(outer: Model, branch: Graph, scope: str) -> Model:
    """A branch as a model without inputs, its ``Constant`` nodes as initializers; what it captures has no maker.

    Its own weights are renamed: ``scope`` goes in front, for the branches beside it may use the same names.
    """
    own = {name: value.copy(scope + name) for name, value in branch.local.items()}
    own |= {
        node.outputs[0].name: value.copy(scope + node.outputs[0].name)
        for node in branch.nodes
        if node.op == "Constant" and isinstance(value := node.attrs.get("value"), Constant)
    }

    def found(tensor: Tensor) -> Tensor:
        return own.get(tensor.name, tensor)

    nodes = [
        Node(node.op, node.name, node.attrs, map(found, node.inputs), node.outputs, node.domain, like=node)
        for node in branch.nodes
        if node.outputs[0].name not in own
    ]
    return replace(outer, graph=Graph(nodes, (), list(map(found, branch.outputs)), branch.name, outer.graph.opsets))


def idle(branch: Graph, model: Model, scope: str) -> dict[str, bytes]:
    """The values of the branch's own initializers that nothing reads; ``model`` is what ``as_model`` made of it."""
    return {name: bytes(v.stored()) for name, v in branch.local.items() if scope + name not in model.constants}


def scope_of(outer: str, node: int, attribute: str) -> str:
    """What goes in front of the names of weights in a branch: of node number ``node`` of the full model's graph."""
    return f"{outer}{node}.{attribute}/"


def constants_within(model: Model, scope: str = "") -> Iterator[tuple[str, Constant]]:
    """Every initializer that a graph or a branch inside it reads, by its name in its scope."""
    yield from model.constants.items()
    for at, node in enumerate(model.nodes):
        for attribute, branch in node.attrs.items() if node.has_graphs else ():
            if isinstance(branch, Graph):
                inner = scope_of(scope, at, attribute)
                yield from constants_within(as_model(model, branch, inner), inner)
