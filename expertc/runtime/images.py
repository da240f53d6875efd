"""Any image, from anywhere, as upright 8-bit RGB pixels.

What is done, in this order: the first frame is decoded, turned upright as its EXIF orientation says, and converted.
Conversion is Pillow's ``convert("RGB")``, which is what training and timm's evaluation use: an alpha channel is
dropped, not composed (what lies under transparency shows), a palette is looked up, grey is repeated, CMYK is inverted
channel by channel (Adobe's inverted JPEGs too). Only where Pillow would clip do we scale: 16-bit grey (``I;16``, and
``I`` as its container) keeps its high byte, as Pillow itself does with 16-bit colour, and float grey without a value
above 1 is taken as 0..1.

An image is untrusted input: few formats are tried (none that starts another program), sizes are bounded before
anything is decoded, and whatever goes wrong is a ``DataError`` that names the image.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..taxonomy import clean_text

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 178_956_970  # 512 MiB of RGB, where Pillow refuses too; ours also holds in a program that lifts Pillow's
MAX_BYTES = 2**30

Source: TypeAlias = "str | Path | bytes | io.BytesIO | Image.Image | np.ndarray"

# Pillow's decoders raise whatever their parsing of a damaged file trips over (and a Warning where a program turned
# warnings into errors); one bad image must not end a run over thousands.
_DAMAGE = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, MemoryError, struct.error, zlib.error, Warning, Image.DecompressionBombError,
)  # fmt: skip

_warnings = threading.Lock()


def load_image(source: Source, name: str = "", *, max_pixels: int | None = None) -> Image.Image:
    """Decode ``source`` to an upright RGB image; ``name`` is what errors call it (default: its path).

    ``source`` is a path, the bytes of an encoded image (or a ``BytesIO`` of them), a PIL image (left as it is), or a
    uint8 array ``[H, W]`` (grey) or ``[H, W, 3]`` (RGB, not BGR). Raises ``DataError``, for one of more than
    ``max_pixels`` (default: ``MAX_PIXELS``) before it is decoded.
    """
    name = clean_text(name or source_name(source)) or "the image"
    most = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        if isinstance(source, np.ndarray):
            return _from_array(source, name)
        if isinstance(source, Image.Image):
            _check_size(source, name, most)
            image = source.copy()
        else:
            data = io.BytesIO(_encoded(source, name))
            with _quiet():
                image = Image.open(data, formats=FORMATS)  # the header only
            _check_size(image, name, most)
            image.load()
        _turn_upright(image)
        return _to_rgb(image, name)
    except UnidentifiedImageError as error:
        raise DataError(f"'{name}' is not an image that can be read.", f"Give {', '.join(FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, most) from error
    except _DAMAGE as error:
        reason = clean_text(str(error))[:200] or type(error).__name__
        raise DataError(f"The image '{name}' is damaged ({reason}).", "Save or download it again.") from error


def source_name(source: Source) -> str:
    """The path of ``source`` as it was given, or "" for what has none."""
    if isinstance(source, (str, Path)):
        return str(source)
    return str(getattr(source, "filename", ""))


def _encoded(source: str | Path | bytes | io.BytesIO, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, io.BytesIO):
        data = source.getvalue()
    elif isinstance(source, (str, Path)):
        data = _read(Path(source), name)
    else:
        raise DataError(
            f"'{name}' is a {type(source).__name__}, not an image.", "Give a path, bytes, a PIL image or an array."
        )
    if not data:
        raise DataError(f"The image '{name}' is empty (0 bytes).", "Save or download it again.")
    return data


def _read(path: Path, name: str) -> bytes:
    """The whole file: Pillow then needs no path (it would map it, and choose decoders by its suffix)."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"'{name}' is a folder, not an image.", "Give the images in it.")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
            raise DataError(f"'{name}' is not a regular file.", "Give an image file.")
        if status.st_size > MAX_BYTES:
            raise DataError(f"The file '{name}' is larger than {MAX_BYTES >> 20} MiB.", "Give a smaller image.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"The image '{name}' does not exist.", "Check the path.") from error
    except OSError as error:
        raise DataError(f"The image '{name}' cannot be read ({error.strerror}).", "Check the path.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings of large sizes and odd metadata: the sizes are ours to judge, the pixels are sound."""
    with _warnings, warnings.catch_warnings():  # the filters belong to the whole process: threads take turns
        warnings.simplefilter("ignore")
        yield


def _turn_upright(image: Image.Image) -> None:
    try:
        with _quiet():
            ImageOps.exif_transpose(image, in_place=True)
    except _DAMAGE:
        return  # the pixels are sound, and unreadable metadata asks for no turn: every viewer shows such photos


def _check_size(image: Image.Image, name: str, most: int) -> None:
    if image.width * image.height > most:
        raise _too_large(name, most)
    if image.width * image.height == 0:
        raise DataError(f"The image '{name}' has no pixels.", "Give an image of at least one pixel.")


def _too_large(name: str, most: int) -> DataError:
    return DataError(f"The image '{name}' has more than {most // 10**6} million pixels.", "Scale it down first.")


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped:
        raise DataError(
            f"'{name}' is an array of {pixels.dtype} {list(pixels.shape)}, not of uint8 [H, W, 3] or [H, W].",
            "Give RGB pixels from 0 to 255.",
        )
    if pixels.size == 0:
        raise DataError(f"The image '{name}' has no pixels.", "Give an image of at least one pixel.")
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;"):
        image = Image.fromarray(_deep_grey(np.asarray(image), name))
    image.info.pop("transparency", None)  # converting drops it in any case, but for some palettes not without a warning
    return image.convert("RGB")


def _deep_grey(values: np.ndarray, name: str) -> np.ndarray:
    """Grey of more than 8 bits, ``[H, W]``, as uint8."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"The image '{name}' has pixels that are not numbers.", "Save it with 8 bits a channel.")
    if values.dtype.kind == "f":
        scale = 255 if high <= 1 else 1
        values = np.clip(np.rint(values * scale), 0, 255)
        return values.astype(np.uint8)
    if low < 0 or high > 0xFFFF:
        raise DataError(f"The image '{name}' has pixels outside 16 bits.", "Save it with 8 bits a channel.")
    high_byte = values >> 8
    return high_byte.astype(np.uint8)
