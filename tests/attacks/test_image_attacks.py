"""Images are from strangers: whatever the bytes are, the answer is pixels or a DataError that names the image."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from expertc.card import Preprocess
from expertc.errors import DataError
from expertc.runtime import images as images_module
from expertc.runtime.images import MAX_PIXELS, load_image
from expertc.runtime.preprocess import apply


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, *more: tuple[int, int]) -> bytes:
    tags = dict([(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (279, 1), *more])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


BOMBS = {
    "png": png(100_000, 100_000),
    "png, one pixel too many": png(MAX_PIXELS // 2 + 1, 2),
    "png, as large as can be written": png(2**31 - 1, 2**31 - 1),
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "ppm": b"P6 50000 50000 255\n",
    "tiff": tiff(60_000, 60_000),
    "tiff with a large tile": tiff(16, 16, (322, 60_000), (323, 60_000), (324, 8), (325, 1)),
    "jpeg": b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0",
    "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2,
}


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("lifted", [False, True], ids=["", "Pillow's limit lifted"])
def test_a_bomb_is_refused_before_it_is_unpacked(what: str, lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if lifted and what not in ("tiff with a large tile",):  # inside a file only Pillow can look
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="'bomb'"):
            load_image(BOMBS[what], "bomb")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_limit_is_the_size_that_the_header_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MAX_PIXELS", 100)
    data = encoded(Image.new("RGB", (10, 10)), "PNG")
    assert load_image(data).size == (10, 10)
    for larger in (encoded(Image.new("RGB", (10, 11)), "PNG"), Image.new("RGB", (101, 1))):
        with pytest.raises(DataError, match="million pixels"):
            load_image(larger)


def test_a_large_but_allowed_image_raises_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert load_image(encoded(Image.new("RGB", (10, 10)), "PNG")).size == (10, 10)


def test_pillows_own_limits_are_left_as_they_are() -> None:
    before = Image.MAX_IMAGE_PIXELS
    load_image(png(1, 1, b"\0\0"))
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_sliver_that_would_be_huge_when_resized() -> None:
    """2,000,000 x 1 pixels are a file of 2 kB; with the short side at 256 they would be 130 billion."""
    sliver = load_image(png(2_000_000, 1, bytes(2_000_001)))
    with pytest.raises(DataError, match="too long and thin"):
        apply(sliver, Preprocess.imagenet())


def test_text_in_a_png_does_not_unpack_without_end() -> None:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    with pytest.raises(DataError, match="'png'"):
        load_image(png(1, 1, b"\0\0", text), "png")


PROGRAMS = {
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
    "postscript in a dos header": b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIII", 30, 60, 0, 0, 0, 0) + b"\xff\xff",
    "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "windows metafile": b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
    "fits": b"SIMPLE  =                    T" + b" " * 2850,
    "gbr": struct.pack(">IIIII", 28, 2, 1, 1, 1) + b"GIMP" + bytes(20),
    "icon": b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 1, 1, 0, 0, 1, 32, 40, 22) + bytes(60),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_formats_outside_the_list_are_not_even_tried(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("a decoder outside the list was asked")

    Image.init()
    for kind in set(Image.OPEN) - set(images_module.FORMATS):
        monkeypatch.setitem(Image.OPEN, kind, (never, None))
    monkeypatch.setattr("subprocess.Popen", never)
    with pytest.raises(DataError, match="'it' is not an image"):
        load_image(PROGRAMS[what], "it")


def test_a_suffix_does_not_choose_the_decoder(tmp_path: Path) -> None:
    (tmp_path / "picture.eps").write_bytes(png(1, 1, b"\0\x07"))
    assert load_image(tmp_path / "picture.eps").getpixel((0, 0)) == (7, 7, 7)


# -- paths -----------------------------------------------------------------------------------------------------------


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        load_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_not_read(device: str) -> None:
    with pytest.raises(DataError, match=device):
        load_image(device)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="larger than 1024 MiB"):
        load_image(tmp_path / "sparse.jpg")


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "gone.jpg")
    for name in ("a.jpg", "c.jpg"):
        with pytest.raises(DataError, match=name):
            load_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000, "http://example.com/a.jpg", "", "\udcff.jpg"])
def test_names_that_are_no_paths(name: str) -> None:
    with pytest.raises(DataError):
        load_image(name)


def test_a_hostile_name_is_harmless_in_the_message(tmp_path: Path) -> None:
    name = "\x1b[2J\u202egpj.\n[red]x.jpg"
    (tmp_path / name).write_bytes(b"junk")
    for path in (tmp_path / name, tmp_path / f"missing{name}"):
        with pytest.raises(DataError) as caught:
            load_image(path)
        assert caught.value.message.isprintable()


# -- damage ----------------------------------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """One file of every kind and mode that we read."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (19, 27, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    other = {"save_all": True, "append_images": [photo.rotate(90)]}
    return [
        encoded(photo, "JPEG", exif=exif),
        encoded(photo, "JPEG", progressive=True),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(photo, "MPO", **other),
        encoded(photo, "PNG", exif=exif),
        encoded(photo.quantize(9), "PNG", transparency=b"\0\x80"),
        encoded(Image.fromarray(rng.integers(0, 65536, (19, 27), dtype=np.uint16)), "PNG"),
        encoded(photo, "WEBP", exif=exif),
        encoded(photo, "WEBP", **other),
        encoded(photo, "GIF", **other),
        encoded(photo, "BMP"),
        encoded(photo.convert("P"), "BMP"),
        encoded(photo, "PPM"),
        encoded(photo, "TIFF", exif=exif),
        encoded(photo, "TIFF", compression="tiff_lzw"),
        encoded(photo.convert("F"), "TIFF"),
    ]


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def scribble(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 3, 20))):
        data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))


def scribble_the_header(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 4))):
        data[chance.randrange(min(len(data), 60))] = chance.choice((0, 255, chance.randrange(256)))


def repeat(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + 40] * 3


def attempt(data: bytes) -> Image.Image | DataError:
    try:
        return load_image(data, "broken")
    except DataError as error:
        return error


@pytest.mark.parametrize("damage", [cut, scribble, scribble_the_header, repeat])
@pytest.mark.parametrize("warned", ["default", "error"])  # as a person runs it, and as these tests do
def test_damaged_files_are_read_or_refused(
    damage: Callable[[bytearray, random.Random], None], warned: str, recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter(warned)  # type: ignore[arg-type]
    chance = random.Random(damage.__name__)
    refused = 0
    for data in seeds():
        assert load_image(data).mode == "RGB"
        for _ in range(8):
            broken = bytearray(data)
            damage(broken, chance)
            found = attempt(bytes(broken))
            if isinstance(found, DataError):
                refused += 1
                assert "'broken'" in found.message
                assert found.message.isprintable()
            else:
                assert found.mode == "RGB"
                assert found.width * found.height <= MAX_PIXELS
    assert refused > 10


def test_a_warning_while_decoding_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns while it decodes some damaged TIFFs, and a program may have made warnings errors."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: warnings.warn("odd", stacklevel=1))
    with pytest.raises(DataError, match=r"'broken' is damaged \(odd\)"):
        load_image(png(1, 1, b"\0\0"), "broken")
