"""The photos that a lower precision is calibrated on, and others that it is judged on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..card import Preprocess
from ..errors import DataError
from ..runtime.dataset import FolderImages, LabelledImages, expand_images, open_dataset
from ..runtime.images import Source, load_image
from ..runtime.matching import match_classes
from ..runtime.preprocess import apply
from ..taxonomy import Taxonomy
from ..text import shown
from .sampling import spread

MOST = 512
"""Photos, both halves together: 256 of them tell apart drops of 0.4 points of agreement."""

SPLITS = ("train", "val")
"""Of a set in parts: ranges are taken from the first, decisions are judged on the second. A network decides what it was
trained on more clearly, so on the same photos a precision would look better than it is."""

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration:
    """Preprocessed photos ``[n, ...]`` to take ranges from, and others to judge on; ``notes`` are sentences."""

    observed: Array
    judged: Array
    notes: tuple[str, ...]


def calibration(
    path: str | Path,
    preprocess: Preprocess,
    labels: Sequence[str],
    *,
    taxonomy: Taxonomy | None = None,
    most: int = MOST,
    progress: Progress = lambda done, total: None,
) -> Calibration:
    """Read at most ``most`` photos under ``path``, equally many of each class of the expert, half of them for either.

    ``path`` is a folder with one folder per class, a packed set, or just a folder of photos; of the first two, only the
    expert's classes are read if there are any. A set in parts is observed on its ``train`` and judged on its ``val``;
    of any other every other photo goes to either. ``labels`` are the classes; ``taxonomy`` is the full model's, by
    which names of folders are understood. Photos that cannot be read are left out, and counted in a note. That all are
    of one class is a note too: ranges can be taken from them, but agreement on them says little.

    Raises ``DataError`` if there are not two photos that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no {shown(path)}.", "Give a folder with photos of the expert's classes.")
    parts = [split for split in SPLITS if (path / f"{split}.npz").is_file() or (path / split).is_dir()]
    if len(parts) < 2:
        sources, notes = _sources(path, parts[0] if parts else None, labels, taxonomy, most)
        halves = [sources[::2], sources[1::2]]
    else:
        found = [_sources(path, split, labels, taxonomy, most // 2) for split in SPLITS]
        halves, notes = (
            [sources for sources, _ in found],
            tuple(dict.fromkeys(note for _, more in found for note in more)),
        )
    total = sum(map(len, halves))
    tensors: list[list[Array]] = [[], []]
    unreadable = ""
    pairs = [(place, source) for place, half in zip(tensors, halves, strict=True) for source in half]
    for number, (place, source) in enumerate(pairs):
        progress(number, total)
        try:
            place.append(apply(load_image(source), preprocess))
        except DataError as error:
            unreadable = unreadable or error.message
    progress(total, total)
    read = sum(map(len, tensors))
    if not all(tensors):
        raise DataError(
            f"Of {total} photos in {shown(path)}, {read} can be read: calibration needs two or more.",
            unreadable or "Give a folder with photos of the expert's classes.",
        )
    if read < total:
        lost = f"{total - read} of {total} calibration photos cannot be read, the first of them: {unreadable}"
        notes = (*notes, lost)
    return Calibration(np.stack(tensors[0]), np.stack(tensors[1]), notes)


def _sources(
    path: Path, split: str | None, labels: Sequence[str], taxonomy: Taxonomy | None, most: int
) -> tuple[list[Source], tuple[str, ...]]:
    images = _labelled(path, split)
    if images is None:
        return _all(path, most), ()
    known = match_classes(images.classes, labels, taxonomy)
    of_class: dict[str, list[int]] = {}
    for index in range(len(images)):
        name = images.classes[images.label(index)]
        if name in known:
            of_class.setdefault(name, []).append(index)
    if not of_class and isinstance(images, FolderImages):  # folders may be years, or places
        return _all(path, most), ("No folder of the calibration photos is called like a class: all were used.",)
    if not of_class:
        raise DataError(f"{shown(path)} has no photos of the expert's classes.", "Give photos of them.")
    notes: tuple[str, ...] = ()
    if len(of_class) == 1 < len(labels):
        said = f"All calibration photos are of the class {shown(*of_class)}"
        notes = (f"{said}: the agreement on them says little about the other {len(labels) - 1}.",)
    return [images.open(index) for index in _balanced(list(of_class.values()), most)], notes


def _labelled(path: Path, split: str | None) -> LabelledImages | None:
    """The labelled set at ``path``, if it is one. A folder that cannot be listed is not, and reading it will say so."""
    if split is None and not any(child.is_dir() for child in path.glob("[!.]*")):
        return None
    return open_dataset(path, split or SPLITS[0])


def _all(path: Path, most: int) -> list[Source]:
    files = expand_images([path])
    return [files[index] for index in spread(len(files), most)]


def _balanced(groups: Sequence[Sequence[int]], most: int) -> list[int]:
    """At most ``most`` of the members, as equally many of each group as there are, groups one after the other."""
    left, chosen = most, {}
    for rank, at in enumerate(sorted(range(len(groups)), key=lambda at: len(groups[at]))):
        share = min(len(groups[at]), left // (len(groups) - rank))
        chosen[at], left = [groups[at][index] for index in spread(len(groups[at]), share)], left - share
    return [index for at in sorted(chosen) for index in chosen[at]]
