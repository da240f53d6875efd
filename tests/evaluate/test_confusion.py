"""The picture of a confusion matrix, looked at pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from expertc.errors import UsageError
from expertc.evaluate import Evaluation
from expertc.evaluate.confusion import GAP, LARGEST, LEAST, MARGIN, NAMES, draw
from expertc.evaluate.picture import SMALL, TITLE

TOP = MARGIN + TITLE + 4 + SMALL + 6
LEFT = MARGIN + NAMES + GAP


def evaluation(matrix: list[list[int]]) -> Evaluation:
    pairs = [(t, d) for t, row in enumerate(matrix) for d, times in enumerate(row) for _ in range(times)]
    truth, decided = np.array(pairs).T
    names = tuple("x" for _ in pairs)
    return Evaluation(tuple(f"class {n}" for n in range(len(matrix))), names, truth, decided, (), {})


def cell(pixels: np.ndarray, row: int, column: int, size: int) -> np.ndarray:
    return pixels[TOP + row * size : TOP + (row + 1) * size, LEFT + column * size : LEFT + (column + 1) * size]


def test_light_where_it_happens_often() -> None:
    pixels = np.asarray(draw(evaluation([[8, 2], [0, 5]]), "photos").convert("L"), float)
    corner = [[cell(pixels, row, column, LARGEST)[1, 1] for column in (0, 1)] for row in (0, 1)]
    assert corner[1][1] > corner[0][0] > corner[0][1] > corner[1][0]
    assert np.ptp(cell(pixels, 0, 1, LARGEST)) > 50  # its number is readable
    assert np.ptp(cell(pixels, 0, 0, LARGEST)) > 50
    assert np.ptp(cell(pixels, 1, 0, LARGEST)) == 0  # and there is none for nothing


def test_a_class_without_photos_is_a_dark_row() -> None:
    pixels = np.asarray(draw(evaluation([[3, 0], [0, 0]]), "photos"), float)
    assert np.ptp(cell(pixels, 1, 0, LARGEST), axis=(0, 1)).max() == 0
    assert (cell(pixels, 1, 0, LARGEST) == cell(pixels, 1, 1, LARGEST)).all()


@pytest.mark.parametrize("count", [2, 23, 42, 200])
def test_everything_stays_on_the_paper(count: int) -> None:
    found = evaluation(np.eye(count, dtype=int).tolist())
    pixels = np.asarray(draw(found, "W" * 300))
    for edge in (pixels[:8], pixels[-6:], pixels[:, :8], pixels[:, -6:]):
        assert (edge == 255).all()
    assert max(pixels.shape) < 1000


def test_a_thousand_classes_and_no_more() -> None:
    eye = Evaluation(("a",) * 1001, ("x",), np.array([0]), np.array([0]), (), {})
    with pytest.raises(UsageError, match="1001 classes"):
        draw(eye, "x")
    most = Evaluation(("a",) * 1000, ("x",), np.array([999]), np.array([999]), (), {})
    pixels = np.asarray(draw(most, "x").convert("L"), int)
    assert pixels.shape[1] == 1000 * LEAST + 2 * MARGIN
    last = pixels[MARGIN + TITLE + 4 + 999 * LEAST :, MARGIN + 999 * LEAST :][:LEAST, :LEAST]
    assert np.ptp(last) == 0
    assert last[0, 0] > pixels[MARGIN + TITLE + 4 + 998 * LEAST, MARGIN + 999 * LEAST] + 60
