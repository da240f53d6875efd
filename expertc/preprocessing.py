"""How an image becomes the model's input tensor: numbers that are executed, never typed again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .errors import CardError
from .text import parse_json, read_text, shown

MAX_SIDE = 8192  # pixels
MAX_VALUE = 1e6  # of a mean or a deviation; the least deviation is its inverse
BYTES = "uint8"

CHOICES = {
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "colour": ("RGB", "BGR"),
    "layout": ("NCHW", "NHWC"),
    "dtype": ("float32", "float16", BYTES),
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop, scale to 0..1, subtract ``mean``, divide by ``std``, reorder.

    Args:
        size: height and width of the crop, which is the tensor's, in pixels.
        resize: the length of the short side before the crop (aspect ratio kept), or the exact height and width.
            A crop that reaches beyond the picture is black there.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        mean, std: per channel, in the order of ``colour``, for pixels from 0 to 1.
        colour: "RGB" or "BGR".
        layout: "NCHW" or "NHWC".
        dtype: "float32", "float16", or "uint8" for a network that scales pixels itself: it is given them from 0 to 255,
            and ``mean`` must be 0, ``std`` 1.

    Raises ``CardError`` for anything else.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | int
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    colour: str = "RGB"
    layout: str = "NCHW"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check(_is_pair(self.size), "size", self.size, f"a height and a width from 1 to {MAX_SIDE}")
        _check(_is_side(self.resize) or _is_pair(self.resize), "resize", self.resize, "one length or height and width")
        for key, least in (("mean", -MAX_VALUE), ("std", 1 / MAX_VALUE)):
            values = getattr(self, key)
            sound = isinstance(values, tuple) and len(values) == 3 and all(_is_number(v, least) for v in values)
            _check(sound, key, values, f"three numbers from {least:g} to {MAX_VALUE:g}")
        for key, allowed in CHOICES.items():
            value = getattr(self, key)
            _check(isinstance(value, str) and value in allowed, key, value, "one of " + ", ".join(allowed))
        for key, none in (("mean", 0), ("std", 1)):
            value = getattr(self, key)
            _check(self.dtype != BYTES or value == (none,) * 3, key, value, f"{none} three times for {BYTES}")

    @classmethod
    def imagenet(cls, size: int = 224) -> Preprocess:
        """timm's default evaluation of squares of ``size`` pixels: crop 0.875, bicubic, ImageNet's mean and std."""
        return cls((size, size), math.floor(size / 0.875))

    @classmethod
    def read(cls, name: str | Path, size: int = 224) -> Preprocess:
        """ "imagenet" (for an input of ``size`` pixels), or a JSON file as ``to_mapping`` writes it.

        Raises ``CardError`` if the file is missing, malformed, lacks a key or has one too many.
        """
        if str(name) == "imagenet":
            return cls.imagenet(size)
        text = read_text(name, "The preprocessing", CardError)
        return cls.from_mapping(parse_json(text, f"The preprocessing {shown(name)}", CardError))

    @classmethod
    def from_mapping(cls, data: Any) -> Preprocess:
        """Read what ``to_mapping`` returned; every key is required. Raises ``CardError``."""
        required(data, [field.name for field in fields(cls)], "The preprocessing")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

    def as_bytes(self) -> Preprocess:
        """The same picture as RGB bytes, channels last, for a network that does the rest itself."""
        return replace(self, mean=(0.0,) * 3, std=(1.0,) * 3, colour="RGB", layout="NHWC", dtype=BYTES)

    def to_mapping(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return {
            "size": list(self.size),
            "resize": self.resize if isinstance(self.resize, int) else list(self.resize),
            "interpolation": self.interpolation,
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "colour": self.colour,
            "layout": self.layout,
            "dtype": self.dtype,
        }


def required(data: Any, keys: list[str], what: str) -> Mapping[str, Any]:
    """``data`` if it is a mapping with exactly these keys; raises ``CardError`` naming the first that is off."""
    if not isinstance(data, Mapping):
        raise CardError(f"{what} is not a JSON object.", f"It should hold {', '.join(keys)}.")
    for key in keys:
        if key not in data:
            raise CardError(f"{what} has no '{key}'.", f"It should hold {', '.join(keys)}.")
    for key in data:
        if key not in keys:
            raise CardError(f"{what} has an unknown key {shown(key)}.", f"It may hold {', '.join(keys)}.")
    return data


def _check(sound: bool, key: str, value: Any, wanted: str) -> None:
    if not sound:
        raise CardError(f"The preprocessing's '{key}' is {shown(repr(value))}.", f"It should be {wanted}.")


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIDE


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_side, value))


def _is_number(value: Any, least: float) -> bool:
    # A comparison with NaN is false, one with an integer of any length is exact.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= MAX_VALUE
