"""An expert in lower precision, and how far it may be from itself in single precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..graph import File

STEP = "precision"
"""The step of the ladder that judges it."""


@dataclass(frozen=True)
class Budget:
    """How far an expert may be from itself in single precision.

    Args:
        margin: two classes whose scores are closer than this, over the largest score, are a tie.
        disagreement: share of the photos without a tie that may get another class.
        worst: how far a probability may move on any input.
        mean: the same, of the class that moves most, on average over the inputs.
    """

    margin: float
    disagreement: float
    worst: float
    mean: float


BUDGETS: Mapping[str, Budget] = {
    "fp16": Budget(margin=1e-2, disagreement=0.0, worst=0.05, mean=0.01),
    "int8": Budget(margin=1e-4, disagreement=0.01, worst=0.5, mean=0.05),
}
"""fp16: 1e-2 is what roundings of 2^-11 in twenty layers add up to at the very worst; a probability may move ten times
as far as those of the bundled model's experts did on photos (0.005, and 0.001 on average). int8: one point of top-1
agreement, as MLPerf Inference asks for 99 % of a network's accuracy; 256 steps move single probabilities far, so the
limits for those only stop what is broken."""


@dataclass(frozen=True)
class Lowered:
    """An expert in lower precision, the recipe of its conversion (``surgery.precision``), and the drop it may have.

    ``max_drop`` is in points of top-1 agreement; None is the budget of its precision.
    """

    file: File
    recipe: Mapping[str, Any]
    max_drop: float | None = None

    @property
    def precision(self) -> str:
        """Its name."""
        return str(self.recipe["precision"])

    @property
    def budget(self) -> Budget:
        """What it is held to."""
        budget = BUDGETS[self.precision]
        return budget if self.max_drop is None else replace(budget, disagreement=self.max_drop / 100)
