"""An evaluation's report: valid by its schema, hostile text only text, its drawings the numbers."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

from expertc.bench import read_accuracies
from expertc.errors import FileSystemError
from expertc.evaluate import Evaluation, EvaluationReport, agreement, charts, environment
from expertc.evaluate.others import Scope, Seen
from expertc.evaluate.page import to_html
from expertc.evaluate.report import FOLDER, FORMAT
from expertc.pages import to_json
from expertc.pages.axis import Axis
from expertc.pages.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from expertc.runtime import Reject
from expertc.text import clean_text

SCHEMA = json.loads(files("expertc.evaluate").joinpath("schema.json").read_text(encoding="utf-8"))
check = Draft202012Validator(SCHEMA).validate

HOSTILE = (
    "<script>document.title='owned'</script>", '"onload="alert(1)', "'><img src=x onerror=alert(1)>", "[/] | `x`",
    "\x1b[31mred\x1b[0m\u202egnp.exe", "</style></title></svg><svg onload=alert(1)>", "--><!-- ]]> &lt;b&gt; &amp;",
)  # fmt: skip
PLAIN = tuple(f"class {number}" for number in range(7))


def made(labels: tuple[str, ...] = PLAIN, images: int = 60, *, seed: int = 0, **more: Any) -> EvaluationReport:
    """A report of a model that is right more often than not, with everything in it."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(labels) - 1, images)  # the last class has no image
    scores = rng.standard_normal((images, len(labels))).astype(np.float32)
    scores[np.arange(images), truth] += 2
    decided = scores.argmax(axis=1)
    decided[0] = -1
    scores[0] = np.nan
    names = tuple(f"{labels[0]}/{number}" for number in range(images))
    found = Evaluation(labels, names, truth, decided, ((labels[0], labels[1]),), {labels[2]: 3}, scores)
    others = rng.standard_normal((20, len(labels)))
    threshold = Reject("energy", 2.5, 0.05, 0.5, images, 20)
    apart = Scope(scores[1:].astype(np.float64), Seen(others, 2, ((labels[0], labels[1]),), 1), "logits", threshold)
    agreed = agreement(names, scores, scores[:, ::-1])
    facts = {"size": [8, 8]}
    report = EvaluationReport(
        labels[0], "0" * 64, labels[1], labels[2], facts, found, environment(), found.covered(0.5), agreed, apart
    )
    return report if not more else EvaluationReport(**(vars(report) | more))


def bare(**more: Any) -> EvaluationReport:
    """Of a single class, so without probabilities, and nothing asked for."""
    one = Evaluation(("a",), ("x",), np.array([0]), np.array([0]), (), {}, np.zeros((1, 1)))
    return EvaluationReport("a.onnx", None, "photos", "val", {}, one, environment(), **more)


