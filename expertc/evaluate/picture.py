"""Feature maps side by side on the photo that they were made from, drawn with Pillow alone.

The photo at the left, a column per branch, a row per level, a colour scale at the end of every row. The colours run
from dark violet over green to yellow and grow lighter all the way: they can be told apart without seeing colours.
"""

from __future__ import annotations

import io
from functools import cache
from math import ceil
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..text import clean_text
from .features import Features, Heat

# Anchors of matplotlib's "viridis" (CC0, by S. van der Walt and N. Smith), evenly spaced.
_RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)

HEAT = 0.7  # how much of a pixel is heat; the rest is the photo in soft grey, so that its lights are not taken for heat

CELL, LEAST = 160, 96  # pixels of the longer side of a map; of a column
MARGIN, GAP = 14, 10
TITLE, SMALL = 15, 12  # font sizes
BAR, NUMBER = 12, 70  # widths of a colour scale and of what stands beside it
_INK, _FAINT, _PAPER = (20, 20, 20), (95, 95, 95), (255, 255, 255)

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"
_Ink = tuple[int, int, int]
_WIDER = ("DejaVuSans.ttf", "Arial.ttf")

NOTE = (
    "Mean over the channels of each branch's last feature map.",
    "One colour scale per row: dark is low, bright is high.",
)


def draw(found: Features, name: str) -> Image.Image:
    """The picture; ``name`` stands above the photo. Text that is too long for its place is cut in the middle."""
    width, height = _cell_size(found.photo)
    column, caption = max(width, LEAST), SMALL + 6
    top, step = MARGIN + TITLE + SMALL + 14, height + caption + GAP
    left = [MARGIN + at * (column + GAP) for at in range(len(found.columns) + 2)]
    end = max(left[-1] + BAR + 5 + NUMBER, MARGIN + ceil(max(map(font(SMALL).getlength, NOTE))))
    size = (end + MARGIN, top + found.rows * step + len(NOTE) * (SMALL + 5) + MARGIN)
    made = Image.new("RGB", size, _PAPER)

    photo = found.photo.resize((width, height), Image.Resampling.BICUBIC)
    made.paste(photo, (left[0], top + caption))
    write(made, name, (left[0], MARGIN, column), TITLE)
    for row in range(found.rows):
        at, (low, high) = top + row * step + caption, found.scale(row)
        for x, shown in zip(left[1:], found.columns, strict=False):
            cell = found.cell(row, shown)
            if cell is not None:
                if found.rows > 1 or cell[0].name != shown.name:
                    write(made, cell[0].name, (x, at - caption, column), SMALL, _FAINT)
                made.paste(overlay(photo, cell[1], low, high), (x, at))
        bar = np.linspace(1, 0, height)[:, None].repeat(BAR, axis=1)
        made.paste(coloured(bar, np.full((height, BAR), 128.0)), (left[-1], at))
        write(made, f"{high:.3g}", (left[-1] + BAR + 5, at - 2, NUMBER), SMALL)
        write(made, f"{low:.3g}", (left[-1] + BAR + 5, at + height - SMALL - 2, NUMBER), SMALL)
    for x, shown in zip(left[1:], found.columns, strict=False):
        write(made, shown.name, (x, MARGIN, column), TITLE)
        write(made, f"{100 * shown.probability:.1f} %", (x, MARGIN + TITLE + 4, column), SMALL)
    for line, text in enumerate(NOTE):
        y = top + found.rows * step + line * (SMALL + 5)
        write(made, text, (MARGIN, y, size[0] - 2 * MARGIN), SMALL, _FAINT)
    return made


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def overlay(photo: Image.Image, heat: Heat, low: float, high: float) -> Image.Image:
    """``heat``, stretched to the photo, over the photo in grey, from the darkest colour (``low``) to the lightest."""
    span = high - low
    level = (heat - low) / span if span > 0 else np.zeros_like(heat)
    # Bilinear: nothing lighter than the map's own peak, no rings around it.
    smooth = Image.fromarray(level.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    return coloured(np.asarray(smooth, np.float64), np.asarray(photo.convert("L"), np.float64))


def coloured(level: np.ndarray, grey: np.ndarray) -> Image.Image:
    """Levels from 0 to 1 as colours over grey values from 0 to 255, both ``[height, width]``."""
    anchors = np.linspace(0, 1, len(_RAMP))
    colours = np.stack([np.interp(level, anchors, channel) for channel in _RAMP.T], axis=-1)
    mixed = HEAT * colours + (1 - HEAT) * (64 + grey[..., None] / 2)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _cell_size(photo: Image.Image) -> tuple[int, int]:
    """Width and height of a map in the picture: the photo's shape, unless that is a mere line."""
    longest = max(photo.size)
    width, height = (max(CELL // 4, round(CELL * side / longest)) for side in photo.size)
    return width, height


def write(made: Image.Image, text: str, place: tuple[int, int, int], size: int, ink: _Ink = _INK) -> None:
    """A stranger's text, cleaned, on one line in ``place``: x, y and width. On a strip that it cannot leave."""
    x, y, width = place
    text = clean_text(text)
    face = font(size, text.isascii())
    whole, keep = text, len(text)
    while keep and face.getlength(text) > width:
        keep -= 1
        tail = keep // 3  # long names often differ at their end
        text = f"{whole[: keep - tail].rstrip()}…{whole[len(whole) - tail :].lstrip()}"
    strip = Image.new("RGB", (width, size + 4), _PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, ink, face)
    made.paste(strip, (x, y))


@cache
def font(size: int, ascii_only: bool = True) -> Font:
    """Pillow's own font; it knows little but ASCII, so other text is written in one of the system's, if it has it."""
    for name in () if ascii_only else _WIDER:
        try:
            return ImageFont.truetype(name, size)
        except OSError:  # not installed
            continue
    return ImageFont.load_default(size)
