"""The tables and drawings that only some runs have: their numbers, and strangers' text in them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from made import made
from test_page import HOSTILE, Page

from expertc.bench import BenchReport, charts
from expertc.bench.camera import Stream
from expertc.bench.cold import ColdStart
from expertc.bench.page import to_html
from expertc.bench.phases import END_TO_END, PHASES, Phases
from expertc.bench.report import Branch
from expertc.bench.sweep import Step, Sweep
from expertc.bench.tables import additional
from expertc.measure import Summary
from expertc.pages.axis import Axis
from expertc.text import clean_text


def whole(names: tuple[str, ...]) -> BenchReport:
    """A report with every table there is, and a stranger's text everywhere."""
    times = dict.fromkeys((*PHASES, END_TO_END), Summary.of([0.001] * 70))
    return replace(
        made(dict.fromkeys(names, 0.002)),
        streams={name: Stream(30.0, 100, 5, (0.01,) * 80, (0.02,) * 80) for name in names},
        sweeps={name: Sweep((Step(1, 50.0, None), Step(2, 90.0, 0.8)), 2, names[0]) for name in names},
        phases={name: Phases(times, {"H2D Latency": Summary.of([0.0001] * 5)}) for name in names},
        photos=names[-1],
        branches={name: Branch(name, 2, 0.25) for name in names[1:]},
        cold={name: ColdStart(0.2, 0.1, 0.02, 0.01, 5_000_000, 1) for name in names},
    )


def test_the_numbers() -> None:
    report = whole(("a", "b"))
    camera, batch, branches, cold, phases = additional(report.to_mapping())
    ratio = report.entries[1].ratio
    assert branches.rows == (
        ("b", "2", "25.0 %", f"{100 * (1 - ratio.value):.1f} %",
         f"{100 * (1 - (ratio.high or 0)):.1f} % to {100 * (1 - (ratio.low or 0)):.1f} %"),
    )  # fmt: skip
    assert cold.rows[1] == ("b", "200 ms", "100 ms", "20.0 ms", "10.0 ms", "320 ms", "5.0 MB")
    assert camera.rows[1] == ("b", "100", "25.0 %", "20", "5", "20.0 ms", "20.0 ms", "–", "10.0 ms")
    assert batch.rows[:2] == (("a", "1", "50.0", "–"), ("a", "2 *", "90.0", "+80.0 %"))
    assert phases.rows[0] == ("a", "decode", "1.00 ms", "1.00 ms", "100.0 %")
    assert phases.rows[5] == ("a", "H2D Latency", "–", "–", "–")
    assert "a CPU has no copies" not in phases.note
    assert not [*additional(made({"a": 0.002}).to_mapping())]


def test_hostile_names_are_text() -> None:
    plain = Page(to_html(whole(tuple(f"model {i}" for i in range(len(HOSTILE)))).to_mapping()))
    report = whole(HOSTILE)
    page = Page(to_html(report.to_mapping()))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    for name in HOSTILE:
        assert page.text("th").count(clean_text(name)) >= 3
        assert any(clean_text(name) in text for text in page.text("p"))
    lines = [line for line in report.to_markdown().splitlines() if line.startswith("| ")]
    assert not any("<" in line.replace("&lt;", "") for line in lines)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", to_html(report.to_mapping()))


def test_the_sweep_is_drawn_where_it_is() -> None:
    """Every dot, turned back to numbers."""
    steps = [(1, 50.0), (2, 90.0), (4, 91.0), (8, 60.0)]
    sweep: dict[str, Any] = {
        "chosen": 2, "steps": [{"batch": batch, "images_per_second": rate} for batch, rate in steps],
    }  # fmt: skip
    drawing = charts.saturation({0: sweep})
    x = Axis(1 / 1.15, 8 * 1.15, charts.LEFT, charts.WIDTH - charts.RIGHT, logarithmic=True)
    y = Axis(0, 1.1 * 91, charts.HEIGHT - charts.BOTTOM, charts.TOP)
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in drawing.iter("circle")]
    assert dots == [pytest.approx((x(batch), y(rate)), abs=0.01) for batch, rate in steps]
    assert [dot.get("class") for dot in drawing.iter("circle")].count("beaten s0") == 1
    (line,) = [path.get("d", "") for path in drawing.iter("path") if "line" in path.get("class", "")]
    assert line.count("L") == len(steps) - 1
    assert {str(batch) for batch, _ in steps} <= {text.text for text in drawing.iter("text")}


def test_a_sweep_without_a_step_has_no_drawing() -> None:
    report = replace(made({"a": 0.002}), sweeps={"a": Sweep((), 1, "no memory")})
    page = Page(to_html(report.to_mapping()))
    assert "Choice of the batch" in page.text("h2")
    assert "Images per second by batch" not in page.text("title")
