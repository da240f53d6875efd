"""What the picture shows, looked at pixel by pixel: heat where it should be, nothing cut off, nothing overlapping."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from expertc.evaluate.features import Column, Features
from expertc.evaluate.picture import CELL, GAP, LEAST, MARGIN, SMALL, TITLE, draw, overlay, png
from expertc.surgery.maps import FeatureMap

GREY = Image.new("RGB", (32, 32), (128, 128, 128))
VIOLET, YELLOW = (68, 1, 84), (253, 231, 37)  # the ends of viridis
PAPER = (255, 255, 255)


def peak(row: int, column: int, height: float = 1.0) -> np.ndarray:
    heat = np.zeros((4, 4))
    heat[row, column] = height
    return heat


def column(name: str, *levels: tuple[str, np.ndarray], probability: float = 0.5) -> Column:
    """A column for class 0 whose levels are named maps."""
    sets = [tuple(range(len(levels) - at)) for at in range(len(levels))]
    maps = tuple(
        FeatureMap(level, indices, f"tensor-{level}", (1, 1, 4, 4), 1, (2, 3), (0,))
        for (level, _), indices in zip(levels, sets, strict=True)
    )
    return Column(name, (0,), probability, maps, tuple(heat for _, heat in levels))


def cells(made: Image.Image, found: Features, side: int = CELL) -> list[list[np.ndarray]]:
    """The maps of a picture, row by row; the first of each row is the photo's place."""
    width = max(side, LEAST)
    top, step = MARGIN + TITLE + SMALL + 14 + SMALL + 6, CELL + SMALL + 6 + GAP
    pixels = np.asarray(made, float)
    return [
        [
            pixels[top + row * step : top + row * step + CELL, MARGIN + at * (width + GAP) :][:, :side]
            for at in range(len(found.columns) + 1)
        ]
        for row in range(found.rows)
    ]


def mixed(colour: tuple[int, int, int], share: float = 0.7) -> np.ndarray:
    """A colour of the scale over grey 128."""
    return share * np.array(colour) + (1 - share) * 128


def test_heat_is_where_the_map_is_high() -> None:
    made = np.asarray(overlay(GREY, peak(0, 3), 0, 1), float)
    assert np.allclose(made[0, 31], mixed(YELLOW), atol=1)
    assert np.allclose(made[31, 0], mixed(VIOLET), atol=1)
    assert (np.diff(made[2, 16:].sum(axis=1)) >= -2).all()  # it grows without steps
    assert len(np.unique(made[2, 16:].sum(axis=1))) > 6
    light = np.asarray(overlay(GREY, peak(0, 3), 0, 1).convert("L"))
    assert light[:16, 16:].mean() > 1.3 * light[16:, :16].mean()


