"""Accuracy on labelled images, overall and per class, with Wilson intervals, and how far its probabilities hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..card import Preprocess
from ..errors import DataError
from ..intervals import wilson
from ..runtime.dataset import LabelledImages
from ..runtime.matching import match_classes
from ..runtime.scores import probabilities
from .batches import Progress, Scores, batches
from .confidence import BINS, Bin, Coverage, calibration_error, coverages, covered, ranks, reliability

TOP = 5


@dataclass(frozen=True)
class ClassResult:
    """``hits`` of ``images``, all of one class (or of all classes), with the Wilson 95 % interval of their share."""

    label: str
    images: int
    hits: int

    @property
    def accuracy(self) -> float | None:
        """Share of hits, None without images."""
        return self.hits / self.images if self.images else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval; (0, 1) without images."""
        return wilson(self.hits, self.images)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        numbers = {"images": self.images, "hits": self.hits, "accuracy": self.accuracy}
        return {"label": self.label, **numbers, "interval": list(self.interval)}


@dataclass(frozen=True)
class Evaluation:
    """What a model decided about labelled images; every figure derives from the decisions and the scores.

    ``truth`` and ``decided`` (int64 ``[images]``) index ``labels``; a decision of -1 means that the scores were not
    numbers, which counts as wrong. ``unreadable`` lists ``(image, reason)``; those images count nowhere. ``left_out``
    counts the images of each data set class that the model does not know. ``scores`` are the model's raw numbers
    ``[images, labels]``, of ``kind``; without them only decisions can be counted.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    truth: np.ndarray
    decided: np.ndarray
    unreadable: tuple[tuple[str, str], ...]
    left_out: Mapping[str, int]
    scores: np.ndarray | None = None
    kind: str = "logits"

    @property
    def images(self) -> int:
        """How many images were judged."""
        return len(self.truth)

    @cached_property
    def overall(self) -> ClassResult:
        """All classes together."""
        return ClassResult("all", self.images, int((self.truth == self.decided).sum()))

    @property
    def hits(self) -> int:
        """How many decisions were right."""
        return self.overall.hits

    @property
    def accuracy(self) -> float:
        """Share of right decisions, top-1."""
        return self.hits / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the accuracy."""
        return self.overall.interval

    @cached_property
    def top5(self) -> ClassResult | None:
        """Images whose class is among the best ``TOP``; None where that says nothing, with no more classes."""
        if self.scores is None or len(self.labels) <= TOP:
            return None
        return ClassResult("all", self.images, int((ranks(self.scores, self.truth) < TOP).sum()))

    @cached_property
    def confidence(self) -> np.ndarray | None:
        """The decision's probability, float64 ``[images]``, NaN without one; None of a single class."""
        if self.scores is None or len(self.labels) == 1:
            return None
        best: np.ndarray = probabilities(self.scores, self.kind).max(axis=1)
        return best

    @cached_property
    def calibration_error(self) -> float | None:
        """Expected calibration error of the images with a probability, None without any."""
        if self.confidence is None or not (known := np.isfinite(self.confidence)).any():
            return None
        return calibration_error(self.confidence[known], (self.truth == self.decided)[known])

    @cached_property
    def reliability(self) -> tuple[Bin, ...]:
        """The bins behind the calibration error; () without any probability."""
        if self.confidence is None or not (known := np.isfinite(self.confidence)).any():
            return ()
        return reliability(self.confidence[known], (self.truth == self.decided)[known])

    @cached_property
    def coverages(self) -> tuple[Coverage, ...]:
        """What is left at each probability as a threshold, from the highest on; () without any."""
        return () if self.confidence is None else coverages(self.confidence, self.truth == self.decided)

    def covered(self, reject: float) -> Coverage:
        """What is left if only probabilities from ``reject`` on count; ``DataError`` where there are none."""
        if self.confidence is None:
            raise DataError(
                "A single class has no probability that could be too low.", "Evaluate a model of several classes."
            )
        return covered(self.confidence, self.truth == self.decided, reject)

    @cached_property
    def per_class(self) -> tuple[ClassResult, ...]:
        """One result per label, in the order of ``labels``."""
        images = np.bincount(self.truth, minlength=len(self.labels))
        hits = np.bincount(self.truth[self.truth == self.decided], minlength=len(self.labels))
        return tuple(map(ClassResult, self.labels, images.tolist(), hits.tolist()))

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 ``[labels, labels]``: row = true class, column = decision; images without a decision are not in it."""
        matrix = np.zeros((len(self.labels), len(self.labels)), np.int64)
        made = self.decided >= 0
        np.add.at(matrix, (self.truth[made], self.decided[made]), 1)
        return matrix

    @cached_property
    def confusions(self) -> tuple[tuple[int, int, int], ...]:
        """``(true class, decision, images)`` of wrong decisions, by position in ``labels``, the most frequent first."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        rows, columns = np.nonzero(wrong)
        order = np.argsort(-wrong[rows, columns], kind="stable")
        found = zip(rows[order].tolist(), columns[order].tolist(), wrong[rows, columns][order].tolist(), strict=True)
        return tuple(found)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Images for which the model gave NaN."""
        return tuple(self.names[index] for index in np.flatnonzero(self.decided < 0).tolist())

    @property
    def absent(self) -> tuple[str, ...]:
        """Labels of the model that have no image here: nothing is known about them."""
        return tuple(result.label for result in self.per_class if not result.images)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, for ``--json``."""
        summary = {key: value for key, value in self.overall.to_mapping().items() if key != "label"}
        return {
            **summary,
            "top5": None if self.top5 is None else self.top5.to_mapping(),
            "calibration": {"error": self.calibration_error, "bins": BINS},
            "reliability": [one.to_mapping() for one in self.reliability],
            "risk": {name: [getattr(one, name) for one in self.coverages] for name in ("reject", "covered", "hits")},
            "classes": [result.to_mapping() for result in self.per_class],
            "confusion": self.confusion.tolist(),
            "absent": list(self.absent),
            "left_out": dict(self.left_out),
            "undecided": list(self.undecided),
            "unreadable": [{"image": name, "error": reason} for name, reason in self.unreadable],
        }


