from __future__ import annotations

import io
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from expertc.errors import DataError
from expertc.runtime.images import load_image

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((48, 36), Image.Resampling.BICUBIC)

TURNS = {  # what a viewer does, by the EXIF specification: (rows, columns) of the stored array to the upright one
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_the_exif_orientation_is_respected(kind: str, orientation: int) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(PHOTO, kind, exif=turned(orientation), **lossless)
    assert np.array_equal(pixels(load_image(data)), TURNS[orientation](np.asarray(PHOTO)))


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_mode_are_turned(mode: str) -> None:
    grey = Image.fromarray((RNG.integers(0, 2, (7, 9)) * 255).astype(np.uint8))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
    stored = deep if mode == "I;16" else grey.convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    plain, upright = (load_image(encoded(stored, kind, exif=turned(o), quality=100)) for o in (1, 6))
    assert upright.size == (7, 9)
    assert np.abs(np.rot90(pixels(plain), -1).astype(int) - pixels(upright)).max() == 0


def test_a_pil_image_is_turned_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(encoded(PHOTO.quantize(8), "PNG", exif=turned(3), transparency=bytes([0, 128])))
    with Image.open(tmp_path / "p.png") as given:
        loaded = load_image(given)
        assert given.info["transparency"] == bytes([0, 128])
        assert given.getexif()[0x0112] == 3
        assert np.array_equal(pixels(loaded), np.asarray(PHOTO.quantize(8).convert("RGB"))[::-1, ::-1])


def test_an_rgb_image_that_was_given_is_not_the_one_returned() -> None:
    given = PHOTO.copy()
    load_image(given).paste((0, 0, 0), (0, 0, 48, 36))
    assert np.array_equal(np.asarray(given), np.asarray(PHOTO))


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff", b"Exif\0\0MM", bytes(40)], ids=len)
def test_metadata_that_cannot_be_read_does_not_cost_the_picture(exif: bytes) -> None:
    data = encoded(PHOTO, "PNG", exif=exif)
    assert np.array_equal(pixels(load_image(data)), np.asarray(PHOTO))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_convert_as_pillow_does(mode: str) -> None:
    if mode in ("LA", "RGBA"):
        image = PHOTO.convert(mode)
        image.putalpha(Image.fromarray(RNG.integers(0, 256, (36, 48), dtype=np.uint8)))
    elif mode == "PA":
        image = PHOTO.convert("RGBA").convert("PA")
    else:
        image = PHOTO.convert(mode)
    assert np.array_equal(pixels(load_image(image)), np.asarray(image.convert("RGB")))


def test_transparency_is_dropped_and_not_composed() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    assert pixels(load_image(encoded(image, "PNG"))).tolist() == [[[10, 20, 30]] * 2]


def test_a_palette_with_transparency_is_looked_up() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([1, 2, 3, 40, 50, 60, 255, 254, 253])
    image.putdata([0, 1, 2])
    for transparency in (0, bytes([0, 100, 200])):
        data = encoded(image, "PNG", transparency=transparency)
        assert pixels(load_image(data)).tolist() == [[[1, 2, 3], [40, 50, 60], [255, 254, 253]]]


def test_cmyk_of_adobe_is_not_a_negative() -> None:
    """A white CMYK JPEG as Adobe writes it (inverted, marker APP14) is white, and cyan is cyan."""
    for ink, seen in (((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))):
        data = encoded(Image.new("CMYK", (8, 8), ink), "JPEG", quality=100)
        assert b"Adobe" in data
        assert np.abs(pixels(load_image(data))[4, 4].astype(int) - seen).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_range(kind: str) -> None:
    values = np.linspace(0, 65535, 35 * 21).astype(np.uint16).reshape(21, 35)
    grey = pixels(load_image(encoded(Image.fromarray(values), kind)))
    assert np.array_equal(grey, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_grey_is_as_bright_as_16_bit_colour() -> None:
    """Pillow itself decodes 16-bit colour; the same values, stored as grey and as colour, must look the same."""
    values = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    raw = np.repeat(values[..., None], 3, axis=2).astype(">u2").tobytes()
    colour = load_image(b"P6 7 5 65535\n" + raw)
    grey = load_image(Image.fromarray(values))
    assert np.abs(pixels(colour).astype(int) - pixels(grey)).max() <= 1


def test_big_endian_16_bit_grey() -> None:
    values = np.array([[0x0102, 0xFF00]], ">u2")
    big = Image.frombytes("I;16B", (2, 1), values.tobytes())
    assert pixels(load_image(big))[..., 0].tolist() == [[1, 255]]


def test_32_bit_containers_of_16_bits() -> None:
    image = Image.fromarray(np.array([[0, 256, 65535]], np.int32))
    assert image.mode == "I"
    assert pixels(load_image(image))[..., 0].tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("value", [-1, 65536])
def test_an_unknown_integer_range_is_refused(value: int) -> None:
    with pytest.raises(DataError, match="16 bits"):
        load_image(Image.fromarray(np.array([[0, value]], np.int32)))


def test_float_grey() -> None:
    def grey(values: list[float]) -> list[int]:
        return pixels(load_image(Image.fromarray(np.array([values], np.float32))))[0, :, 0].tolist()

    assert grey([0, 0.5, 1]) == [0, 128, 255]
    assert grey([-0.1, 0.2, 0.8]) == [0, 51, 204]
    assert grey([0, 1.6]) == [0, 2]
    assert grey([-3, 0.4, 100, 254.6, 400]) == [0, 0, 100, 255, 255]
    with pytest.raises(DataError, match="not numbers"):
        grey([0, float("nan")])
    with pytest.raises(DataError, match="not numbers"):
        grey([0, float("inf")])


def test_lab_is_converted_by_its_meaning() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.new("RGB", (4, 4), (200, 30, 60)), srgb, lab, outputMode="LAB")
    assert image is not None
    assert np.abs(pixels(load_image(image))[0, 0].astype(int) - (200, 30, 60)).max() <= 3


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    for kind, lossless in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
        assert (pixels(load_image(data)) == (255, 0, 0)).all(), kind


def test_a_pair_of_photos_in_one_jpeg() -> None:
    """Phones write such files (MPO)."""
    data = encoded(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert pixels(load_image(data))[8, 8, 0] > 250


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_arrays(shape: tuple[int, ...]) -> None:
    given = RNG.integers(0, 256, shape, dtype=np.uint8)
    seen = given if given.ndim == 3 else np.repeat(given[..., None], 3, axis=2)
    assert np.array_equal(pixels(load_image(given)), seen)
    assert np.array_equal(pixels(load_image(given[::-1, ::2])), seen[::-1, ::2])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint16),
        np.array("text"),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="'mine'"):
        load_image(array, "mine")


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    data = encoded(PHOTO, "JPEG", quality=90)
    (tmp_path / "photo.jpg").write_bytes(data)
    (tmp_path / "no suffix").write_bytes(data)
    stream = io.BytesIO(data)
    stream.seek(7)
    with Image.open(io.BytesIO(data)) as opened:
        sources = [tmp_path / "photo.jpg", str(tmp_path / "no suffix"), data, stream, opened, np.asarray(opened)]
        found = [pixels(load_image(source)) for source in sources]
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(PHOTO, kind)
    file = tmp_path / f"cut.{kind.lower()}"
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.") as caught:
        load_image(file)
    assert caught.value.hint


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    for name, said in {
        "empty.jpg": "is empty",
        "page.jpg": "is not an image",
        "missing.jpg": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(DataError, match=said) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
    with pytest.raises(DataError, match="is a dict, not an image"):
        load_image({})  # type: ignore[arg-type]


def test_a_closed_image_is_an_error_of_data(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(PHOTO, "PNG"))
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(DataError, match=r"a\.png"):
        load_image(image)


def test_warning_filters_stay_as_they_were_with_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the whole process: only one thread at a time may have changed them."""
    inside: list[int] = []
    most = []
    real = Image.open

    def slow(*args: Any, **options: Any) -> Image.Image:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        image = real(*args, **options)
        inside.pop()
        return image

    monkeypatch.setattr(Image, "open", slow)
    data = encoded(PHOTO, "PNG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [load_image(data) for _ in range(4)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 24
    assert max(most) == 1
    assert list(warnings.filters) == before
