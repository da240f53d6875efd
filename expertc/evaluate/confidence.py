"""Whether a model is right as often as it says: top-k, calibration, and what is left when it only speaks if sure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..intervals import wilson

POINTS = 100  # of a curve of coverage, at most

BINS = 15
"""Bins of the calibration error, as in Guo et al., On Calibration of Modern Neural Networks (ICML 2017), section 4."""


@dataclass(frozen=True)
class Coverage:
    """``covered`` of ``images`` have a best probability of at least ``reject``; of these, ``hits`` are right."""

    reject: float
    images: int
    covered: int
    hits: int

    @property
    def coverage(self) -> float:
        """Share of the images that are covered."""
        return self.covered / self.images

    @property
    def accuracy(self) -> float | None:
        """Share of hits among them, None if there are none."""
        return self.hits / self.covered if self.covered else None

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, with Wilson 95 % intervals."""
        return {
            "reject": self.reject,
            "images": self.images,
            "covered": self.covered,
            "coverage": self.coverage,
            "coverage_interval": list(wilson(self.covered, self.images)),
            "hits": self.hits,
            "accuracy": self.accuracy,
            "interval": list(wilson(self.hits, self.covered)),
        }


@dataclass(frozen=True)
class Bin:
    """Decisions with a probability above ``low``, up to ``high``: how many, how many right, and their mean probability.

    ``confidence`` is None where there are none.
    """

    low: float
    high: float
    images: int
    hits: int
    confidence: float | None

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, with the Wilson 95 % interval of the accuracy."""
        accuracy = self.hits / self.images if self.images else None
        return asdict(self) | {"accuracy": accuracy, "interval": list(wilson(self.hits, self.images))}


def ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many classes stand before the true one in each row of ``[N, classes]``, int64 ``[N]``.

    Equal scores stand in the order of the classes; where one is NaN all stand before it.
    """
    own = scores[np.arange(len(scores)), truth][:, None]
    earlier = np.arange(scores.shape[1]) < truth[:, None]
    before = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    found: np.ndarray = np.where(np.isnan(scores).any(axis=1), scores.shape[1], before)
    return found


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of probabilities and whether the decisions were right, both ``[N]`` with N >= 1.

    Bins of equal width, open below and closed above; the error is the mean over all images of the distance of a bin's
    accuracy from its mean probability (Guo et al. 2017, equation 3).
    """
    gaps = np.bincount(_bins(confidence, bins), weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """The bins of the calibration error, for a reliability diagram (Guo et al. 2017, figure 1)."""
    places = _bins(confidence, bins)
    images = np.bincount(places, minlength=bins).tolist()
    hits = np.bincount(places[right], minlength=bins).tolist()
    sums = np.bincount(places, weights=confidence, minlength=bins).tolist()
    return tuple(
        Bin(at / bins, (at + 1) / bins, n, k, total / n if n else None)
        for at, (n, k, total) in enumerate(zip(images, hits, sums, strict=True))
    )


def covered(confidence: np.ndarray, right: np.ndarray, reject: float) -> Coverage:
    """What is left of the images whose probability, NaN for none, is at least ``reject``."""
    sure = confidence >= reject
    return Coverage(reject, len(confidence), int(sure.sum()), int((sure & right).sum()))


def coverages(confidence: np.ndarray, right: np.ndarray, most: int = POINTS) -> tuple[Coverage, ...]:
    """``covered`` at each probability that occurs, from the surest on; of more than ``most``, some spread evenly.

    What is wrong of the covered against the coverage is the risk-coverage curve (El-Yaniv & Wiener, JMLR 2010).
    """
    known = np.flatnonzero(np.isfinite(confidence))
    order = known[np.argsort(-confidence[known], kind="stable")]
    ranked, hits = confidence[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])  # equal ones come together
    picks = ends[np.unique(np.linspace(0, len(ends) - 1, min(most, len(ends))).round().astype(int))]
    return tuple(Coverage(float(ranked[i]), len(confidence), i + 1, int(hits[i])) for i in picks.tolist())


def _bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each probability."""
    places: np.ndarray = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return places
