"""Preprocessing against timm's own evaluation transform, on images of odd sizes, modes and orientations."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from expertc.card import Preprocess
from expertc.errors import DataError
from expertc.runtime.dataset import open_dataset
from expertc.runtime.images import load_image
from expertc.runtime.preprocess import apply

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Sample = tuple[str, bytes]

# name: crop share, mode and interpolation as timm names them, and the tensor's size
SETTINGS = {
    "imagenet": (0.875, "center", "bicubic", (224, 224)),
    "all": (1.0, "center", "bicubic", (128, 128)),
    "bilinear": (0.95, "center", "bilinear", (97, 97)),
    "nearest": (0.9, "center", "nearest", (64, 64)),
    "lanczos": (0.8, "center", "lanczos", (65, 65)),
    "squash": (1.0, "squash", "bicubic", (96, 96)),
    "squash and crop": (0.9, "squash", "bilinear", (61, 130)),
}


def specification(share: float, mode: str, interpolation: str, size: tuple[int, int]) -> Preprocess:
    scaled = tuple(math.floor(side / share) for side in size)
    resize = scaled if mode == "squash" else scaled[0]
    return Preprocess(size, resize, interpolation, MEAN, STD)


def draw(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise, blurred to have edges and plains like a photo."""
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return ImageOps.autocontrast(noise.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 1, 3])))))


@cache
def samples() -> tuple[Sample, ...]:
    """50 encoded images; every mode in every other orientation, sizes from 1 pixel to 700."""
    rng = np.random.default_rng(7)
    kinds = [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
             ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"), ("RGBA", "WEBP"), ("RGB", "TIFF"), ("P", "GIF")]  # fmt: skip
    fixed = [(1, 1), (3, 120), (40, 1), (224, 224), (256, 256), (257, 255), (128, 128), (17, 700), (700, 31)]
    made = []
    for number in range(50):
        mode, kind = kinds[number % len(kinds)]
        width, height = fixed[number] if number < len(fixed) else rng.integers(20, 500, 2).tolist()
        image = draw(rng, width, height)
        if mode in ("RGBA", "LA"):
            alpha = image.getchannel("R")
            image = image.convert(mode)
            image.putalpha(alpha)
        elif mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        out = io.BytesIO()
        image.save(out, kind, **({} if kind == "GIF" else {"exif": exif}))
        made.append((f"{number}: {mode} {kind} {width}x{height} turned {1 + number % 8}", out.getvalue()))
    return tuple(made)


def reference(data: bytes) -> Image.Image:
    """What programs around timm do: turn upright, convert. (Of 16-bit grey, which would be clipped, the high byte.)"""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "I;16":
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright.convert("RGB")


@pytest.fixture(scope="module")
def create_transform() -> Callable[..., Any]:
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    from expertc.zoo import import_timm

    import_timm()
    from timm.data import create_transform

    return create_transform


def check(create_transform: Callable[..., Any], setting: str, images: Sequence[Sample]) -> None:
    share, mode, interpolation, size = SETTINGS[setting]
    transform = create_transform((3, *size), is_training=False, crop_pct=share, crop_mode=mode,
                                 interpolation=interpolation, mean=MEAN, std=STD)  # fmt: skip
    spec = specification(share, mode, interpolation, size)
    level = np.array(STD).reshape(3, 1, 1) * 255
    off, total = 0, 0
    for name, data in images:
        theirs = transform(reference(data)).numpy()
        ours = apply(load_image(data), spec)
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape == (3, *size)
        levels = np.abs(ours - theirs) * level
        assert levels.max() <= 1 + 1e-3, name
        off += int((levels.max(axis=0) > 1e-3).sum())
        total += size[0] * size[1]
    assert off <= total / 1000, f"{off} of {total} pixels differ"


@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_timm(create_transform: Callable[..., Any], setting: str) -> None:
    thorough = setting in ("imagenet", "squash and crop")
    check(create_transform, setting, samples()[:: 1 if thorough else 3])


def test_equals_timm_on_photos(create_transform: Callable[..., Any], data_dir: Path) -> None:
    photos = open_dataset(data_dir / "sea-animals-128")
    picked = [(photos.name(i), photos.open(i).getvalue()) for i in range(0, len(photos), len(photos) // 25)]  # type: ignore[union-attr]
    check(create_transform, "imagenet", picked)


def test_bit_equal_to_torchvision(create_transform: Callable[..., Any]) -> None:
    """Not only within a grey level: the same float32 operations in the same order."""
    transform = create_transform(96, is_training=False, crop_pct=0.875, interpolation="bicubic", mean=MEAN, std=STD)
    image = draw(np.random.default_rng(1), 301, 203)
    spec = specification(0.875, "center", "bicubic", (96, 96))
    assert np.array_equal(apply(image, spec), transform(image).numpy())


def test_the_numbers_are_those_of_the_formula() -> None:
    pixel = (200, 100, 50)
    spec = specification(1.0, "center", "bicubic", (1, 1))
    expected = [(value / 255 - mean) / std for value, mean, std in zip(pixel, MEAN, STD, strict=True)]
    assert apply(Image.new("RGB", (1, 1), pixel), spec)[:, 0, 0] == pytest.approx(expected, abs=1e-6)


def test_imagenet_is_the_default_of_timm(create_transform: Callable[..., Any]) -> None:
    image = draw(np.random.default_rng(3), 90, 70)
    theirs = create_transform(32, is_training=False, interpolation="bicubic")(image).numpy()
    assert np.array_equal(apply(image, Preprocess.imagenet(32)), theirs)


def test_layout_colour_order_and_dtype() -> None:
    image = draw(np.random.default_rng(2), 40, 30)
    plain = Preprocess((8, 8), 8, "bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tensor = apply(image, plain)
    last = apply(image, dataclasses.replace(plain, layout="NHWC"))
    assert last.shape == (8, 8, 3)
    assert np.array_equal(last, tensor.transpose(1, 2, 0))
    assert np.array_equal(apply(image, dataclasses.replace(plain, colour="BGR")), tensor[::-1])
    both = apply(image, dataclasses.replace(plain, layout="NHWC", colour="BGR"))
    assert np.array_equal(both, last[..., ::-1])
    half = apply(image, dataclasses.replace(plain, dtype="float16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, tensor.astype(np.float16))
    assert all(made.flags.c_contiguous for made in (tensor, last, both, half))


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (3, 1, 1)), ("NHWC", (1, 1, 3))])
def test_mean_and_std_are_in_the_order_of_the_tensor(layout: str, shape: tuple[int, ...]) -> None:
    spec = Preprocess((1, 1), 1, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), colour="BGR", layout=layout)
    tensor = apply(Image.new("RGB", (3, 3), (255, 0, 51)), spec)
    assert tensor.shape == shape
    assert tensor.ravel() == pytest.approx([0.2 - 0.1, (0 - 0.2) / 2, (1 - 0.3) / 4])


def test_a_picture_too_long_and_thin_to_resize() -> None:
    with pytest.raises(DataError, match="1 x 400000"):
        apply(Image.new("RGB", (1, 400_000)), specification(0.875, "center", "bicubic", (224, 224)))
    squashed = specification(1.0, "squash", "bicubic", (32, 32))
    assert apply(Image.new("RGB", (1, 400_000)), squashed).shape == (3, 32, 32)
