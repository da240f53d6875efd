"""Which outputs of a graph are class scores, of what kind, and how each is cut (RULES section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..card import Card, Output
from ..errors import CardError, ModelError, UsageError
from ..exits import Exits
from ..graph import Model, Shape
from ..graph.routing import routing
from ..text import clean_text, shown
from .demand import Demand, demand, full, join
from .site import Result

_SOFTMAX = ("Softmax", "LogSoftmax")
_INDEX = ("ArgMax", "TopK")
# Operators that keep every row of the class axis where it is, so a softmax below them is still over the classes.
_ROW_PRESERVING = ("Identity", "Cast", "Log", "Exp", "Dropout")


@dataclass(frozen=True)
class OutputPlan:
    """How the outputs are cut.

    ``results`` are the expert's outputs (an index output shows the scores below it); ``seeds`` is the demand on their
    tensors; ``through`` are the class softmaxes; ``notes`` are for the person.
    """

    results: tuple[Result, ...]
    seeds: Mapping[str, Demand]
    through: frozenset[int]
    notes: tuple[str, ...]

    @property
    def renormalised(self) -> bool:
        """Whether the expert's softmax runs over fewer classes than the full model's did."""
        return bool(self.through)


def find_outputs(model: Model, count: int, chosen: Mapping[str, int] | None = None) -> tuple[Output, ...]:
    """The class-score outputs of a model without a card that has ``count`` classes.

    ``chosen`` (output name to axis) settles what cannot be found out. Raises ``ModelError`` if no output can hold the
    scores of ``count`` classes, ``UsageError`` if two could.
    """
    found = []
    for name, shape in model.outputs.items():
        below = score_source(model, name)
        shape = model.shapes.get(below, ())
        if chosen is not None and name not in chosen:
            continue
        axes = [axis for axis, dim in enumerate(shape) if dim == count and (axis > 0 or len(shape) == 1)]
        if chosen is not None:
            axes = [chosen[name]] if chosen[name] < len(shape) else []
        if len(shape) != 2:
            continue
        if axes:
            found.append(Output(name, kind_of(model, below, axes[0]), axes[0]))
    if chosen is not None and len(found) < len(chosen):
        missing = next(name for name in chosen if name not in {output.name for output in found})
        raise UsageError(f"'{clean_text(missing)}' is not an output that can be cut there.", _listing(model.outputs))
    if not found:
        raise ModelError(f"No output holds the scores of {count} classes.", _listing(model.outputs))
    if len(found) > 1 and chosen is None:
        names = ", ".join(f"--scores {clean_text(output.name)}:{output.axis}" for output in found)
        raise UsageError("More than one output could hold the class scores.", f"Say which: {names}.")
    return tuple(found)


def _listing(outputs: Mapping[str, Shape]) -> str:
    listed = ", ".join(f"{clean_text(name)} {_text(shape)}" for name, shape in list(outputs.items())[:5])
    return f"A classifier has one row per image and one column per class; this model's outputs are {listed}."


def _text(shape: Shape) -> str:
    return "[" + ", ".join("?" if dim is None else clean_text(str(dim)) for dim in shape) + "]"


def score_source(model: Model, name: str) -> str:
    """The tensor with the scores: ``name`` itself, or what an ArgMax or TopK at the end reads."""
    at = model.producers.get(name)
    while at is not None and model.nodes[at].op in (*_INDEX, "Squeeze", "Cast", "Identity"):
        node = model.nodes[at]
        if node.op in _INDEX:
            return str(node.inputs[0].name)
        at = model.producers.get(node.inputs[0].name)
    return name


def kind_of(model: Model, name: str, axis: int) -> str:
    """What the graph itself says about the scores in tensor ``name``: "logits", "probabilities", "joint", "scores"."""
    path, found = _path(model, name), class_softmax(model, name, axis)
    if found is not None:
        ops = [model.nodes[at].op for at in (*path, found)]
        logs = ops.count("Log") + ops.count("LogSoftmax") - ops.count("Exp")
        return "logits" if logs > 0 else "probabilities"
    below = model.producers.get(model.nodes[path[-1]].inputs[0].name if path else name)
    op = None if below is None else model.nodes[below].op
    if op == "Sigmoid":
        return "scores"
    return "joint" if op == "Softmax" or _is_joint(model, below) else "logits"


def _is_joint(model: Model, at: int | None) -> bool:
    """Whether the scores are products of probabilities put side by side (a tree of softmaxes)."""
    if at is None or model.nodes[at].op != "Concat":
        return False
    parts = [model.producers.get(tensor.name) for tensor in model.nodes[at].inputs]
    return all(part is not None and model.nodes[part].op in ("Softmax", "Mul") for part in parts)


def _path(model: Model, name: str) -> list[int]:
    """Positions of the row-preserving nodes above ``name``, from it upwards."""
    found = []
    at = model.producers.get(name)
    while at is not None and model.nodes[at].op in _ROW_PRESERVING:
        found.append(at)
        at = model.producers.get(model.nodes[at].inputs[0].name)
    return found


def class_softmax(model: Model, name: str, axis: int) -> int | None:
    """Position of the Softmax over the class axis of which ``name`` is a row-preserving function, if there is one.

    It is only one if nothing else reads what lies between: another consumer would see other numbers. An ArgMax or TopK
    at the very end does not count, because it is dropped.
    """
    path = _path(model, name)
    between = [model.nodes[at].inputs[0].name for at in path]
    at = model.producers.get(between[-1] if between else name)
    if at is None or model.nodes[at].op not in _SOFTMAX or not _is_over(model, at, axis):
        return None
    if any(not _ends(model, reader) for reader in model.consumers.get(name, ())):
        return None
    final = {tensor.name for tensor in model.graph.outputs}
    if any(len(model.consumers[tensor]) > 1 or tensor in final for tensor in between):
        return None
    ops = [model.nodes[step].op for step in path]
    # Log of Softmax and Exp of LogSoftmax are fine; other mixtures are no distribution over the classes.
    undone = "Log" if model.nodes[at].op == "Softmax" else "Exp"
    return at if ops.count("Log") + ops.count("Exp") == ops.count(undone) <= 1 else None


def _is_over(model: Model, at: int, axis: int) -> bool:
    """Whether a softmax normalises along ``axis`` alone."""
    node = model.nodes[at]
    shape = model.shapes.get(node.inputs[0].name)
    if shape is None:
        return False
    given = int(node.attrs.get("axis", -1 if model.opset >= 13 else 1))
    position = given + len(shape) if given < 0 else given
    # Before opset 13 the axis means "flatten from here": all later axes are normalised together.
    return position == axis and (model.opset >= 13 or position == len(shape) - 1)


def _ends(model: Model, at: int) -> bool:
    """Whether the node is an index operator that no other node reads, or only through casts."""
    node = model.nodes[at]
    readers = [reader for tensor in node.outputs for reader in model.consumers.get(tensor.name, ())]
    return node.op in (*_INDEX, "Squeeze", "Cast", "Identity") and all(_ends(model, reader) for reader in readers)


def _lost(before: Exits, after: Exits) -> Iterator[str]:
    """What of the exits is gone, in sentences."""
    kept = {name for one in after.exits for name in one.names}
    lost = [str(at) for at, one in enumerate(before.exits, 1) if not kept.intersection(one.names)]
    if lost:
        yield (
            f"{len(lost)} of {len(before.exits)} exits gone, as they say nothing about these classes or never answer: "
            f"{', '.join(lost)}."
        )
    if before.categories and not after.categories:
        yield "The coarse answers are gone, as one category is left."


def check_card(model: Model, card: Card) -> None:
    """Raise ``CardError`` if the card contradicts the graph: names, sizes, or the kind of the scores."""
    outputs = {name: model.shapes.get(score_source(model, name)) for name in model.outputs}
    card.check_graph(model.inputs, outputs, model.types)
    for output in card.outputs:
        kind = kind_of(model, score_source(model, output.name), output.axis)
        if kind != output.kind and "probabilities" in (kind, output.kind):
            raise CardError(
                f"The card calls the output {shown(output.name)} {output.kind}, but the graph makes {kind}.",
                "Correct the card, or export the model again.",
            )


def plan_outputs(model: Model, card: Card, indices: Sequence[int]) -> OutputPlan:
    """How to cut ``model`` to the classes ``indices``. Raises ``CardError`` if the card contradicts the graph."""
    check_card(model, card)
    scores = {output.name: output for output in card.outputs}
    columns, left = card.columns, card.restrict(indices)
    gone = {*scores, *columns} - {*(output.name for output in left.outputs), *left.columns}
    results: list[Result] = []
    seeds: dict[str, Demand] = {}
    through: set[int] = set()
    notes: list[str] = []
    for name in model.outputs:
        output = scores.get(name)
        if name in gone:
            continue
        if name in columns:
            marks = np.array([not classes.isdisjoint(indices) for classes in columns[name]])
            results.append(Result(name, name, demand(True, {1: marks}) or Demand(True)))
            continue
        if output is None:
            results.append(Result(name, name, Demand(True)))
            notes.append(f"The output '{clean_text(name)}' is not a class score and is kept whole.")
            continue
        below = score_source(model, name)
        if below != name:
            notes.append(f"The output {shown(name)} was an index of a class; the expert gives the scores.")
        softmax = class_softmax(model, below, output.axis)
        if softmax is not None:
            through.add(softmax)
        size = model.shapes.get(below, (None,) * 8)[output.axis]
        if isinstance(size, int) and size != len(card.classes):
            raise CardError(
                f"The output {shown(name)} has {size} classes, the card {len(card.classes)}.", "Correct it."
            )
        marks = full(False, len(card.classes))
        marks[np.asarray(indices, dtype=np.int64)] = True
        results.append(Result(name, below, demand(True, {output.axis: marks}) or Demand(True)))
    if card.exits is not None and left.exits is not None:
        notes += _lost(card.exits, left.exits)
    if routing(model):
        notes.append("Its routers choose among the branches that it keeps; the full model may choose another.")
    for result in results:
        seeds[result.source] = join((seeds.get(result.source), result.want)) or result.want
    return OutputPlan(tuple(results), seeds, frozenset(through), tuple(notes))
