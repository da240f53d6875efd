"""What the models are run on: photos if there are any, otherwise noise that looks like photos to the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..graph import Shape
from ..preprocessing import Preprocess
from ..runtime.preprocess import apply, scaled

AT_LEAST = 8
"""Fewer photos than this are joined by noise."""

FREE_AXIS = 224  # of an axis whose length the model leaves open and no preprocessing fixes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Inputs:
    """``values`` are ``[n, ...]``, the first ``count`` given, the other ``noise`` ones drawn with ``seed``.

    ``images`` says whether those given are photos. Where the expert has its preprocessing ``baked`` in, ``pixels`` are
    the same inputs for that: ``[n, H, W, 3]``, uint8, RGB.
    """

    values: Array
    images: bool
    count: int
    noise: int
    seed: int
    pixels: Array | None = None
    baked: Preprocess | None = None

    @property
    def fed(self) -> Array:
        """What the final model takes."""
        return self.values if self.pixels is None else self.pixels

    def to_mapping(self) -> dict[str, Any]:
        """How the certificate describes them."""
        if self.images:
            return {"kind": "images", "count": self.count, "noise": self.noise, "seed": self.seed}
        return {"kind": "noise", "count": self.count + self.noise, "noise": self.noise, "seed": self.seed}


def prepare(
    given: Array | None,
    spec: Preprocess | None,
    shape: Shape,
    *,
    images: bool = False,
    seed: int = 0,
    baked: Preprocess | None = None,
) -> Inputs:
    """At least 8 inputs: those ``given`` (``[n, ...]``, photos if ``images``), then noise as far as it is needed.

    ``shape`` is the model's input, batch first; ``spec`` its preprocessing, None where that is not known. Where the
    expert has that preprocessing ``baked`` in, inputs are given, or drawn, as bytes.
    """
    count = 0 if given is None else len(given)
    missing = max(0, AT_LEAST - count)
    drawn = noise(missing, spec, shape, seed) if baked is None else bytes_of_noise(missing, baked.size, seed)
    parts = [part for part in (given, drawn) if part is not None and len(part)]
    whole = baked is None or all(part.dtype == np.uint8 for part in parts)
    if not whole or len({part.shape[1:] for part in parts}) != 1:
        raise DataError("The images do not have the shape that the model's preprocessing makes.", "Preprocess them.")
    values = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if baked is None:
        return Inputs(values, images and count > 0, count, missing, seed)
    return Inputs(scaled(values, baked), images and count > 0, count, missing, seed, values, baked)


def noise(count: int, spec: Preprocess | None, shape: Shape, seed: int) -> Array:
    """``count`` noise images, preprocessed; standard normal tensors where no preprocessing is known.

    The pixels are uniform in 0..255, in squares of 1, 2, 4, ... 32 pixels, image by image: a convolution sees texture
    as well as flat areas and edges.
    """
    if spec is None:
        sides = [FREE_AXIS if not isinstance(dim, int) else dim for dim in shape[1:]]
        return np.random.default_rng(seed).standard_normal((count, *sides), dtype=np.float32)
    size = (spec.resize, spec.resize) if isinstance(spec.resize, int) else spec.resize
    made = [apply(Image.fromarray(pixels), spec) for pixels in bytes_of_noise(count, size, seed)]
    return np.stack(made) if made else np.empty((0, 0), np.float32)


def bytes_of_noise(count: int, size: tuple[int, int], seed: int) -> Array:
    """The pixels of ``count`` noise images: ``[count, H, W, 3]``, uint8."""
    random = np.random.default_rng(seed)
    height, width = size
    made = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        square = 2 ** (number % 6)
        coarse = random.integers(0, 256, (-(-height // square), -(-width // square), 3), dtype=np.uint8)
        made[number] = coarse.repeat(square, axis=0).repeat(square, axis=1)[:height, :width]
    return made
