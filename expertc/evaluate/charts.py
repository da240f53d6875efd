"""The drawings of an evaluation's page, as SVG; what they show are parts of ``EvaluationReport.to_mapping``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ..pages.axis import Axis
from ..pages.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    across,
    drawing,
    fill,
    per_cent,
    series,
    up,
)
from ..pages.markup import element
from ..text import clean_text, shortened

WIDE = 960  # of a matrix of more than MANY classes, which is as wide as the page
MANY = 12
NAMED = 14  # from this size of a cell on there is room for a line of text beside it
CELL = 72  # and none is larger
GLYPH = 7.5  # width of a digit or letter
STRONG = 0.7  # share of a row from which on a number is better read in the colour of the paper, on light and on dark
FAINTEST = 0.1  # opacity of a cell that holds anything at all

SHARE = ("%", 0.01)
SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1)


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Element:
    """A row per true class, a column per decision, the stronger in colour the larger the share of the row."""
    count, wide = len(labels), is_wide(labels)
    width, names = (WIDE, 190) if wide else (WIDTH, 136)
    named = (width - names - RIGHT) / count >= NAMED
    left, top = (names, 22) if named else (RIGHT, TOP)
    cell = min((width - left - RIGHT) / count, CELL)
    side = cell * count
    parts = [element("rect", x=left, y=top, width=side, height=side, class_="sheet")]
    for row, label in enumerate(labels):
        y, said = top + (row + 0.5) * cell + 4.5, f"{row + 1} {shortened(clean_text(label), int(names / GLYPH) - 3)}"
        if named:
            parts.append(element("text", said, x=left - 6, y=y, class_="end"))
            parts.append(element("text", str(row + 1), x=left + (row + 0.5) * cell, y=top - 6, class_="mid"))
        total = max(sum(matrix[row]), 1)
        for column, images in enumerate(matrix[row]):
            if images:
                x, share = left + column * cell, images / total
                told = f"{label}, taken for {labels[column]}: {images} of {total}"
                parts.append(
                    element(
                        "rect", (element("title", told),), x=x, y=top + row * cell, width=cell, height=cell,
                        class_=fill(0), fill_opacity=FAINTEST + (1 - FAINTEST) * share,
                    )
                )  # fmt: skip
                if cell >= GLYPH * (len(str(images)) + 1):
                    parts.append(
                        element("text", str(images), x=x + cell / 2, y=y, class_="inside" if share > STRONG else "mid")
                    )
    return drawing("Confusion matrix", top + side + TOP, parts, width)


def is_wide(labels: Sequence[str]) -> bool:
    """Whether a confusion matrix of these classes needs the width of the page."""
    return len(labels) > MANY


def reliability(bins: Sequence[Mapping[str, Any]]) -> Element:
    """Accuracy against probability, bin by bin, with 95 % intervals; on the diagonal both are equal."""
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [*across(x, "probability of the decision", SHARE), *up(y, SHARES, per_cent), _line(x, y)]
    for one in bins:
        if one["images"]:
            start, end, high = x(one["low"]), x(one["high"]), y(one["accuracy"])
            bar = {"x": start + 1, "y": high, "width": end - start - 2, "height": y.start - high}
            parts.append(element("rect", **bar, class_=fill(0), fill_opacity=0.3))
            at = x(min(max(one["confidence"], 0), 1))
            low, most = (y(bound) for bound in one["interval"])
            parts.append(element("path", d=f"M{at:.1f} {low:.1f}V{most:.1f}", class_="whisker"))
            parts.append(element("circle", cx=at, cy=high, r=4, class_=fill(0)))
    return drawing("Reliability diagram", HEIGHT, parts)


def risk(curve: Mapping[str, Sequence[float]], images: int, asked: Mapping[str, Any] | None = None) -> Element:
    """The share of wrong decisions among those that are surest, against how many of the images these are."""
    shares = [(n / images, 1 - hits / n) for n, hits in zip(curve["covered"], curve["hits"], strict=True)]
    x = Axis(0, 1, LEFT, WIDTH - RIGHT)
    y = Axis(0, max(1.1 * max(wrong for _, wrong in shares), 0.01), HEIGHT - BOTTOM, TOP)
    path = "L".join(f"{x(share):.1f} {y(wrong):.1f}" for share, wrong in shares)
    parts = [
        *across(x, "photos that are decided", SHARE), *up(y, y.ticks, per_cent),
        element("path", d=f"M{path}", class_=f"line {series(0)}"),
        element("circle", cx=x(shares[-1][0]), cy=y(shares[-1][1]), r=4, class_=fill(0)),
    ]  # fmt: skip
    if asked is not None and asked["covered"]:
        ring = {"cx": x(asked["coverage"]), "cy": y(1 - asked["accuracy"])}
        parts.append(element("circle", **ring, r=6, class_=f"beaten {series(1)}"))
    return drawing("Risk against coverage", HEIGHT, parts)


def roc(scores: Sequence[Mapping[str, Any]]) -> Element:
    """The share of own photos that are let in, against that of the others, for every threshold on each score."""
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [*across(x, "others let in", SHARE), *up(y, SHARES, per_cent), _line(x, y)]
    for place, one in enumerate(scores):
        pairs = zip(one["roc"]["others"], one["roc"]["own"], strict=True)
        path = "L".join(f"{x(others):.1f} {y(own):.1f}" for others, own in pairs)
        parts.append(element("path", d=f"M{path}", class_=f"line {series(place)}"))
    return drawing("Own photos against others", HEIGHT, parts)


def _line(x: Axis, y: Axis) -> Element:
    """The diagonal."""
    return element("path", d=f"M{x.start} {y.start}L{x.end} {y.end}", class_="front")
