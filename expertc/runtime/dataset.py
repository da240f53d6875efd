"""Labelled images on disk, read one at a time: a folder of class folders, or a packed ``<split>.npz``.

The packed form holds ``jpeg`` (uint8, all files one after another), ``offset`` (int64, N+1), ``label`` (int16) and,
optionally, ``name`` (bytes); ``meta.json`` beside it lists ``classes[k]`` with a ``label`` and a taxonomy ``path``.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..taxonomy import clean_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class LabelledImages(Protocol):
    """A sequence of images with class labels; ``classes[label(i)]`` is the class name of image ``i``."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def label(self, index: int) -> int: ...

    def name(self, index: int) -> str: ...

    def open(self, index: int) -> io.BytesIO | Path:
        """The encoded image: something ``PIL.Image.open`` takes."""


@dataclass(frozen=True)
class PackedImages:
    """Images of one ``<split>.npz``; ``classes`` are the last parts of the taxonomy paths in ``meta.json``."""

    classes: tuple[str, ...]
    blob: bytes
    offsets: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"#{index}"

    def open(self, index: int) -> io.BytesIO:
        return io.BytesIO(self.blob[self.offsets[index] : self.offsets[index + 1]])


@dataclass(frozen=True)
class FolderImages:
    """Images of a folder with one sub-folder per class."""

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def label(self, index: int) -> int:
        return self.labels[index]

    def name(self, index: int) -> str:
        return str(self.files[index])

    def open(self, index: int) -> Path:
        return self.files[index]


def open_dataset(path: str | Path, split: str = "val") -> LabelledImages:
    """Open the labelled images under ``path``; ``split`` picks ``<split>.npz`` or a sub-folder of that name.

    Raises ``DataError`` if there is nothing usable.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"The image folder '{path}' does not exist.", "Give a folder with one sub-folder per class.")
    if (path / f"{split}.npz").is_file():
        return _open_packed(path, split)
    root = path / split if (path / split).is_dir() else path
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    files: list[Path] = []
    labels: list[int] = []
    for number, folder in enumerate(folders):
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        files += found
        labels += [number] * len(found)
    if not files:
        packed = sorted(file.stem for file in path.glob("*.npz"))
        also = f" It has the splits {', '.join(packed)}." if packed else ""
        raise DataError(
            f"'{root}' holds no images in class folders.{also}", "Put the images of each class into a folder of its name."
        )
    return FolderImages(tuple(clean_text(folder.name) for folder in folders), tuple(files), tuple(labels))


def _open_packed(path: Path, split: str) -> PackedImages:
    file = path / f"{split}.npz"
    try:
        with np.load(file, allow_pickle=False) as archive:
            blob, offsets, labels = archive["jpeg"].tobytes(), archive["offset"], archive["label"]
            names = tuple(clean_text(n.decode("utf-8", "replace")) for n in archive["name"]) if "name" in archive else ()
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        classes = tuple(clean_text(str(c.get("path") or c["label"]).rpartition("/")[2]) for c in meta["classes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"'{file}' cannot be read as packed images ({error}).", "See expertc.runtime.dataset.") from error
    sound = (
        offsets.ndim == labels.ndim == 1
        and len(offsets) == len(labels) + 1
        and len(labels) > 0
        and offsets[0] >= 0
        and offsets[-1] <= len(blob)
        and bool((np.diff(offsets) >= 0).all())
        and 0 <= labels.min()
        and labels.max() < len(classes)
        and len(names) in (0, len(labels))
    )
    if not sound:
        raise DataError(f"The index of '{file}' contradicts its contents.", "Pack the images again.")
    return PackedImages(classes, blob, offsets, labels, names)
