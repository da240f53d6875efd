"""From an RGB image to the tensor a model reads: resize, centre crop, scale, normalise.

The result is that of torchvision's ``Resize``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` in a row (which is timm's
evaluation transform), with Pillow's resampling, the same rounding and the same order of float32 operations.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..card import Preprocess
from ..errors import DataError

MAX_RESIZED_PIXELS = 2**26  # a picture of 1 x 100,000 pixels is small, but not with its short side at 256

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def apply(image: Image.Image, spec: Preprocess) -> np.ndarray:
    """The tensor of one RGB image: ``[3, H, W]`` (``[H, W, 3]`` for NHWC) of ``spec.dtype``, C-contiguous.

    ``spec.mean`` and ``spec.std`` are in the tensor's own channel order. Raises ``DataError`` for a picture so long and
    thin that resizing its short side would not fit into memory.
    """
    return scaled(np.asarray(view(image, spec)), spec)


def scaled(pixels: np.ndarray, spec: Preprocess) -> np.ndarray:
    """The tensor of RGB pixels ``[..., H, W, 3]`` (uint8) that are resized and cropped already, C-contiguous."""
    if spec.colour == "BGR":
        pixels = pixels[..., ::-1]
    if spec.layout == "NCHW":
        pixels = np.moveaxis(pixels, -1, -3)
    channels = (-1, 1, 1) if spec.layout == "NCHW" else (-1,)
    tensor = pixels.astype(np.float32, order="C")
    tensor /= np.float32(255)
    tensor -= np.array(spec.mean, np.float32).reshape(channels)
    tensor /= np.array(spec.std, np.float32).reshape(channels)
    return tensor.astype(spec.dtype, copy=False)


def view(image: Image.Image, spec: Preprocess) -> Image.Image:
    """What the model sees of an RGB image: resized and cropped, ``spec.size``. Raises ``DataError`` like ``apply``."""
    return _centre(_resize(image, spec), *spec.size)


def _resize(image: Image.Image, spec: Preprocess) -> Image.Image:
    """To exactly ``spec.resize`` (H, W), or with the short side at ``spec.resize`` and the long one rounded down."""
    width, height = image.size
    if isinstance(spec.resize, tuple):
        high, wide = spec.resize
    elif width <= height:
        high, wide = int(spec.resize * height / width), spec.resize
    else:
        high, wide = spec.resize, int(spec.resize * width / height)
    if high * wide > MAX_RESIZED_PIXELS:
        raise DataError(
            f"A picture of {width} x {height} pixels is too long and thin to be resized.", "Crop it to what it shows."
        )
    return image.resize((wide, high), _RESAMPLING[spec.interpolation])


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle ``height`` x ``width`` pixels (there are always as many); what is cut off is halved to even."""
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
