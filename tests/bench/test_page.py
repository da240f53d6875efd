"""The page: that strangers' text stays text, that it needs nobody, and that its drawings show the numbers."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import made

from expertc.bench import Accuracy, charts
from expertc.bench.page import to_html
from expertc.pages.axis import Axis, duration
from expertc.text import clean_text

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"onload="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "[/] [red]",
    "\x1b[31mred\x1b[0m\u202egnp.exe",
    "</style></title></svg><svg onload=alert(1)>",
    "--><!-- ]]> &lt;b&gt; &amp;",
)
VOID = {"meta"}


class Page(HTMLParser):
    """What a page holds, and whether its elements are nested well."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def text(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


def full(names: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """A report with everything in it, the names everywhere where a stranger's text can be."""
    accuracies = tuple(Accuracy(0.8 + 0.01 * i, 0.7, 0.95, 100, 4) for i in range(len(names)))
    times = {name: 0.001 * (1 + i) for i, name in enumerate(names)}
    report = made(times, accuracies=accuracies, cpu=names[0], governor=names[1]).to_mapping()
    found = {name: [name, {name: name}] for name in names}
    return report | {"evidence": found, "warnings": list(names), **more}


def test_hostile_text_is_shown_and_nothing_else() -> None:
    plain = Page(to_html(full(tuple(f"model {i}" for i in range(len(HOSTILE))))))
    text = to_html(full(HOSTILE))
    page = Page(text)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(attributes) for _, attributes in page.elements] == [sorted(kept) for _, kept in plain.elements]
    assert not page.comments
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)
    for name in HOSTILE:
        assert clean_text(name) in page.text("p")
        assert any(shown.endswith(clean_text(name)) for shown in page.text("th"))
        assert clean_text(name) in page.text("td")


