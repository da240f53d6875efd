"""Images on disk: files and folders of them, and labelled sets, read one image at a time.

A labelled set is a folder of class folders, a packed ``<split>.npz``, or CIFAR's binary version.

The packed form holds ``jpeg`` (uint8, all files one after another), ``offset`` (int64, N+1), ``label`` (int16) and,
optionally, ``name`` (bytes); ``meta.json`` beside it lists ``classes[k]`` with a ``label`` and a taxonomy ``path``.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..taxonomy import clean_text
from .cifar import is_cifar, open_cifar
from .parts import HALVES, half

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PACKED_BYTES = 2**36
MAX_META_BYTES = 2**26

PACKING = "Pack the photos again: jpeg, offset and label as plain arrays without objects, and meta.json beside them."

# what numpy, zipfile and json raise on a file that is not what it says
_UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class LabelledImages(Protocol):
    """A sequence of images with class labels; ``classes[label(i)]`` is the class name of image ``i``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> int:
        """The position of its class in ``classes``."""

    def name(self, index: int) -> str:
        """What the image is called at its source."""

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
        """The position of its class in ``classes``."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """What the image is called at its source."""
        return self.names[index] if self.names else f"#{index}"

    def open(self, index: int) -> io.BytesIO:
        """The JPEG file."""
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
        """The position of its class in ``classes``."""
        return self.labels[index]

    def name(self, index: int) -> str:
        """What the image is called at its source."""
        return str(self.files[index])

    def open(self, index: int) -> Path:
        """The image file."""
        return self.files[index]


def find_images(folder: Path) -> list[Path]:
    """All images below ``folder`` by their suffix, sorted; hidden files and folders are left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.is_dir()
    )


def expand_images(paths: Iterable[str | Path]) -> list[Path]:
    """The images that ``paths`` name: a folder stands for the images below it, anything else for itself.

    What does not exist stays in the list, so that reading it says so by name. Raises ``DataError`` for a folder without
    images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        below = find_images(path)
        if not below:
            raise DataError(
                f"The folder '{clean_text(str(path))}' holds no images.", f"Images end in {', '.join(IMAGE_SUFFIXES)}."
            )
        found += below
    return found


def open_dataset(path: str | Path, split: str = "val") -> LabelledImages:
    """Open the labelled images under ``path``; ``split`` picks ``<split>.npz`` or a sub-folder of that name.

    Behind the name, ``:tuning`` and ``:report`` pick one of its halves (``parts.half``), ``:coarse`` CIFAR-100's coarse
    labels. Raises ``DataError`` if there is nothing usable.
    """
    path = image_folder(path)
    name, _, kind = split.rpartition(":")
    if name and kind in HALVES:
        return half(open_dataset(path, name), kind)
    if is_cifar(path):
        return open_cifar(path, split.removesuffix(":coarse"), coarse=split.endswith(":coarse"))
    shown = clean_text(str(path))
    if (path / f"{split}.npz").is_file():
        return _open_packed(path, split)
    root = path / split if (path / split).is_dir() else path
    files: list[Path] = []
    labels: list[int] = []
    try:
        folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
        for number, folder in enumerate(folders):
            found = find_images(folder)
            files += found
            labels += [number] * len(found)
    except OSError as error:
        raise DataError(f"The folder '{shown}' cannot be read ({error.strerror}).", "Check its permissions.") from error
    if not files:
        packed = clean_text(", ".join(sorted(file.stem for file in path.glob("*.npz"))))
        if packed:
            split = clean_text(split)
            raise DataError(f"'{shown}' has no split '{split}', but {packed}.", "Choose one of them with --split.")
        raise DataError(
            f"'{shown}' holds no images in class folders.", "Put the images of each class into a folder of its name."
        )
    return FolderImages(tuple(clean_text(folder.name) for folder in folders), tuple(files), tuple(labels))


def image_folder(path: str | Path) -> Path:
    """``path``, if it is a folder; else a ``DataError`` that says what it is."""
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"The image folder '{clean_text(str(path))}' {what}.", "Give the folder that holds the photos.")
    return path


def _open_packed(path: Path, split: str) -> PackedImages:
    file, meta_file = path / f"{split}.npz", path / "meta.json"
    shown = clean_text(str(file))
    try:
        # opened here, as numpy leaves a file that is no archive open
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # numpy would take it for a pickle, and say how to load that
                raise DataError(f"'{shown}' is not an .npz archive, or a part of one only.", PACKING)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                if sum(member.file_size for member in archive.zip.infolist()) > MAX_PACKED_BYTES:
                    raise DataError(f"'{shown}' unpacks to more than 64 GiB.", "Split the set into smaller ones.")
                blob, offsets, labels = archive["jpeg"], archive["offset"], archive["label"]
                stored = archive.get("name", ())
                names = tuple(clean_text(name.decode("utf-8", "replace")) for name in stored)
        if meta_file.stat().st_size > MAX_META_BYTES:
            raise DataError(f"'{clean_text(str(meta_file))}' is larger than 64 MiB.", "It is a short list of classes.")
        meta = json.loads(meta_file.read_text(encoding="utf-8"))
        classes = tuple(clean_text(str(c.get("path") or c["label"]).rpartition("/")[2]) for c in meta["classes"])
    except _UNREADABLE as error:
        reason = clean_text(str(error))[:200] or type(error).__name__
        raise DataError(f"'{shown}' cannot be read as packed images ({reason.removesuffix('.')}).", PACKING) from error
    sound = (
        blob.dtype == np.uint8
        and offsets.dtype.kind in "iu"
        and labels.dtype.kind in "iu"
        and blob.ndim == offsets.ndim == labels.ndim == 1
        and len(offsets) == len(labels) + 1
        and len(labels) > 0
        and offsets[0] >= 0
        and offsets[-1] <= len(blob)
        and bool((offsets[1:] >= offsets[:-1]).all())  # not the difference, which is never negative if unsigned
        and labels.min() >= 0
        and labels.max() < len(classes)
        and len(names) in (0, len(labels))
    )
    if not sound:
        raise DataError(f"The index of '{shown}' contradicts its contents.", PACKING)
    return PackedImages(classes, blob.tobytes(), offsets, labels, names)
