"""fold: scales, shifts and batch norms into the linear layers beside them, constants, and moves that cancel."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Model, refreshed
from .folding import RULES, Draft
from .passes import MALFORMED, malformed


@dataclass(frozen=True)
class Fold:
    """The fold pass; results agree with the unfolded graph within rounding. What it wrote it does not change again."""

    name: str = "fold"
    requires: str = "inference mode, shapes inferred"
    ensures: str = (
        "no batch norm, scale or shift per channel beside a linear layer of its own where exact, no identity, no pair "
        "of moves that cancels, no node with constant inputs only"
    )

    def run(self, model: Model) -> tuple[Model, bool]:
        """Fold until nothing changes: once and a look, in practice. Raises ``ModelError`` for a malformed node."""
        folded = model
        while True:
            draft = Draft(folded)
            if not _sweep(draft):
                return folded, folded is not model
            folded = refreshed(draft.finished())


def _sweep(draft: Draft) -> bool:
    """Visit every node, as long as a rule changes something there."""
    changed = False
    for at in range(len(draft.nodes)):
        while (node := draft.nodes[at]) is not None:
            try:
                if not any(rule(draft, at) for rule in RULES.get(draft.op(at), ())):
                    break
            except MALFORMED as error:
                raise malformed(node) from error
            changed = True
    return changed
