"""Parts of a page: tables of numbers and of facts, figures, and the page around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element

from .markup import document, element

LISTED = 12  # values of a list that are shown; a longer one is counted


def page(title: str, body: Iterable[Element]) -> str:
    """A whole page in the style of all reports."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return document(title, style, (element("main", body),))


def numbers(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Element:
    """A table whose first column is names and whose others are numbers; it scrolls where it is too wide."""
    head = element("tr", [element("th", name, scope="col") for name in columns])
    body = [
        element("tr", (element("th", name, scope="row"), *(element("td", cell) for cell in cells)))
        for name, *cells in rows
    ]
    table = element("table", (element("thead", (head,)), element("tbody", body)), class_="numbers")
    return element("div", (table,), class_="scroll")


def figure(drawing: Element, caption: str, *more: Element, class_: str = "") -> Element:
    """A drawing with what is to be said of it."""
    extra = {"class_": class_} if class_ else {}
    return element("figure", (drawing, *more, element("figcaption", caption)), **extra)


def table(rows: Iterable[tuple[str, str]]) -> Element:
    """A table of names and what there is to say of each."""
    made = [element("tr", (element("th", name, scope="row"), element("td", value))) for name, value in rows]
    return element("table", (element("tbody", made),), class_="facts")


def named(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Any JSON value as names and texts, what is nested in what."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from named(part, f"{name} · {key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        for place, part in enumerate(value[:LISTED]):
            yield from named(part, f"{name} {place + 1}")
        if len(value) > LISTED:
            yield name, f"{len(value) - LISTED} more"
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(_text, value)) or "none" if len(value) <= LISTED else f"{len(value)} values"
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