def test_a_colour_means_the_same_number_in_every_map_of_a_row() -> None:
    """The strongest map decides: half as high a peak is the colour in the middle of the scale."""
    found = Features(GREY, (column("a", ("a", peak(1, 1))), column("b", ("b", peak(2, 2, 0.5)))))
    [[photo, first, second]] = cells(draw(found, "photo.jpg"), found)
    assert (photo == 128).all()
    assert np.allclose(first[CELL // 4 + 20, CELL // 4 + 20], mixed(YELLOW), atol=12)  # a pixel beside the peak
    assert np.allclose(second[CELL // 2 + 20, CELL // 2 + 20], mixed((33, 145, 140)), atol=4)
    assert np.allclose(second[5, 5], mixed(VIOLET), atol=1)


def test_every_row_has_a_scale_of_its_own() -> None:
    found = Features(GREY, (column("a", ("top", peak(0, 0, 5)), ("a", peak(3, 3, 0.1))),))
    (_, top), (below, own) = cells(draw(found, "photo.jpg"), found)
    assert np.allclose(top[0, 0], mixed(YELLOW), atol=1)
    assert np.allclose(own[-1, -1], mixed(YELLOW), atol=1)
    assert (below == 255).all()


def test_negative_values_are_the_dark_end() -> None:
    found = Features(GREY, (column("a", ("a", peak(0, 0) - 1)),))
    assert found.scale(0) == (-1, 0)
    [[_, map_]] = cells(draw(found, "x"), found)
    assert np.allclose(map_[-1, -1], mixed(VIOLET), atol=1)


def test_a_map_of_nothing_is_dark() -> None:
    found = Features(GREY, (column("a", ("a", np.zeros((4, 4)))),))
    [[_, map_]] = cells(draw(found, "x"), found)
    assert np.allclose(map_, mixed(VIOLET), atol=1)


def test_the_photo_shows_through() -> None:
    photo = Image.new("RGB", (32, 32), "black")
    photo.paste((255, 255, 255), (0, 0, 16, 32))
    made = np.asarray(overlay(photo, np.zeros((4, 4)), 0, 1).convert("L"), float)
    assert made[:, :16].mean() > made[:, 16:].mean() + 20


def test_the_colours_grow_lighter_all_the_way() -> None:
    """So the scale can be read without telling colours apart, and in grey print."""
    ramp = overlay(GREY.resize((256, 1)), np.linspace(0, 1, 256)[None], 0, 1).convert("L")
    assert (np.diff(np.asarray(ramp, int)[0, ::8]) > 0).all()
    assert np.ptp(np.asarray(ramp, int)) > 100


@pytest.mark.parametrize(
    "name", ["W" * 200, "cartilaginous fishes of the deep sea " * 5, "鯨" * 60, "a", "Z" + "\u0301\u0323" * 90]
)
def test_no_text_leaves_its_column(name: str) -> None:
    """Between the columns, and around everything, the paper stays white."""
    levels = ((name, peak(0, 0, 123456.7)), (name, peak(1, 1)))
    found = Features(GREY, tuple(column(name, *levels) for _ in range(3)))
    pixels = np.asarray(draw(found, name))
    for at in range(4):
        left = MARGIN + at * (CELL + GAP) + CELL
        assert (pixels[: -2 * (SMALL + 5) - MARGIN, left : left + GAP] == PAPER).all()
    for plain, same in zip(cells(draw(found, "x"), found), cells(draw(found, name), found), strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(plain[1:], same[1:], strict=True))
    for edge in (pixels[:8], pixels[-6:], pixels[:, :8], pixels[:, -6:]):
        assert (edge == PAPER).all()
    heading = pixels[MARGIN : MARGIN + TITLE + 4, MARGIN + CELL + GAP :][:, :CELL]
    assert (heading.min(axis=2) < 100).any()


def test_long_names_keep_both_ends() -> None:
    """Names with a common beginning can be told apart."""
    made = [
        np.asarray(draw(Features(GREY, (column("a very long name of class number " + end, ("a", peak(0, 0))),)), "x"))
        for end in ("1", "2")
    ]
    assert (made[0] != made[1]).any()


def test_the_smallest_picture_holds_its_note() -> None:
    found = Features(Image.new("RGB", (8, 64)), (column("a", ("a", peak(0, 0))),))
    pixels = np.asarray(draw(found, "x"))
    assert (pixels[:, -6:] == PAPER).all()
    assert pixels.shape[1] < 400


def test_text_is_cleaned() -> None:
    hostile = Features(GREY, (column("a\x1b[31m\u202eb", ("x", peak(0, 0))),))
    plain = Features(GREY, (column("a[31mb", ("x", peak(0, 0))),))
    assert draw(hostile, "p\n").tobytes() == draw(plain, "p").tobytes()


def test_a_wide_photo_keeps_its_shape() -> None:
    found = Features(Image.new("RGB", (64, 32), (128,) * 3), (column("a", ("a", peak(0, 3))),))
    made = np.asarray(draw(found, "x"), float)
    top = MARGIN + TITLE + SMALL + 14 + SMALL + 6
    left = MARGIN + CELL + GAP
    assert np.allclose(made[top, left + CELL - 1], mixed(YELLOW), atol=1)
    assert (made[top + CELL // 2, left : left + CELL] == 255).all()


def test_a_png_of_it() -> None:
    found = Features(GREY, (column("a", ("a", peak(0, 0))),))
    made = draw(found, "x")
    with Image.open(io.BytesIO(png(made))) as again:
        assert (again.format, again.mode, again.size) == ("PNG", "RGB", made.size)
        assert again.tobytes() == made.tobytes()
