"""How well one number tells photos of a model's own classes from photos of other things, and where to cut.

Own photos should score high; both samples are float64 ``[N]`` without NaN, N >= 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from ..errors import DataError
from ..runtime.scores import scope_score, scope_scores

POINTS = 200  # of a ROC curve, at most

ACCEPTED = 95
"""Per cent of the own photos that are let in where false positives are counted, as in Liu et al. (NeurIPS 2020)."""


@dataclass(frozen=True)
class Separation:
    """``auroc`` is the chance that an own photo scores higher than another one, counting equal scores as half;
    ``fpr95`` the share of the others that are let in by a threshold that lets in 95 % of the own."""

    score: str
    auroc: float
    fpr95: float

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def separations(own: np.ndarray, others: np.ndarray, kind: str) -> tuple[Separation, ...]:
    """Every score that the raw numbers ``[N, classes]`` of ``kind`` allow, the one that separates best first."""
    found = []
    for name in scope_scores(kind):
        a, b = (scope_score(name, scores, kind) for scores in (own, others))
        found.append(Separation(name, auroc(a, b), false_positives(a, b)))
    return tuple(sorted(found, key=lambda one: -one.auroc))


def auroc(own: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve: of all pairs, the share in which the own photo scores higher; equal ones are half."""
    ranked = np.sort(others)
    below, upto = (np.searchsorted(ranked, own, side) for side in ("left", "right"))
    return float((below + upto).sum() / (2 * len(own) * len(others)))


def false_positives(own: np.ndarray, others: np.ndarray) -> float:
    """Share of ``others`` at or above the highest threshold that at least 95 % of ``own`` reach."""
    least = np.sort(own)[len(own) * (100 - ACCEPTED) // 100]
    return float((others >= least).mean())


def roc(own: np.ndarray, others: np.ndarray, most: int = POINTS) -> tuple[list[float], list[float]]:
    """Shares of ``own`` and of ``others`` that are let in, from a threshold that nothing reaches to one that all do.

    One pair per threshold; of more than ``most`` different scores, some spread evenly.
    """
    cuts = np.unique(np.concatenate([own, others]))[::-1]
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, min(most, len(cuts))).round().astype(int))]
    a, b = ([0.0, *(1 - np.searchsorted(np.sort(scores), cuts) / len(scores)).tolist()] for scores in (own, others))
    return a, b


def threshold(own: np.ndarray, rate: float) -> float:
    """The number below which the share ``rate`` of ``own`` lies, rounded down to whole photos, fewer where some equal.

    It lies midway between two photos, so that rounding on another machine moves none across. Raises ``DataError`` if
    it would reject none of them.
    """
    wanted = int(rate * len(own) + 1e-9)  # 0.29 * 100 is a little less than 29
    if wanted == 0:
        raise DataError(
            f"{len(own)} photos are too few to reject {100 * rate:g} % of them.",
            f"Give at least {ceil(1 / rate)} photos of the expert's own classes, or a larger --reject-rate.",
        )
    low, high = np.sort(own)[[wanted - 1, min(wanted, len(own) - 1)]].tolist()
    middle = low + (high - low) / 2
    cut: float = middle if low < middle else high
    if not (own < cut).any():
        raise DataError(
            "The lowest scores of the expert's own photos are all equal, so no threshold rejects just some of them.",
            "Give a larger --reject-rate, or an expert that ends in logits.",
        )
    return cut
