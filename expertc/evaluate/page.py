"""An evaluation's report as one HTML page, in the style of a benchmark's. It holds all it needs and runs no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from ..pages.drawing import legend
from ..pages.markup import element
from ..pages.parts import figure, named, numbers, page, table
from . import charts

LISTED = 10  # photos and classes that are named


def to_html(report: Mapping[str, Any]) -> str:
    """The page for a report as ``EvaluationReport.to_mapping`` makes it."""
    title = f"Evaluation: {Path(report['model']).name}"
    body = [element("h1", title)]
    body += [element("p", text, class_="lead") for text in _findings(report)]
    body += [element("p", text, class_="warning") for text in _doubts(report)]
    body.append(element("div", _figures(report), class_="figures"))
    body += [element("h2", "Classes"), _classes(report)]
    if others := report.get("others"):
        body += [element("h2", "Other things"), *_others(others)]
    body += [element("h2", "How it was measured"), table(named(_method(report)))]
    return page(title, body)


def _findings(report: Mapping[str, Any]) -> Iterator[str]:
    count = sum(1 for one in report["classes"] if one["images"])
    yield f"{_share(report)} of {report['images']:,} photos of {count} classes are recognised{_interval(report)}."
    if top5 := report["top5"]:
        yield f"Of {_share(top5)} the class is among the best five{_interval(top5)}."
    if (error := report["calibration"]["error"]) is not None:
        yield f"The expected calibration error is {100 * error:.1f} %."
    if some := report.get("coverage"):
        right = "none" if some["accuracy"] is None else f"{100 * some['accuracy']:.1f} %"
        yield f"With a probability of at least {some['reject']:g}, {100 * some['coverage']:.1f} % are decided; " \
              f"of these, {right} are right."  # fmt: skip
    if agreement := report.get("agreement"):
        yield f"It decides like the other model in {agreement['agreed']:,} of {agreement['images']:,} photos."


def _doubts(report: Mapping[str, Any]) -> Iterator[str]:
    if absent := report["absent"]:
        yield f"Without a photo, so that nothing is known: {_some(absent)}."
    if unreadable := report["unreadable"]:
        yield f"Not readable: {_some([one['image'] for one in unreadable])}."
    if undecided := report["undecided"]:
        yield f"No decision, as the scores are not numbers: {_some(undecided)}."


def _figures(report: Mapping[str, Any]) -> Iterator[Element]:
    labels = [one["label"] for one in report["classes"]]
    if len(labels) > 1:
        yield figure(
            charts.confusion(labels, report["confusion"]),
            "What is taken for what: a row per class, a column per decision in the same order. The stronger the "
            "colour, the larger the share of the row.",
            class_="wide" if charts.is_wide(labels) else "",
        )
    if report["reliability"]:
        yield figure(
            charts.reliability(report["reliability"]),
            "How many decisions are right, by their probability, with 95 % intervals. On the line a model is as sure "
            "as it is right; below, it is too sure.",
        )
    if report["risk"]["covered"]:
        asked = report.get("coverage")
        ring = f" The ring: only probabilities from {asked['reject']:g} on." if asked else ""
        yield figure(
            charts.risk(report["risk"], report["images"], asked),
            f"Wrong decisions if only the surest count. The dot: all count.{ring}",
        )
    if others := report.get("others"):
        yield figure(
            charts.roc(others["scores"]),
            "How many of its own photos a threshold lets in, and how many of other things.",
            legend({at: f"{one['score']}: AUROC {one['auroc']:.3f}" for at, one in enumerate(others["scores"])}),
        )


def _classes(report: Mapping[str, Any]) -> Element:
    labels = [one["label"] for one in report["classes"]]
    rows = []
    for place, (one, row) in enumerate(zip(report["classes"], report["confusion"], strict=True)):
        images, other = max((n if at != place else 0, -at) for at, n in enumerate(row))
        taken = f"{labels[-other]} ({images})" if images else "–"
        rows.append((f"{place + 1}. {one['label']}", *_counts(one), taken))
    rows.append(("all", *_counts(report), ""))
    return numbers(("class", "photos", "right", "accuracy", "95 %", "most often taken for"), rows)


def _others(others: Mapping[str, Any]) -> Iterator[Element]:
    rows = [(one["score"], f"{one['auroc']:.3f}", f"{100 * one['fpr95']:.1f} %") for one in others["scores"]]
    said = f"{others['images']:,} photos of other things were looked at."
    if others["own_left_out"]:
        said += f" {others['own_left_out']:,} of the model's own classes were left out."
    yield element("p", said)
    yield numbers(("score", "AUROC", "others let in with 95 % of own"), rows)
    if threshold := others.get("threshold"):
        columns = ("with the threshold of the bundle", "photos", "none of these", "share", "95 %")
        named = (("other things", threshold["caught"]), ("own classes", threshold["rejected"]))
        yield numbers(columns, [(name, *_counts(one | {"accuracy": one["share"]})) for name, one in named])


def _method(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader who doubts asks for."""
    left_out = report["left_out"]
    other = f"{sum(left_out.values()):,} photos of other classes ({_some(list(left_out))})"
    return {
        "model": report["model"],
        "sha256": report["sha256"],
        "its output": report["kind"],
        "photos": report["data"],
        "left out": other if left_out else "none",
        "preprocessing": report["preprocess"],
        "intervals": "Wilson, 95 %",
        "calibration error": f"{report['calibration']['bins']} bins of equal width",
        **report["environment"],
        "format": report["format"],
    }


def _counts(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if one["accuracy"] is None:
        return "0", "0", "–", "–"
    low, high = one["interval"]
    return f"{one['images']:,}", f"{one['hits']:,}", _share(one), f"{100 * low:.1f} to {100 * high:.1f} %"


def _share(one: Mapping[str, Any]) -> str:
    return f"{100 * one['accuracy']:.1f} %"


def _interval(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
