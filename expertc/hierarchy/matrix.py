"""The confusion probability matrix: what a classifier holds possible, on average, for the images of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..text import shown

TOLERANCE = 1e-3  # of a row's sum: float16 probabilities, eps 2**-10, each correctly rounded, stay within it


def confusion_probabilities(truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Mean probabilities per true class, float64 ``[C, C]``: row = true class, column = what it is taken for.

    ``truth`` is int ``[N]``, ``probabilities`` ``[N, C]`` with rows that sum to one, ``labels`` name the C classes.
    This is the confusion probability matrix of HierNet (paper 002). Raises ``DataError`` if a class has no image or the
    numbers are not probabilities.
    """
    classes = len(labels)
    images = np.bincount(truth, minlength=classes)
    if not images.all():
        missing = [labels[index] for index in np.flatnonzero(images == 0).tolist()]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"There is no photo of {shown(missing[0])}{more}: what it is taken for is not known.",
            "Give photos of every class.",
        )
    starts = np.cumsum(images) - images  # of each class, once its images stand together
    sums = np.add.reduceat(np.asarray(probabilities, np.float64)[np.argsort(truth, kind="stable")], starts, axis=0)
    return checked(sums / images[:, None], labels)


def checked(matrix: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """``matrix`` as float64 ``[C, C]``, C = ``len(labels)``.

    Raises ``DataError`` for another shape, numbers that are no probabilities, and rows that do not sum to one.
    """
    made: np.ndarray = np.asarray(matrix, np.float64)
    if made.shape != (len(labels), len(labels)):
        raise DataError(
            f"The confusion matrix has shape {list(made.shape)}, but there are {len(labels)} classes.",
            "Give a row and a column for each class.",
        )
    sums = made.sum(axis=1)
    wrong = ~(np.abs(sums - 1) <= TOLERANCE) | ~(made >= 0).all(axis=1)  # written so that NaN is wrong
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"The mean probabilities of {shown(labels[row])} are no distribution (they sum to {sums[row]:.4g}).",
            "Give a model with one softmax over all its classes, or logits.",
        )
    return made
