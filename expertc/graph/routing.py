"""Routers in a graph: a Hardmax over the branches, of which each column decides an If.

A network of routed branches computes the branch alone that its router finds the likeliest. An expert has fewer branches
and can only choose among those, as a class softmax can only normalise over the classes that are there: the choice is
cut through, and the softmax that made the probabilities is not.
"""

from __future__ import annotations

from typing import NamedTuple

from .model import Model
from .nodes import Node

CHOICE = "Hardmax"
ONE_WAY = "An image takes one branch per router: MACs in all are of the costliest way."
_SINCE = 13  # before that opset its axis means "flatten from here"
_ON_THE_WAY = ("Cast", "Gather", "Identity", "ReduceMax", "Reshape", "Slice", "Squeeze")
_SAME = ("Cast", "Identity")  # of those, they leave every element where it is
_STEPS = 8  # three are needed


class Choice(NamedTuple):
    """What decides an If: the Hardmax at position ``at``, by its column ``column``, None if that cannot be told."""

    at: int
    column: int | None


def routing(model: Model) -> frozenset[int]:
    """Positions of the nodes that choose among branches, of this graph without those inside its branches."""
    found = {choice(model, node) for node in model.nodes if node.op == "If"}
    return frozenset(each.at for each in found if each is not None)


def choice(model: Model, node: Node) -> Choice | None:
    """The choice that decides an If; None if something else does."""
    column: int | None = None
    at = model.producers.get(node.inputs[0].name)
    for _ in range(_STEPS):
        if at is None or model.nodes[at].op not in _ON_THE_WAY:
            break
        if model.nodes[at].op not in _SAME:
            column = _column(model, model.nodes[at])  # of the last one before the choice: the others see its result
        at = model.producers.get(model.nodes[at].inputs[0].name)
    if at is None or model.nodes[at].op != CHOICE or model.opset < _SINCE:
        return None
    shape = model.shapes.get(model.nodes[at].inputs[0].name, ())
    return Choice(at, column) if len(shape) == 2 and model.nodes[at].attrs.get("axis", -1) in (-1, 1) else None


def _column(model: Model, node: Node) -> int | None:
    """The column of a matrix that a Slice leaves, if it is one and a known one."""
    if node.op != "Slice" or len(node.inputs) != 4:
        return None
    bounds = [model.value(tensor.name) for tensor in node.inputs[1:]]
    if any(each is None or each.size != 1 for each in bounds):
        return None
    start, end, axis = (int(each.item()) for each in bounds if each is not None)
    return start if axis == 1 and start >= 0 and end == start + 1 else None
