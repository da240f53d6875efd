"""CIFAR-10 and CIFAR-100 in their authors' "binary version", which needs no pickle to be read.

The files are those of cifar-10-binary.tar.gz and cifar-100-binary.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html):
records of a fixed length, of CIFAR-100 a byte with the coarse and one with the fine label, of CIFAR-10 one with the
label, then 1,024 bytes each of red, green and blue, row by row. The names of the classes are text files beside them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..text import clean_text, shown

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_FILE = 2**30  # bytes; CIFAR-100's largest has 154 million
MAX_NAMES = 2**16  # bytes of a list of class names; CIFAR-100's has 900

_TEN = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
_FINE, _COARSE, _META = "fine_label_names.txt", "coarse_label_names.txt", "batches.meta.txt"


@dataclass(frozen=True)
class CifarImages:
    """Images of one split. ``pixels``: uint8 ``[N, 3, 32, 32]``, ``labels``: uint8 ``[N]``, ``source``: for names."""

    classes: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """The position of its class in ``classes``."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """The split and the number of the image in it."""
        return f"{self.source}#{index}"

    def open(self, index: int) -> io.BytesIO:
        """The image as a PPM file."""
        return io.BytesIO(b"P6 %d %d 255\n" % (SIDE, SIDE) + self.pixels[index].transpose(1, 2, 0).tobytes())


def is_cifar(folder: Path) -> bool:
    """Whether ``folder`` has the files of a binary version."""
    return any((folder / name).is_file() for name in (_FINE, _META))


def open_cifar(folder: Path, split: str, *, coarse: bool = False) -> CifarImages:
    """The images of ``split``, "train" or "test"; ``coarse``: with CIFAR-100's 20 coarse labels, not its 100 fine ones.

    Raises ``DataError`` if there is no such split, a file cannot be read or is no such file, or CIFAR-10 is asked for
    coarse labels.
    """
    hundred = (folder / _FINE).is_file()
    if split not in _TEN or (coarse and not hundred):
        raise DataError(
            f"{shown(folder)} has no split {shown(split + (':coarse' if coarse else ''))}.",
            f"Choose train or test{' or train:coarse or test:coarse' if hundred else ''}.",
        )
    files = [folder / f"{split}.bin"] if hundred else sorted(folder.glob(_TEN[split])) or [folder / _TEN[split]]
    classes = _names(folder / (_COARSE if coarse else _FINE if hundred else _META))
    head = 2 if hundred else 1
    records = np.concatenate([_records(file, head + PIXELS) for file in files])
    labels = records[:, 1 if hundred and not coarse else 0]
    if not len(labels) or labels.max() >= len(classes):
        raise DataError(
            f"{shown(files[0])} and the names of the {len(classes)} classes beside it do not belong together.",
            "Unpack the archive again.",
        )
    return CifarImages(classes, records[:, head:].reshape(-1, 3, SIDE, SIDE), labels, split)


def _records(file: Path, length: int) -> np.ndarray:
    try:
        values = np.fromfile(file, np.uint8, MAX_FILE + 1)
    except OSError as error:
        raise DataError(f"{shown(file)} cannot be read ({error.strerror}).", "Unpack the archive again.") from error
    if len(values) % length or len(values) > MAX_FILE:
        raise DataError(f"{shown(file)} is no whole number of records of {length} bytes.", "Unpack the archive again.")
    return values.reshape(-1, length)


def _names(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_NAMES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(file)} holds no names of classes.", "Unpack the archive again.") from error
    return tuple(clean_text(line.strip()) for line in text.splitlines() if line.strip())
