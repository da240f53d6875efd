"""What the models are run on: photos if there are any, otherwise noise that looks like photos to the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..graph import Shape
from ..preprocessing import Preprocess
from ..runtime.preprocess import apply

AT_LEAST = 8
"""Fewer photos than this are joined by noise."""

FREE_AXIS = 224  # of an axis whose length the model leaves open and no preprocessing fixes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Inputs:
    """``values`` are ``[n, ...]``, the first ``count`` given, the other ``noise`` ones drawn with ``seed``.

    ``images`` says whether those given are photos.
    """

    values: Array
    images: bool
    count: int
    noise: int
    seed: int

    def to_mapping(self) -> dict[str, Any]:
        """How the certificate describes them."""
        if self.images:
            return {"kind": "images", "count": self.count, "noise": self.noise, "seed": self.seed}
        return {"kind": "noise", "count": self.count + self.noise, "noise": self.noise, "seed": self.seed}


def prepare(
    given: Array | None, spec: Preprocess | None, shape: Shape, *, images: bool = False, seed: int = 0
) -> Inputs:
    """At least 8 inputs: those ``given`` (``[n, ...]``, photos if ``images``), then noise as far as it is needed.

    ``shape`` is the model's input, batch first; ``spec`` its preprocessing, None where that is not known.
    """
    count = 0 if given is None else len(given)
    missing = max(0, AT_LEAST - count)
    drawn = noise(missing, spec, shape, seed)
    parts = [part for part in (given, drawn) if part is not None and len(part)]
    if len({part.shape[1:] for part in parts}) != 1:
        raise DataError("The images do not have the shape that the model's preprocessing makes.", "Preprocess them.")
    return Inputs(np.concatenate(parts) if len(parts) > 1 else parts[0], images and count > 0, count, missing, seed)


def noise(count: int, spec: Preprocess | None, shape: Shape, seed: int) -> Array:
    """``count`` noise images, preprocessed; standard normal tensors where no preprocessing is known.

    The pixels are uniform in 0..255, in squares of 1, 2, 4, ... 32 pixels, image by image: a convolution sees texture
    as well as flat areas and edges.
    """
    random = np.random.default_rng(seed)
    if spec is None:
        sides = [FREE_AXIS if not isinstance(dim, int) else dim for dim in shape[1:]]
        return random.standard_normal((count, *sides), dtype=np.float32)
    height, width = (spec.resize, spec.resize) if isinstance(spec.resize, int) else spec.resize
    made: list[Array] = []
    for number in range(count):
        square = 2 ** (number % 6)
        coarse = random.integers(0, 256, (-(-height // square), -(-width // square), 3), dtype=np.uint8)
        pixels = coarse.repeat(square, axis=0).repeat(square, axis=1)[:height, :width]
        made.append(apply(Image.fromarray(pixels), spec))
    return np.stack(made) if made else np.empty((0, 0), np.float32)
