"""What is taken for what, as a picture: a row per true class, a column per decision, light where it happens often."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..errors import UsageError
from .accuracy import Evaluation
from .picture import GAP, MARGIN, SMALL, TITLE, coloured, font, write

MOST = 1000  # classes; each is at least 4 pixels wide
NAMES, SIDE = 180, 600  # pixels: width of the names, and of the matrix as far as cells stay within bounds
LEAST, LARGEST = 4, 44  # pixels of a cell
TOLD = 24  # from this size on a cell holds its number

NOTE = "Rows are true classes, columns decisions in the same order. Colour: share of the row."


def draw(found: Evaluation, name: str) -> Image.Image:
    """The confusion matrix; ``name`` stands above it. Raises ``UsageError`` for more than ``MOST`` classes."""
    count = len(found.labels)
    if count > MOST:
        raise UsageError(
            f"A picture of {count} classes would be too large.", "Choose some with --classes, or leave out --picture."
        )
    cell = min(LARGEST, max(LEAST, SIDE // count))
    named = cell >= SMALL + 2
    left, top = MARGIN + (NAMES + GAP if named else 0), MARGIN + TITLE + 4 + (SMALL + 6 if named else 0)
    end = max(left + count * cell, MARGIN + round(font(SMALL).getlength(NOTE)) + 1)
    made = Image.new("RGB", (end + MARGIN, top + count * cell + SMALL + 5 + 2 * MARGIN), (255, 255, 255))
    write(made, name, (MARGIN, MARGIN, end - MARGIN), TITLE)

    matrix = found.confusion
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cells = shares.repeat(cell, axis=0).repeat(cell, axis=1)
    made.paste(coloured(cells, np.full(cells.shape, 128.0)), (left, top))
    pen = ImageDraw.Draw(made)
    for row, label in enumerate(found.labels if named else ()):
        y = top + row * cell
        write(made, f"{row + 1} {label}", (MARGIN, y + (cell - SMALL - 4) // 2, NAMES), SMALL)
        write(made, str(row + 1), (left + row * cell, top - SMALL - 6, cell), SMALL)
        for column in np.flatnonzero(matrix[row]).tolist() if cell >= TOLD else ():
            middle = (left + column * cell + cell / 2, y + cell / 2)
            ink = (255, 255, 255) if shares[row, column] < 0.6 else (20, 20, 20)  # the colours grow lighter
            pen.text(middle, str(matrix[row, column]), ink, font(SMALL), anchor="mm")
    write(made, NOTE, (MARGIN, top + count * cell + MARGIN, end - MARGIN), SMALL)
    return made
