"""Routers in a graph: a Hardmax over the branches, of which each column decides an If.

A network of routed branches computes the branch alone that its router finds the likeliest. An expert has fewer branches
and can only choose among those, as a class softmax can only normalise over the classes that are there: the choice is
cut through, and the softmax that made the probabilities is not.
"""

from __future__ import annotations

from ..graph import Model, Node

CHOICE = "Hardmax"
_SINCE = 13  # before that opset its axis means "flatten from here"
_ON_THE_WAY = ("Cast", "Gather", "Identity", "ReduceMax", "Reshape", "Slice", "Squeeze")
_STEPS = 8  # three are needed


def routing(model: Model) -> frozenset[int]:
    """Positions of the nodes that choose among branches, of this graph without those inside its branches."""
    found = {chooser(model, node) for node in model.nodes if node.op == "If"}
    return frozenset(at for at in found if at is not None)


def chooser(model: Model, node: Node) -> int | None:
    """Position of the choice that decides an If; None if something else does."""
    at = model.producers.get(node.inputs[0].name)
    for _ in range(_STEPS):
        if at is None or model.nodes[at].op not in _ON_THE_WAY:
            break
        at = model.producers.get(model.nodes[at].inputs[0].name)
    if at is None or model.nodes[at].op != CHOICE or model.opset < _SINCE:
        return None
    shape = model.shapes.get(model.nodes[at].inputs[0].name, ())
    return at if len(shape) == 2 and model.nodes[at].attrs.get("axis", -1) in (-1, 1) else None
