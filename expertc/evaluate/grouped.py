"""What a model confuses, grouped: its confusion probability matrix over photos, and the matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from PIL import Image, ImageDraw

from ..errors import DataError, UsageError
from ..hierarchy import confusion_probabilities
from ..runtime.scores import probabilities
from ..taxonomy import Node, Taxonomy
from .accuracy import Evaluation
from .confusion import LARGEST, LEAST, MOST, NAMES, SIDE
from .picture import GAP, MARGIN, SMALL, TITLE, coloured, font, write

NOTE = (
    "Mean probabilities: rows are true classes, columns what they are taken for, in the order of the groups.",
    "Dark is 0, bright is 1; the colour grows with the square root, so that small shares can be seen.",
)


def confusion(found: Evaluation) -> np.ndarray:
    """The confusion probability matrix, float64 ``[labels, labels]``; see ``expertc.hierarchy``.

    Raises ``DataError`` if a class has no photo, or the scores are not numbers or no probabilities.
    """
    if found.scores is None:
        raise DataError("Decisions alone do not say how likely a class is.", "Evaluate the model itself.")
    if found.undecided:
        raise DataError(
            f"The model gives no numbers for {len(found.undecided)} of the photos (NaN or infinity).",
            "Check the model with expertc verify.",
        )
    return confusion_probabilities(found.truth, probabilities(found.scores, found.kind), found.labels)


def check_size(count: int) -> None:
    """Raise ``UsageError`` for more than ``MOST`` classes, which make too large a picture."""
    if count > MOST:
        raise UsageError(f"A picture of {count} classes would be too large.", "Leave out --picture.")


def draw(matrix: np.ndarray, tree: Taxonomy, name: str) -> Image.Image:
    """The matrix, rows and columns in the order of the tree's classes, a frame around each group at the top.

    ``name`` stands above it. Raises ``UsageError`` for more than ``MOST`` classes.
    """
    leaves = [node for node in tree.nodes() if node.is_class]
    count = len(leaves)
    check_size(count)
    cell = min(LARGEST, max(LEAST, SIDE // count))
    named = cell >= SMALL + 2
    left, top = MARGIN + (NAMES + GAP if named else 0), MARGIN + TITLE + GAP
    end = max(left + count * cell, MARGIN + max(ceil(font(SMALL).getlength(line)) for line in NOTE))
    bottom = top + count * cell + MARGIN
    made = Image.new("RGB", (end + MARGIN, bottom + len(NOTE) * (SMALL + 5) + MARGIN), (255, 255, 255))
    write(made, name, (MARGIN, MARGIN, end - MARGIN), TITLE)
    order = [leaf.index or 0 for leaf in leaves]
    cells = np.sqrt(matrix[np.ix_(order, order)]).repeat(cell, axis=0).repeat(cell, axis=1)
    made.paste(coloured(cells, np.full(cells.shape, 128.0)), (left, top))
    for row, leaf in enumerate(leaves if named else ()):
        write(made, leaf.name, (MARGIN, top + row * cell + (cell - SMALL - 4) // 2, NAMES), SMALL)
    _frames(ImageDraw.Draw(made), tree.roots, cell, left, top)
    for line, text in enumerate(NOTE):
        write(made, text, (MARGIN, bottom + line * (SMALL + 5), end - MARGIN), SMALL)
    return made


def _frames(pen: ImageDraw.ImageDraw, roots: Sequence[Node], cell: int, left: int, top: int) -> None:
    """A white square along the diagonal for each group of several classes."""
    start = 0
    for root in roots:
        side, at = len(root.leaves) * cell, start * cell
        if not root.is_class:
            pen.rectangle((left + at, top + at, left + at + side - 1, top + at + side - 1), outline=(255, 255, 255))
        start += len(root.leaves)
