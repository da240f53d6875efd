"""What a cut would take away and what it would leave, branch by branch, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from .card import Card
from .graph.cost import Cost, cost
from .graph.routing import ONE_WAY
from .selection import Selection
from .source import Source
from .surgery.owners import Branch, Ownership, ownership
from .surgery.prune import prune


@dataclass(frozen=True)
class Plan:
    """The branches that stay and those that go, largest class sets first, and what the models cost.

    ``exits`` are what only answers of exits need that mean nothing any more: they go, whoever's classes they are, and
    trunk and branches are without them; None where all stay. ``trunk`` stays whatever the classes are. ``expert`` is
    the cost of the expert that would be written, before folding; it is more than the trunk and the branches where
    something could only be kept as a whole, and ``stopped`` says how often and why.
    """

    selection: Selection
    trunk: Branch
    exits: Branch | None
    stays: tuple[Branch, ...]
    goes: tuple[Branch, ...]
    full: Cost
    expert: Cost
    stopped: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def plan(source: Source, selection: Selection) -> Plan:
    """Plan the cut of ``source`` to ``selection``. Nothing is written, and no weight of a branch that goes is read."""
    cut = prune(source.model, source.card, selection.indices)
    owners, exits = _left(source, cut.card)
    stays = owners.kept(selection.indices)
    kept = {branch.indices for branch in stays}
    goes = tuple(branch for branch in owners.branches if branch.indices not in kept)
    notes = (*cut.notes, *([ONE_WAY] if source.routed else []))
    return Plan(selection, owners.trunk, exits, stays, goes, source.cost, cost(cut.model), cut.stopped, notes)


def _left(source: Source, card: Card) -> tuple[Ownership, Branch | None]:
    """Trunk and branches of ``source`` without the answers that its exits no longer give in ``card``, and these."""
    whole = source.owners
    had, has = (set() if one.exits is None else {*one.exits.tensors} for one in (source.card, card))
    if had == has:
        return whole, None
    left = ownership(source.model, source.card, had - has)
    everyone = whole.trunk.indices
    return left, Branch("exits", everyone, whole.total.cost - left.total.cost, whole.total.nodes - left.total.nodes)
