"""What the lint finds."""

from __future__ import annotations

from dataclasses import dataclass

from ..text import clean_text, shown

REFUSAL, WARNING, NOTE = LEVELS = ("refusal", "warning", "note")
"""Will fail or be wrong; may fail, or is changed; good to know."""


@dataclass(frozen=True)
class Finding:
    """Something about a node, or about the model as a whole if ``operator`` is "".

    ``why`` is a sentence without its subject ("its axes are computed"), ``branch`` whose the node is ("trunk" if every
    class needs it, "" if that is not known). ``count`` nodes of that operator in that branch have it; ``node`` is the
    first.
    """

    level: str
    why: str
    operator: str = ""
    node: str = ""
    branch: str = ""
    count: int = 1

    def __str__(self) -> str:
        """One clean line."""
        if not self.operator:
            return f"{self.why[:1].upper()}{self.why[1:]}."
        where = (
            f" of the {'trunk' if self.branch == 'trunk' else f'branch {shown(self.branch)}'}" if self.branch else ""
        )
        more = f" and {self.count - 1:,} more like it" if self.count > 1 else ""
        return f"{clean_text(self.operator)} {shown(self.node)}{more}{where}: {self.why}."
