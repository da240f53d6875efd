"""The part of a report's page that only some runs have: its tables, and the drawing of a sweep of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from ..pages.drawing import legend
from ..pages.markup import element
from ..pages.parts import figure
from . import charts
from .tables import Table, additional


def sections(report: Mapping[str, Any]) -> Iterator[Element]:
    """Heading, table and note of each, for a report as ``BenchReport.to_mapping`` makes it."""
    for table in additional(report):
        yield element("h2", table.title)
        yield element("div", (_table(table),), class_="scroll")
        yield element("p", table.note, class_="note")
        if table.key == "batch":
            yield from _drawing(report)


def _drawing(report: Mapping[str, Any]) -> Iterator[Element]:
    """The sweeps that got as far as a step."""
    if any(sweep["steps"] for sweep in report["sweeps"].values()):
        names = [model["name"] for model in report["models"]]
        swept = {names.index(name): sweep for name, sweep in report["sweeps"].items() if sweep["steps"]}
        said = legend({place: f"{place + 1}. {names[place]}" for place in swept})
        caption = "Images per second by images per call. A ring marks the batch that was chosen."
        yield figure(charts.saturation(swept), caption, said, class_="alone")


def _table(table: Table) -> Element:
    head = [element("th", name, scope="col", class_=_kind(table, place)) for place, name in enumerate(table.columns)]
    rows = [
        element("tr", [element("th" if place < table.left else "td", cell) for place, cell in enumerate(row)])
        for row in table.rows
    ]
    thead = element("thead", (element("tr", head),))
    return element("table", (thead, element("tbody", rows)), class_="numbers")


def _kind(table: Table, place: int) -> str:
    return "label" if place < table.left else "number"
