"""What is compared: each graph output, and the place in the full model where its scores can be seen row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..card import Card
from ..graph import Model, Node
from ..surgery.outputs import class_softmax, score_source

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class View:
    """A graph output and how to look at it.

    Args:
        output: its name, the same in the full model and in the expert.
        axis: where the classes are; None for an output that is no class score and stays whole.
        tensor: what is compared without any arithmetic: the output itself, the scores below an ArgMax, or what a class
            softmax reads (its value depends on all classes, so the rows of the output are not comparable).
        source: where the output's value stands in the full model: the output itself, or the scores below an ArgMax.
        tail: the nodes from the class softmax to the output, in order; empty if there is none.
        columns: of routes and coarse exits, the classes that each column is about; they are on axis 1.
    """

    output: str
    axis: int | None
    tensor: str
    source: str
    tail: tuple[Node, ...] = ()
    columns: tuple[frozenset[int], ...] = ()

    def rows(self, values: Array, indices: Sequence[int]) -> Array:
        """The values of the selected classes, if the output has classes; of the routes, those on their paths."""
        if self.columns:
            kept = [at for at, classes in enumerate(self.columns) if classes.intersection(indices)]
            return np.take(values, kept, axis=1)
        return values if self.axis is None else np.take(values, indices, axis=self.axis)

    def finish(self, values: Array) -> Array:
        """What the output shows for ``values`` of ``tensor``: themselves, or their softmax over these classes alone.

        That is the full model's distribution conditioned on them; in double precision.
        """
        if not self.tail or self.axis is None:
            return values
        values = values.astype(np.float64)
        with np.errstate(divide="ignore"):
            for node in self.tail:
                values = _apply(node.op, values, self.axis)
        return values


def views(model: Model, card: Card, left: Card | None = None) -> tuple[View, ...]:
    """A view for every graph output of ``model``, in order; of those that its card names, only what ``left`` has too.

    ``left`` is the card of an expert.
    """
    axes = {output.name: output.axis for output in card.outputs}
    return tuple(_view(model, card, name, axes.get(name)) for name in outputs_left(model, card, left or card))


def outputs_left(model: Model, card: Card, left: Card) -> list[str]:
    """The outputs of ``model``, whose card is ``card``, that an expert with the card ``left`` has, in order."""
    before, after = ({*(output.name for output in one.outputs), *one.columns} for one in (card, left))
    return [name for name in model.outputs if name not in before - after]


def _view(model: Model, card: Card, name: str, axis: int | None) -> View:
    if name in card.columns:
        return View(name, None, name, name, columns=card.columns[name])
    if axis is None:
        return View(name, None, name, name)
    source = score_source(model, name)
    softmax = class_softmax(model, source, axis)
    if softmax is None:
        return View(name, axis, source, source)
    tail = []
    at = model.producers[source]
    while at != softmax:
        tail.append(model.nodes[at])
        at = model.producers[model.nodes[at].inputs[0].name]
    nodes = (model.nodes[softmax], *reversed(tail))
    return View(name, axis, nodes[0].inputs[0].name, source, nodes)


def _apply(op: str, values: Array, axis: int) -> Array:
    if op in ("Softmax", "LogSoftmax"):
        shifted = values - values.max(axis=axis, keepdims=True)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        return np.asarray(np.exp(shifted) / total if op == "Softmax" else shifted - np.log(total))
    if op == "Log":
        return np.asarray(np.log(values))
    if op == "Exp":
        return np.asarray(np.exp(values))
    return values  # Identity, Cast, Dropout
