"""Some photos of a data set or a folder, as tensors: what verification on real images needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..card import Preprocess
from ..errors import DataError
from ..runtime.dataset import expand_images, open_dataset
from ..runtime.images import Source, load_image
from ..runtime.preprocess import apply

MAX_PHOTOS = 64


def sample(path: str | Path, preprocess: Preprocess, most: int = MAX_PHOTOS, split: str = "val") -> np.ndarray:
    """At most ``most`` photos under ``path``, spread evenly, as a batch ``[N, ...]`` of the preprocessing's type.

    ``path`` is a labelled data set (folders per class, or packed) or just a folder of photos. Unreadable ones are left
    out. Raises ``DataError`` if there are none.
    """
    found = photos(path, most, split)
    tensors = []
    for source in found:
        try:
            tensors.append(apply(load_image(source), preprocess))
        except DataError:
            continue  # verification needs some photos, not each of them; prediction is where a bad one is reported
    if not tensors:
        raise DataError(f"None of the {len(found)} photos in '{path}' can be read.", "Give a folder with photos.")
    return np.stack(tensors)


def photos(path: str | Path, most: int = MAX_PHOTOS, split: str = "val") -> list[Source]:
    """At most ``most`` photos under ``path``, spread evenly, not yet decoded; ``DataError`` if there are none."""
    path = Path(path)
    if (path / f"{split}.npz").is_file():
        images = open_dataset(path, split)
        return [images.open(index) for index in spread(len(images), most)]
    files = expand_images([path])
    return [files[index] for index in spread(len(files), most)]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` positions among ``count``, evenly spaced, ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []
