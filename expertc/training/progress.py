"""What a display of a running training needs to know."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .recipe import Recipe


@dataclass(frozen=True)
class Progress:
    """Where a training stands: epoch ``epoch`` (from 1) of ``epochs`` in a stage, and a running mean of the loss."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None  # on the holdout, after an epoch; None within one
    seconds_left: float  # of the whole run


class Clock:
    """Time left, from the pixels still to be seen: an epoch's cost goes with its images' area."""

    def __init__(self, recipe: Recipe, epochs_done: int) -> None:
        self.costs = [stage.size**2 for stage in recipe.stages for _ in range(stage.epochs)]
        self.start, self.before = time.monotonic(), sum(self.costs[:epochs_done])

    def left(self, epoch: int, share: float) -> float:
        """Seconds left when ``share`` of the epoch number ``epoch`` (over all stages, from 0) is done."""
        seen = sum(self.costs[:epoch]) + share * self.costs[epoch] - self.before
        spent = time.monotonic() - self.start
        return spent / max(seen, 1e-9) * (sum(self.costs) - self.before - seen)