def evaluate(
    scores: Scores,
    preprocess: Preprocess,
    labels: Sequence[str],
    dataset: LabelledImages,
    *,
    match: Mapping[str, int] | None = None,
    batch: int = 16,
    progress: Progress | None = None,
    kind: str = "logits",
) -> Evaluation:
    """Judge ``scores`` (tensors ``[N, ...]`` to ``[N, len(labels)]``, of ``kind``) by the largest of each image.

    ``match`` maps names of the data set's classes to positions in ``labels`` (default: ``match_classes``); images of
    other classes are left out and counted. ``progress`` is called with (done, all) after each batch. Raises
    ``DataError`` if no class is known to the model, or no image of a known class can be read.
    """
    known = match_classes(dataset.classes, labels) if match is None else match
    of_class = [known.get(name, -1) for name in dataset.classes]
    truth = np.array([of_class[dataset.label(index)] for index in range(len(dataset))], np.int64)
    left_out = Counter(dataset.classes[dataset.label(int(index))] for index in np.flatnonzero(truth < 0))
    if not known or not (truth >= 0).any():
        some = ", ".join(dataset.classes[:5]) + (", …" if len(dataset.classes) > 5 else "")
        raise DataError(
            f"No image is of a class that the model knows (the data set has {some}).",
            "Name the folders like the model's classes.",
        )
    unreadable: list[tuple[str, str]] = []
    judged: list[int] = []
    rows: list[np.ndarray] = []
    wanted = np.flatnonzero(truth >= 0).tolist()
    for indices, tensors in batches(dataset, wanted, preprocess, unreadable, batch, progress):
        judged += indices
        rows.append(scores(tensors))
    if not judged:
        raise DataError(f"None of the {len(wanted)} images can be read.", unreadable[0][1])
    raw = np.concatenate(rows)
    return Evaluation(
        tuple(labels),
        tuple(dataset.name(index) for index in judged),
        truth[judged],
        decisions(raw),
        tuple(unreadable),
        dict(left_out),
        raw,
        kind,
    )


def decisions(scores: np.ndarray) -> np.ndarray:
    """The best class of each row of ``[N, classes]`` as int64 ``[N]``, the first where equal, -1 where one is NaN."""
    best: np.ndarray = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
    return best