def test_the_page_loads_and_runs_nothing() -> None:
    text = to_html(full(("a", "b", "c")))
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "a", "form"})
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "style", "srcset")}
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [kept["content"] for _, kept in page.elements if kept.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements


def test_what_it_says() -> None:
    accuracy = Accuracy(0.9, 0.85, 0.94, 200, 8)
    report = made({"full.onnx": 0.004, "small": 0.002}, accuracies=(accuracy, None)).to_mapping()
    evidence = {
        "verdict": "clean",
        "clocks": {"steady": True, "mhz": list(range(50))},
        "sensors": [{"name": "soc"}],
        "locked": [],
    }
    verdict = {"name": "noisy", "reasons": ["The machine was busy."]}
    page = Page(to_html(report | {"evidence": evidence, "verdict": verdict, "warnings": ["The machine was busy."]}))
    ratio = report["models"][1]["ratio"]
    said = page.text("p")
    slowest, p90 = max(report["models"][0]["durations_ns"]) / 1e9, report["models"][0]["summary"]["p90"]
    assert said[0] == f"full.onnx: p90 {duration(p90)}; slowest of 800 calls {duration(slowest)}"
    assert said[1].startswith("small: p90 ")
    assert said[2].startswith(f"small takes {ratio['value']:.3f} × the time of full.onnx per image (95 % interval")
    assert said[3:] == ["Verdict: noisy", "The machine was busy."]
    assert page.text("h1") == ["Benchmark: single-stream"]
    assert duration(report["models"][0]["summary"]["median"]) in page.text("td")
    assert {"90.0 %", "85.0 to 94.0 %", "800", "yes", "clean", "50 values", "soc", "none"} <= set(page.text("td"))
    assert {"clocks · steady", "sensors 1 · name"} <= set(page.text("th"))


def test_what_is_missing_is_not_made_up() -> None:
    page = Page(to_html(made({"a": 0.002}, blocks=2, turn=1).to_mapping()))
    assert "Median time per image" not in page.text("title")
    report = made({"a": 0.002, "b": 0.001}, blocks=2, turn=1, complete=False).to_mapping()
    report["models"][0]["summary"]["median"] = 0.002
    page = Page(to_html(report | {"evidence": {}}))
    assert page.text("h1") == ["Benchmark: single-stream, interrupted"]
    assert any(text.startswith("too few calls") for text in page.text("text"))
    assert page.text("td").count("–") == 7
    assert "Accuracy against latency" not in page.text("title")
    assert "Evidence" not in page.text("h2")


# -- drawings ----------------------------------------------------------------------------------------------------------


def test_the_bars_are_as_long_as_the_medians() -> None:
    models = made({"a": 0.004, "b": 0.002}, accuracies=()).to_mapping()["models"]
    bars = list(charts.bars(models).iter("rect"))
    lengths = [float(bar.get("width", "")) for bar in bars]
    medians = [model["summary"]["median"] for model in models]
    assert lengths[0] / lengths[1] == pytest.approx(medians[0] / medians[1], rel=1e-3)


def test_the_curve_is_the_empirical_distribution() -> None:
    """Every corner of the path, turned back to numbers, against numpy."""
    models = made({"a": 0.004}, blocks=500).to_mapping()["models"]
    values = np.array(models[0]["durations_ns"]) / 1e9
    x = Axis(values.min() / 1.05, values.max() * 1.05, charts.LEFT, charts.WIDTH - charts.RIGHT, logarithmic=True)
    (path,) = [each.get("d", "") for each in charts.distribution(models).iter("path") if each.get("class") == "line s0"]
    corners = re.findall(r"H([\d.]+)V([\d.]+)", path)
    assert len(corners) > charts.CURVE
    pixels = np.array([float(across) for across, _ in corners])
    shares = [1 - (float(up) - charts.TOP) / (charts.HEIGHT - charts.BOTTOM - charts.TOP) for _, up in corners]
    # A pixel is 10th of a unit: less than one rank of the 2000.
    for pixel, share in zip(pixels, shares, strict=True):
        bounds = [np.quantile(values, np.clip(share + off, 0, 1), method="inverted_cdf") for off in (-0.0005, 0.0005)]
        assert x(bounds[0]) - 0.1 <= pixel <= x(bounds[1]) + 0.1
    assert pixels[-1] == pytest.approx(x(values.max()), abs=0.1)  # the slowest call is there
    assert shares[-1] == pytest.approx(1, abs=1e-3)


def test_the_front_holds_what_nobody_beats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = {i: (float(t), float(a)) for i, (t, a) in enumerate(rng.integers(0, 6, (12, 2)))}
        beaten = {
            i for i, (t, a) in points.items()
            if any(u <= t and b >= a and (u, b) != (t, a) for u, b in points.values())
        }  # fmt: skip
        front = charts.frontier(points)
        assert {points[i] for i in front} == {points[i] for i in points.keys() - beaten}
        assert [points[i] for i in front] == sorted({points[i] for i in front})


def test_axes() -> None:
    assert Axis(0, 9.4, 0, 1).ticks == [0, 2, 4, 6, 8]
    assert Axis(1.9, 31, 0, 1, logarithmic=True).ticks == [2, 5, 10, 20]
    assert Axis(0.002, 0.9, 0, 1, logarithmic=True).ticks == pytest.approx([0.01, 0.1])
    narrow = Axis(4.01, 4.22, 0, 1, logarithmic=True).ticks
    assert len(narrow) >= 3
    assert all(4.01 <= tick <= 4.22 for tick in narrow)
    assert Axis(1, 100, 0, 200, logarithmic=True)(10) == pytest.approx(100)
    assert [duration(each) for each in (0.0123456, 1.5, 2.5e-7, 0.99996e-3, 0.25)] == [
        "12.3 ms", "1.50 s", "0.250 µs", "1000 µs", "250 ms",
    ]  # fmt: skip


# -- a browser ---------------------------------------------------------------------------------------------------------


def test_a_browser_sees_the_same(tmp_path: Path) -> None:
    """What Chromium makes of the page is what was written: no script ran, no text fell out of its place."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    text = to_html(full(HOSTILE))
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    done = subprocess.run(
        [browser, *options, (tmp_path / "report.html").as_uri()], capture_output=True, timeout=120, check=True
    )
    dom = done.stdout.decode()
    assert "<title>Benchmark: single-stream</title>" in dom
    written, seen = Page(text), Page(dom)
    assert [tag for tag, _ in seen.elements if tag != "tbody"] == [t for t, _ in written.elements if t != "tbody"]
    assert [text for _, text in seen.texts if text.strip()] == [text for _, text in written.texts if text.strip()]
    assert html.escape(HOSTILE[0], quote=False) in dom
