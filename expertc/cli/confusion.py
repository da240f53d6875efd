"""What is taken for what, on a terminal: a small matrix, or the most frequent confusions of many classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import show

if TYPE_CHECKING:
    from ..evaluate import Evaluation

MOST = 12  # classes of a matrix that can still be read; of more, what is confused most often is listed
LISTED = 10
NAME = 20  # characters of a class's name at the left
READABLE = 8  # characters from which on a name over a column says more than a number


def print_confusion(found: Evaluation) -> None:
    """Print it after a blank line; nothing of a single class, or if there is nothing to tell of many."""
    count = len(found.labels)
    if count == 1:
        return
    digits = len(str(int(found.confusion.max())))
    left = min(NAME, show.WIDTH - count * (max(digits, len(str(count))) + 1))
    if count <= MOST and left >= READABLE:
        _matrix(found, left)
    elif found.confusions:
        _list(found)


def _matrix(found: Evaluation, left: int) -> None:
    from ..text import clean_text, shortened

    names = [clean_text(label) for label in found.labels]
    width = (show.WIDTH - left) // len(names) - 1
    said = width >= READABLE
    heads = [shortened(name, width) if said else str(place + 1) for place, name in enumerate(names)]
    rows = [
        (shortened(name if said else f"{place + 1} {name}", left), *(str(n) if n else "·" for n in row))
        for place, (name, row) in enumerate(zip(names, found.confusion.tolist(), strict=True))
    ]
    show.line()
    show.table(("class", *heads), rows, tight=True)
    show.line("rows are true classes, columns what they are taken for")


def _list(found: Evaluation) -> None:
    rows = [
        (found.labels[row], found.labels[column], str(images), show.percent(images / found.per_class[row].images))
        for row, column, images in found.confusions[:LISTED]
    ]
    show.line()
    show.table(("class", "taken for", "photos", "of the class"), rows, left=2)
    if len(found.confusions) > LISTED:
        rest = found.confusions[LISTED:]
        show.line(f"and {len(rest):,} other confusions, {sum(images for *_, images in rest):,} photos")
