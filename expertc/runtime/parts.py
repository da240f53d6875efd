"""Parts of a labelled set: some of its images, or one half of them as HierNet's authors halve their held-out images.

What is chosen (a grouping, a threshold) is chosen on one half, and what is reported is measured on the other, once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dataset import LabelledImages

HALVES = ("tuning", "report")


@dataclass(frozen=True)
class Part:
    """The images of ``whole`` numbered ``indices``, with all its classes."""

    whole: LabelledImages
    indices: Sequence[int]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.whole.classes

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> int:
        """The position of its class in ``classes``."""
        return self.whole.label(self.indices[index])

    def name(self, index: int) -> str:
        """What the image is called at its source."""
        return self.whole.name(self.indices[index])

    def open(self, index: int) -> io.BytesIO | Path:
        """The encoded image: something ``PIL.Image.open`` takes."""
        return self.whole.open(self.indices[index])


def half(images: LabelledImages, which: str) -> Part:
    """One of the ``HALVES``: of every class every second image in the order of a hash of their names.

    The name is the file's and its folder's, so neither the order of the images nor where they lie changes it.
    """

    def key(index: int) -> tuple[int, bytes]:
        name = "/".join(PurePath(images.name(index)).parts[-2:])
        return images.label(index), hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    first = HALVES.index(which)
    counted: dict[int, int] = {}
    chosen = []
    for index in sorted(range(len(images)), key=key):
        place = counted[images.label(index)] = counted.get(images.label(index), -1) + 1
        if place % 2 == first:
            chosen.append(index)
    return Part(images, sorted(chosen))
