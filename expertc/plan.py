"""What a cut would take away and what it would leave, branch by branch, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from .graph.cost import Cost, cost
from .selection import Selection
from .source import Source
from .surgery.owners import Branch
from .surgery.prune import prune


@dataclass(frozen=True)
class Plan:
    """The branches that stay and those that go, largest class sets first, and what the models cost.

    ``trunk`` stays whatever the classes are. ``expert`` is the cost of the expert that would be written, before
    folding; it is more than the trunk and the branches where something could only be kept as a whole, and ``stopped``
    says how often and why.
    """

    selection: Selection
    trunk: Branch
    stays: tuple[Branch, ...]
    goes: tuple[Branch, ...]
    full: Cost
    expert: Cost
    stopped: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def plan(source: Source, selection: Selection) -> Plan:
    """Plan the cut of ``source`` to ``selection``. Nothing is written, and no weight of a branch that goes is read."""
    owners = source.owners
    stays = owners.kept(selection.indices)
    kept = {branch.indices for branch in stays}
    goes = tuple(branch for branch in owners.branches if branch.indices not in kept)
    cut = prune(source.model, source.card, selection.indices)
    return Plan(selection, owners.trunk, stays, goes, source.cost, cost(cut.model), cut.stopped, cut.notes)
