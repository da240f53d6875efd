"""Weights and images that need not be carried: drawn on every machine from the same seeds, to the bit.

Only PCG64's raw numbers are used, which numpy promises never to change (NEP 19), and single operations of float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

BITS = 23  # of the uniform numbers: 2 u - 1 is exact in float32
DTYPES = ("float32", "float16")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Draw:
    """A tensor of ``count`` numbers, evenly spread over ``mean`` ± ``spread``; ``offset`` is where its file has it."""

    name: str
    seed: int
    count: int
    mean: float
    spread: float
    dtype: str = "float32"
    offset: int = 0

    def values(self) -> Array:
        """The numbers, flat; those of float16 are the same, rounded."""
        if self.dtype not in DTYPES:
            raise ValueError(f"a draw of {self.dtype}")
        uniform = (np.random.PCG64(self.seed).random_raw(self.count) >> np.uint64(64 - BITS)).astype(np.float32)
        uniform *= np.float32(2.0 ** (1 - BITS))
        uniform -= np.float32(1)
        uniform *= np.float32(self.spread)
        uniform += np.float32(self.mean)
        return uniform.astype(self.dtype)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def restore(path: Path, rest: bytes, draws: Sequence[Draw]) -> str:
    """Write the file of which ``rest`` is what is left without the draws; its SHA-256."""
    digest, at, done = hashlib.sha256(), 0, 0
    with open(path, "wb") as file:
        for draw in sorted(draws, key=lambda draw: draw.offset):
            before = draw.offset - at
            for part in (rest[done : done + before], draw.values().tobytes()):
                file.write(part)
                digest.update(part)
                at += len(part)
            done += before
        file.write(rest[done:])
        digest.update(rest[done:])
    return digest.hexdigest()


def images(spec: Mapping[str, Any], folder: Path) -> Array:
    """The images that an engine is judged on, ``[N, 3, H, W]`` float32.

    ``noise`` of a shape and a seed, or ``photos``: a file of uint8 pixels, and the mean and std that scale them.
    """
    if spec["kind"] == "noise":
        shape = tuple(spec["shape"])
        draw = Draw("images", spec["seed"], int(np.prod(shape)), 0.0, 3**0.5)  # of variance 1
        return draw.values().reshape(shape)
    pixels = np.load(folder / spec["file"], allow_pickle=False).astype(np.float32)
    pixels /= np.float32(255)
    pixels -= np.array(spec["mean"], np.float32).reshape(-1, 1, 1)
    pixels /= np.array(spec["std"], np.float32).reshape(-1, 1, 1)
    return pixels
