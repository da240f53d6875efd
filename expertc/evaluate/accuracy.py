"""Top-1 accuracy on labelled images, overall and per class, with Wilson intervals."""

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
from .batches import Progress, Scores, batches


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
    """What a model decided about labelled images; every figure derives from the decisions.

    ``truth`` and ``decided`` (int64 ``[images]``) index ``labels``; a decision of -1 means that the scores were not
    numbers, which counts as wrong. ``unreadable`` lists ``(image, reason)``; those images count nowhere. ``left_out``
    counts the images of each data set class that the model does not know.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    truth: np.ndarray
    decided: np.ndarray
    unreadable: tuple[tuple[str, str], ...]
    left_out: Mapping[str, int]

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
) -> Evaluation:
    """Judge ``scores`` (tensors ``[N, ...]`` to ``[N, len(labels)]``) by the largest score of each image.

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
    decided: list[int] = []
    wanted = np.flatnonzero(truth >= 0).tolist()
    for indices, tensors in batches(dataset, wanted, preprocess, unreadable, batch, progress):
        judged += indices
        decided += decisions(scores(tensors)).tolist()
    if not judged:
        raise DataError(f"None of the {len(wanted)} images can be read.", unreadable[0][1])
    return Evaluation(
        tuple(labels),
        tuple(dataset.name(index) for index in judged),
        truth[judged],
        np.array(decided, np.int64),
        tuple(unreadable),
        dict(left_out),
    )


def decisions(scores: np.ndarray) -> np.ndarray:
    """The best class of each row of ``[N, classes]`` as int64 ``[N]``, the first where equal, -1 where one is NaN."""
    best: np.ndarray = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
    return best
