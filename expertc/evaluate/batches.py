"""The images of a labelled set as batches of tensors; those that cannot be read are noted, not fatal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from ..card import Preprocess
from ..errors import DataError
from ..runtime.dataset import LabelledImages
from ..runtime.images import load_image
from ..runtime.preprocess import apply
from ..taxonomy import clean_text

Scores: TypeAlias = Callable[[np.ndarray], np.ndarray]  # tensors [N, 3, H, W] to scores [N, classes]
Progress: TypeAlias = Callable[[int, int], None]  # called with how many images are done, and of how many


def batches(
    dataset: LabelledImages,
    indices: Sequence[int],
    preprocess: Preprocess,
    unreadable: list[tuple[str, str]],
    batch: int,
    progress: Progress | None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield ``(indices, tensors [n, ...])``, n <= ``batch``, and append ``(name, reason)`` to ``unreadable``."""
    done = 0
    for start in range(0, len(indices), batch):
        read: list[int] = []
        tensors: list[np.ndarray] = []
        for index in indices[start : start + batch]:
            name = clean_text(dataset.name(index))
            try:
                tensors.append(apply(load_image(dataset.open(index), name), preprocess))
                read.append(index)
            except DataError as error:
                unreadable.append((name, error.message))
        if read:
            yield read, np.stack(tensors)
        done += len(indices[start : start + batch])
        if progress is not None:
            progress(done, len(indices))
