"""Photos of things that a model does not know: which they are, and what the model says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CardError, DataError
from ..intervals import wilson
from ..runtime import Reject
from ..runtime.dataset import FolderImages, LabelledImages, find_images, image_folder, open_dataset
from ..runtime.matching import match_classes
from ..runtime.scores import scope_score
from ..taxonomy import Taxonomy
from ..text import shown
from .accuracy import Evaluation
from .batches import Progress, batches
from .judges import Judge
from .scope import Separation, roc, separations


@dataclass(frozen=True)
class Others:
    """The photos at ``indices`` of ``images``; ``own`` photos of the model's classes were left out."""

    images: LabelledImages
    indices: tuple[int, ...]
    own: int


@dataclass(frozen=True)
class Seen:
    """The model's raw numbers ``[N, classes]`` for what could be read of the others, all of them finite.

    ``undecided`` counts the photos for which they are not.
    """

    scores: np.ndarray
    own: int
    unreadable: tuple[tuple[str, str], ...]
    undecided: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, without the scores."""
        return {
            "images": len(self.scores),
            "own_left_out": self.own,
            "undecided": self.undecided,
            "unreadable": [{"image": name, "error": reason} for name, reason in self.unreadable],
        }


@dataclass(frozen=True)
class Scope:
    """A model's finite raw numbers ``[N, classes]``, of ``kind``, for its ``own`` classes, and what it said of others.

    ``reject`` is the threshold that its bundle holds.
    """

    own: np.ndarray
    seen: Seen
    kind: str
    reject: Reject | None = None

    @cached_property
    def separations(self) -> tuple[Separation, ...]:
        """Every score that tells them apart, best first."""
        return separations(self.own, self.seen.scores, self.kind)

    @cached_property
    def rejected(self) -> int:
        """How many own photos the bundle's threshold rejects."""
        return self._below(self.own)

    @cached_property
    def caught(self) -> int:
        """How many of the others it rejects."""
        return self._below(self.seen.scores)

    def _roc(self, score: str) -> dict[str, list[float]]:
        own, others = (scope_score(score, rows, self.kind) for rows in (self.own, self.seen.scores))
        return dict(zip(("own", "others"), roc(own, others), strict=True))

    def _below(self, scores: np.ndarray) -> int:
        return 0 if self.reject is None else int(self.reject.rejects(scores, self.kind).sum())

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        scores = [one.to_mapping() | {"roc": self._roc(one.score)} for one in self.separations]
        found: dict[str, Any] = {**self.seen.to_mapping(), "scores": scores}
        if self.reject is None:
            return found
        own, others = len(self.own), len(self.seen.scores)
        return found | {
            "threshold": {
                "rejected": share(self.rejected, own),
                "caught": share(self.caught, others),
            }
        }


def share(hits: int, images: int) -> dict[str, Any]:
    """``hits`` of ``images`` with their share and its Wilson 95 % interval, as plain JSON types."""
    return {"images": images, "hits": hits, "share": hits / images, "interval": list(wilson(hits, images))}


def open_others(path: str | Path, split: str, labels: Sequence[str], taxonomy: Taxonomy | None = None) -> Others:
    """The photos under ``path``, a packed set or any folder, but for those of the classes ``labels``.

    In a folder these are known by the name of a folder that they are in. Raises ``DataError`` if there are no others.
    """
    path = Path(path)
    images = open_dataset(path, split) if (path / f"{split}.npz").is_file() else _folder(path, split, labels, taxonomy)
    own = match_classes(images.classes, labels, taxonomy)
    others = tuple(index for index in range(len(images)) if images.classes[images.label(index)] not in own)
    if not others:
        raise DataError(
            f"All photos in {shown(path)} are of the expert's own classes.", "Give photos of other things as --others."
        )
    return Others(images, others, len(images) - len(others))


def scope(judge: Judge, found: Evaluation, others: Others, progress: Progress | None = None, batch: int = 16) -> Scope:
    """Run the model over the others, beside what it ``found`` of its own classes.

    Raises ``DataError`` if it has a number for none of either, ``CardError`` without preprocessing.
    """
    if judge.preprocess is None or found.scores is None:
        raise CardError("The model does not say how images become its input.", "Give --preprocess.")
    unreadable: list[tuple[str, str]] = []
    seen = batches(others.images, others.indices, judge.preprocess, unreadable, batch, progress)
    read = [judge.scores(tensors) for _, tensors in seen]
    if not read:
        raise DataError(f"None of the {len(others.indices)} other photos can be read.", unreadable[0][1])
    scores, undecided = _sound(np.concatenate(read))
    own, _ = _sound(found.scores)
    return Scope(own, Seen(scores, others.own, tuple(unreadable), undecided), judge.kind, judge.reject)


def _sound(scores: np.ndarray) -> tuple[np.ndarray, int]:
    """The rows whose numbers are all finite, and how many are not; ``DataError`` if none is."""
    finite = np.isfinite(scores).all(axis=1)
    if not finite.any():
        raise DataError("The model gives no numbers for these photos (NaN or infinity).", "Verify the bundle.")
    return scores[finite], int((~finite).sum())


def _folder(path: Path, split: str, labels: Sequence[str], taxonomy: Taxonomy | None) -> FolderImages:
    """All photos below, in classes: the first folder on the way to a photo that is one of ``labels``, or ""."""
    image_folder(path)
    root = path / split if (path / split).is_dir() else path
    files = find_images(root)
    if not files:
        raise DataError(f"The folder {shown(path)} holds no images.", "Give a folder with photos of other things.")
    ways = [file.relative_to(root).parts[:-1] or (root.resolve().name,) for file in files]
    own = match_classes({name for way in ways for name in way}, labels, taxonomy)
    found = [next((name for name in way if name in own), "") for way in ways]
    classes = tuple(dict.fromkeys(found))
    return FolderImages(classes, tuple(files), tuple(classes.index(name) for name in found))
