"""Whether two models decide alike, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..card import Preprocess
from ..errors import DataError
from ..runtime.dataset import LabelledImages
from .accuracy import decisions
from .batches import Progress, Scores, batches


@dataclass(frozen=True)
class Agreement:
    """Top-1 decisions of two models about the same images.

    ``disagreeing`` lists ``(image, class of a, class of b)`` by index, -1 where a model gave NaN (which agrees with
    nothing). ``max_abs_difference`` is that of the scores, NaN if any score is.
    """

    images: int
    disagreeing: tuple[tuple[str, int, int], ...]
    max_abs_difference: float
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def agreed(self) -> int:
        """Images that both models decide alike."""
        return self.images - len(self.disagreeing)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types; a difference that is not a number is None."""
        difference = self.max_abs_difference if np.isfinite(self.max_abs_difference) else None
        return {
            "images": self.images,
            "agreed": self.agreed,
            "disagreeing": [{"image": name, "a": a, "b": b} for name, a, b in self.disagreeing],
            "max_abs_difference": difference,
            "unreadable": [{"image": name, "error": reason} for name, reason in self.unreadable],
        }


def agreement(names: Sequence[str], a: np.ndarray, b: np.ndarray) -> Agreement:
    """Compare two score arrays ``[images, classes]`` whose rows are the same images and whose columns the same classes.

    Raises ``ValueError`` if their shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2 or len(names) != len(a):
        raise ValueError(f"{len(names)} names, scores {a.shape} and {b.shape} do not belong together")
    left, right = decisions(a), decisions(b)
    apart: list[int] = np.flatnonzero((left != right) | (left < 0)).tolist()
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
    return Agreement(len(a), tuple((names[i], int(left[i]), int(right[i])) for i in apart), float(difference))


def compare(
    a: Scores,
    b: Scores,
    preprocess: Preprocess,
    dataset: LabelledImages,
    *,
    only: Mapping[str, int] | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Agreement:
    """Run two models over the same images and compare their scores (columns must be the same classes).

    A full model is compared with an expert as ``lambda x: full(x)[:, selection.indices]``. ``only`` keeps the images of
    the classes that it names (as ``match_classes`` returns them); without it all are compared. Raises ``DataError`` if
    no image can be read.
    """
    classes = dataset.classes
    wanted = [i for i in range(len(dataset)) if only is None or classes[dataset.label(i)] in only]
    unreadable: list[tuple[str, str]] = []
    names: list[str] = []
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    for indices, tensors in batches(dataset, wanted, preprocess, unreadable, batch, progress):
        names += [dataset.name(index) for index in indices]
        rows.append((a(tensors), b(tensors)))
    if not rows:
        reason = unreadable[0][1] if unreadable else "The data set has no image of these classes."
        raise DataError(f"None of the {len(wanted)} images can be compared.", reason)
    found = agreement(names, np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]))
    return Agreement(found.images, found.disagreeing, found.max_abs_difference, tuple(unreadable))
