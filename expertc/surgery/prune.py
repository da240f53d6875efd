"""Cutting a full model to the classes of a selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..card import CARD_KEY, Card, Output
from ..errors import UsageError
from ..graph import Model
from .inputs import held_inputs
from .outputs import class_softmax, plan_outputs, score_source
from .rewrite import rewrite, set_apart
from .sweep import sweep


@dataclass(frozen=True)
class Cut:
    """The expert's graph (its card embedded), and what is to be said about the cut.

    ``stopped`` counts the reasons for which a demand had to be widened to everything; ``removed`` are the names of the
    nodes that are gone.
    """

    model: Model
    card: Card
    indices: tuple[int, ...]
    renormalised: bool
    notes: tuple[str, ...]
    stopped: tuple[tuple[str, int], ...]
    removed: int


def prune(model: Model, card: Card, indices: Sequence[int]) -> Cut:
    """Remove from ``model`` whatever only classes outside ``indices`` need.

    ``indices`` are positions in ``card.classes``; the expert's rows are in their ascending order. Its raw scores equal
    the full model's; a class softmax is renormalised over the selection. A control per class holds the kept classes'
    values, in the same order.
    """
    indices = tuple(sorted(set(indices)))
    if not indices or indices[0] < 0 or indices[-1] >= len(card.classes):
        raise UsageError("The selection is empty or has a class the model does not.", "Select from `expertc classes`.")
    plan = plan_outputs(model, card, indices)
    flow = sweep(model, plan.seeds, plan.through)
    held = held_inputs(model, card, flow, indices)
    flow = replace(flow, held={name: item.have for name, item in held.items()})
    written = rewrite(model, flow, plan.results, held)
    restricted = card.restrict(indices)
    for output in restricted.outputs:
        if class_softmax(written, output.name, output.axis) is not None and not _is_through(
            model, output, plan.through
        ):
            written = set_apart(written, output.name, output.axis)
    # Other metadata of the full model may name the classes that are gone.
    written = written.with_metadata({CARD_KEY: restricted.to_json()})
    stopped = Counter(answer.stopped for answer in flow.answers if answer is not None and answer.stopped)
    removed = sum(answer is None for answer in flow.answers)
    return Cut(
        written,
        restricted,
        indices,
        plan.renormalised,
        plan.notes,
        tuple(sorted(stopped.items())),
        removed,
    )


def _is_through(model: Model, output: Output, through: frozenset[int]) -> bool:
    return class_softmax(model, score_source(model, output.name), output.axis) in through