class Page(HTMLParser):
    """Elements and texts of a page; fails if they are not nested well."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")


# -- the schema --------------------------------------------------------------------------------------------------------


def test_the_schema_is_one_and_of_this_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == SCHEMA["$id"] == FORMAT


@pytest.mark.parametrize("report", [made(), made(HOSTILE), made(coverage=None, others=None), bare()])
def test_reports_are_valid(report: EvaluationReport) -> None:
    read = json.loads(to_json(report.to_mapping()))
    assert read == report.to_mapping()
    check(read)
    assert read.keys() <= SCHEMA["properties"].keys()
    assert set(SCHEMA["required"]) <= read.keys()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda report: report.pop("sha256"),
        lambda report: report.update(format="expertc.bench/4"),
        lambda report: report.update(sha256="?"),
        lambda report: report.update(images=0),
        lambda report: report["classes"][0].update(accuracy=90),
        lambda report: report["risk"].pop("hits"),
        lambda report: report["others"]["scores"][0].update(score="best"),
        lambda report: report["others"]["threshold"].pop("caught"),
        lambda report: report["confusion"][0].append(-1),
        lambda report: report["coverage"].update(more=1),
    ],
)
def test_what_is_spoilt_is_not(spoil: Callable[[dict[str, Any]], Any]) -> None:
    report = copy.deepcopy(made().to_mapping())
    check(report)
    spoil(report)
    with pytest.raises(ValidationError):
        check(report)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_hostile_text_is_shown_and_nothing_else() -> None:
    plain, text = Page(to_html(made().to_mapping())), to_html(made(HOSTILE).to_mapping())
    page = Page(text)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(kept) for _, kept in page.elements] == [sorted(kept) for _, kept in plain.elements]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert {"script", "link", "img", "a"}.isdisjoint(tag for tag, _ in page.elements)
    assert not [name for _, kept in page.elements for name in kept if name.startswith("on") or name in ("src", "href")]
    assert "://" not in text
    assert "url(" not in text
    rows = [said for tag, said in page.texts if tag == "th"]
    for name in HOSTILE:
        assert any(row.endswith(clean_text(name)) for row in rows)


def test_what_it_says() -> None:
    report = made()
    page, found = Page(to_html(report.to_mapping())), report.found
    said = {tag: [text for at, text in page.texts if at == tag] for tag in ("p", "td", "title")}
    assert said["p"][0].startswith(f"{100 * found.accuracy:.1f} % of 60 photos of 6 classes are recognised (95 %")
    assert any(text.startswith("Without a photo") and "class 6" in text for text in said["p"])
    assert {"Confusion matrix", "Reliability diagram", "Risk against coverage", "Own photos against others"} <= {
        *said["title"]
    }
    assert "3 photos of other classes (class 2)" in said["td"]
    for row in range(6):
        wrong = [n for column, n in enumerate(found.confusion[row].tolist()) if column != row]
        column = found.confusion[row].tolist().index(max(wrong)) if max(wrong) != found.confusion[row, row] else None
        assert column is None or f"class {column} ({max(wrong)})" in said["td"]
    scores = {one.score: one for one in report.others.separations}  # type: ignore[union-attr]
    assert {f"{one.auroc:.3f}" for one in scores.values()} <= {*said["td"]}
    titles = {text for at, text in Page(to_html(bare().to_mapping())).texts if at == "title"}
    assert titles == {"Evaluation: a.onnx"}  # nothing is drawn of a single class


def test_the_matrix_is_drawn_cell_by_cell() -> None:
    """Where each coloured cell is, how strong it is and what it says, against the counts."""
    matrix = [[6, 2, 0], [0, 4, 0], [0, 0, 0]]
    drawn = charts.confusion(("a", "b", "c"), matrix)
    sheet, *cells = drawn.iter("rect")
    left, top, side = (float(sheet.get(key, "")) for key in ("x", "y", "width"))
    seen = np.zeros((3, 3))
    for cell in cells:
        column, row = ((float(cell.get(key, "")) - start) / side * 3 for key, start in (("x", left), ("y", top)))
        assert (row, column) == pytest.approx((round(row), round(column)), abs=1e-3)
        seen[round(row), round(column)] = float(cell.get("fill-opacity", ""))
        told = (cell.findtext("title") or "").rpartition(": ")[2]
        assert told == f"{matrix[round(row)][round(column)]} of {sum(matrix[round(row)])}"
    assert (seen > 0).tolist() == [[n > 0 for n in row] for row in matrix]
    assert seen[1, 1] == 1 > seen[0, 0] > seen[0, 1] > charts.FAINTEST
    assert sorted(text.text or "" for text in drawn.iter("text")) == sorted("1 a,2 b,3 c,1,2,3,6,2,4".split(","))


@pytest.mark.parametrize("count", [2, 12, 13, 60, 400])
def test_the_matrix_stays_on_the_paper(count: int) -> None:
    drawn = charts.confusion([f"class {n}" for n in range(count)], np.eye(count, dtype=int).tolist())
    *_, width, height = map(float, (drawn.get("viewBox") or "").split())
    for one in drawn.iter("rect"):
        x, y, w, h = (float(one.get(key, "")) for key in ("x", "y", "width", "height"))
        assert x >= 0 <= y
        assert x + w <= width + 1e-2
        assert y + h <= height + 1e-2
    for one in drawn.iter("text"):
        reach = len(one.text or "") * charts.GLYPH * (1 if one.get("class") == "end" else 0.5)
        assert float(one.get("x", "")) - reach >= 0


def test_the_reliability_diagram_is_the_bins() -> None:
    bins = made().to_mapping()["reliability"]
    y = Axis(0, 1, HEIGHT - BOTTOM, TOP)
    drawn = charts.reliability(bins)
    full = [one for one in bins if one["images"]]
    heights = [(HEIGHT - BOTTOM - float(bar.get("y", ""))) / (HEIGHT - BOTTOM - TOP) for bar in drawn.iter("rect")]
    assert heights == pytest.approx([one["accuracy"] for one in full], abs=1e-3)
    assert [float(dot.get("cy", "")) for dot in drawn.iter("circle")] == pytest.approx(
        [y(one["accuracy"]) for one in full], abs=0.01
    )


def test_the_curve_of_risk_ends_in_the_error() -> None:
    report = made()
    mapping = report.to_mapping()
    drawn = charts.risk(mapping["risk"], mapping["images"], mapping["coverage"])
    (line,) = [one.get("d", "") for one in drawn.iter("path") if one.get("class") == "line s0"]
    points = [tuple(map(float, pair.split())) for pair in line[1:].split("L")]
    x = Axis(0, 1, LEFT, WIDTH - RIGHT)
    assert points[-1][0] == pytest.approx(x(59 / 60), abs=0.06)  # one has no decision
    ring = list(drawn.iter("circle"))[1]
    assert float(ring.get("cx", "")) == pytest.approx(x(mapping["coverage"]["coverage"]), abs=0.01)
    assert any(abs(float(ring.get("cx", "")) - px) < 0.1 and abs(float(ring.get("cy", "")) - py) < 0.1
               for px, py in points)  # fmt: skip


def test_the_roc_is_own_over_others() -> None:
    """Only the strictest threshold that all own photos reach lets in other things here: up first, then to the right."""
    drawn = charts.roc([{"score": "energy", "roc": {"own": [0.0, 0.5, 1.0, 1.0], "others": [0.0, 0.0, 0.25, 1.0]}}])
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    expected = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in ((0, 0), (0, 0.5), (0.25, 1), (1, 1)))
    assert [one.get("d") for one in drawn.iter("path") if one.get("class") == "line s0"] == [f"M{expected}"]


# -- the files ---------------------------------------------------------------------------------------------------------


def test_markdown_of_hostile_names() -> None:
    text = made(HOSTILE).to_markdown()
    assert "<script>" not in text
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows[:9]} == {6}


def test_the_folder_is_whole_and_read_by_the_benchmark(tmp_path: Path) -> None:
    report = made(model="a/full.onnx")
    assert report.write(tmp_path / "r") == tmp_path / "r"
    assert sorted(file.name for file in (tmp_path / "r").iterdir()) == ["report.html", "report.json", "report.md"]
    report.write(tmp_path / "r")  # an older one is replaced
    for place in (tmp_path / "r", tmp_path / "r" / "report.json"):
        [found] = read_accuracies([str(place)], ["b/full.onnx"]).values()
        assert (found.top1, found.images, found.classes) == (report.found.accuracy, 60, 6)
    (tmp_path / "r" / "report.json").write_text('{"format": "expertc.bench/4"}')
    for act in (lambda: report.write(tmp_path / "r"), lambda: FOLDER.refuse_place(tmp_path / "r")):
        with pytest.raises(FileSystemError, match="not an earlier evaluation report"):
            act()


# -- a browser ---------------------------------------------------------------------------------------------------------

FRAMES = """<!DOCTYPE html><title>waiting</title><body><script>
const widths = [400, 1200], seen = [];
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style = `border:0;width:${width}px;height:800px`;
  frame.srcdoc = PAGE;
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    const out = [...page.querySelectorAll("figure, table.facts, h1, p, div.scroll")].filter(
      (each) => each.getBoundingClientRect().right > root.clientWidth + 0.5);
    const over = root.scrollWidth - root.clientWidth;
    seen.push([width, over, out.length, page.title.startsWith("Evaluation: ")].join(" "));
    if (seen.length === widths.length) document.title = seen.sort().join("; ");
  };
  document.body.append(frame);
}
</script>"""


@pytest.mark.parametrize("labels", [HOSTILE, tuple("W" * 200 + str(number) for number in range(40))])
def test_a_browser_shows_it_without_overflow(tmp_path: Path, labels: tuple[str, ...]) -> None:
    """In frames as wide as a telephone and a desk: nothing reaches out, and no script of a label changed the title."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    page = json.dumps(to_html(made(labels).to_mapping())).replace("<", "\\u003c")
    (tmp_path / "frames.html").write_text(FRAMES.replace("PAGE", page), encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
               "--virtual-time-budget=5000")  # fmt: skip
    done = subprocess.run(
        [browser, *options, (tmp_path / "frames.html").as_uri()], capture_output=True, timeout=120, check=True
    )
    assert "<title>1200 0 0 true; 400 0 0 true</title>" in done.stdout.decode()
