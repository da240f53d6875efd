"""The answers of a network with early exits as it gives them: some name a class, some only a category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exits import Exits
from ..runtime.exits import Answered
from .accuracy import decisions
from .others import share


@dataclass(frozen=True)
class Given:
    """Answers to ``images`` photos, of which ``hits`` are right: the label is, a class or a category.

    ``fine`` of them name a class, ``fine_hits`` rightly; ``exits`` counts those of each exit.
    """

    images: int
    hits: int
    fine: int
    fine_hits: int
    exits: tuple[int, ...]

    @classmethod
    def of(cls, answered: Answered, truth: np.ndarray, exits: Exits) -> Given:
        """From what was answered to photos of the classes ``truth``, int64 ``[N]``."""
        right = decisions(answered.scores) == truth
        fine_hits = int((right & answered.fine).sum())
        coarse_hits = 0
        if answered.coarse is not None:
            above = np.asarray(exits.of, np.int64)[truth]
            coarse_hits = int(((decisions(answered.coarse) == above) & ~answered.fine).sum())
        counts = np.bincount(answered.exit - 1, minlength=len(exits.exits)).tolist()
        return cls(len(truth), fine_hits + coarse_hits, int(answered.fine.sum()), fine_hits, tuple(counts))

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.hits / self.images

    @property
    def fine_share(self) -> float:
        """Share of answers that name a class."""
        return self.fine / self.images

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, with Wilson 95 % intervals."""
        return {
            "accuracy": share(self.hits, self.images),
            "fine": share(self.fine, self.images),
            "fine_hits": self.fine_hits,
            "exits": [share(count, self.images) for count in self.exits],
        }


class Listener:
    """What stands for a judge's scores while it is evaluated, and keeps the answers that they come from."""

    def __init__(self, answered: Callable[[np.ndarray], Answered]) -> None:
        self._answered = answered
        self._parts: list[Answered] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The scores of tensors ``[N, ...]``."""
        self._parts.append(self._answered(x))
        return self._parts[-1].scores

    @property
    def heard(self) -> Answered:
        """All answers until now."""
        return Answered.join(self._parts)
