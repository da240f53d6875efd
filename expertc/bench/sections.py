"""The part of a report's page that only some runs have: its tables, and the drawing of a sweep of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from . import charts
from .markup import element
from .tables import Table, additional


def sections(report: Mapping[str, Any]) -> Iterator[Element]:
    """Heading, table and note of each, for a report as ``BenchReport.to_mapping`` makes it."""
    for table in additional(report):
        yield element("h2", table.title)
        yield element("div", (_table(table),), class_="scroll")
        yield element("p", table.note, class_="note")
    if any(sweep["steps"] for sweep in report.get("sweeps", {}).values()):
        names = [model["name"] for model in report["models"]]
        swept = {names.index(name): sweep for name, sweep in report["sweeps"].items() if sweep["steps"]}
        legend = charts.named({place: f"{place + 1}. {names[place]}" for place in swept})
        caption = element("figcaption", "Images per second by images per call. A ring marks the batch that was chosen.")
        figure = element("figure", (charts.saturation(swept), legend, caption))
        yield element("div", (figure,), class_="figures")


def _table(table: Table) -> Element:
    head = element("tr", [element("th", name, scope="col") for name in table.columns])
    rows = [
        element("tr", [element("th" if place < table.left else "td", cell) for place, cell in enumerate(row)])
        for row in table.rows
    ]
    return element("table", (element("thead", (head,)), element("tbody", rows)), class_="numbers")
