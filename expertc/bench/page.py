"""The report as one HTML page: numbers, drawings, machine. It holds all it needs and runs no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ..pages.axis import duration
from ..pages.markup import element
from ..pages.parts import figure, named, numbers, page, table
from . import charts
from .exits import exit_lines
from .sections import sections
from .tables import headlines

COLUMNS = ("model", "batch", "calls", "median", "p90", "p99", "images/s", "× first", "95 %")


def to_html(report: Mapping[str, Any]) -> str:
    """The page for a report as ``BenchReport.to_mapping`` makes it."""
    title = f"Benchmark: {report['scenario']}{'' if report['complete'] else ', interrupted'}"
    models = report["models"]
    body = [element("h1", title)]
    body += [element("p", text, class_="lead") for text in (*headlines(report), *_findings(models))]
    verdict = report.get("verdict") or {"name": None, "reasons": []}
    if verdict["name"] is not None:
        body.append(element("p", f"Verdict: {verdict['name']}", class_="lead"))
    doubts = dict.fromkeys((*verdict["reasons"], *report["warnings"]))  # without those that are both
    body += [element("p", text, class_="warning") for text in doubts]
    body.append(_numbers(models))
    body.append(element("div", _figures(models), class_="figures"))
    body += sections(report)
    body += [element("h2", "Machine"), table(named(report["environment"]))]
    if report.get("evidence"):
        body += [element("h2", "Evidence"), table(named(report["evidence"]))]
    body += [element("h2", "How it was measured"), table(named(_method(report)))]
    return page(title, body)


def _findings(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = models[0]["name"]
    for model in models[1:]:
        ratio = model["ratio"]
        sure = "too few calls for an interval"
        if ratio["low"] is not None:
            sure = f"95 % interval {ratio['low']:.3f} to {ratio['high']:.3f}"
        yield f"{model['name']} takes {ratio['value']:.3f} × the time of {first} per image ({sure})."


def _numbers(models: Sequence[Mapping[str, Any]]) -> Element:
    judged = any(model.get("accuracy") for model in models)
    columns = (*COLUMNS, *(("accuracy", "95 %") if judged else ()))
    rows = []
    for place, model in enumerate(models):
        times, ratio = model["summary"], model["ratio"]
        cells = [
            str(model["shape"][0]),
            str(times["n"]),
            *("–" if times[key] is None else duration(times[key]) for key in ("median", "p90", "p99")),
            f"{model['images_per_second']:.1f}",
            f"{ratio['value']:.3f}",
            "–" if ratio["low"] is None else f"{ratio['low']:.3f} to {ratio['high']:.3f}",
        ]
        if judged:
            found = model.get("accuracy")
            cells += [
                f"{100 * found['top1']:.1f} %" if found else "–",
                f"{100 * found['low']:.1f} to {100 * found['high']:.1f} %" if found else "–",
            ]
        rows.append((f"{place + 1}. {model['name']}", *cells))
    return numbers(columns, rows)


def _figures(models: Sequence[Mapping[str, Any]]) -> Iterator[Element]:
    if any(model["summary"]["median"] is not None for model in models):
        yield figure(
            charts.bars(models),
            "Median time per image. The line at the end of a bar is the 95 % interval of the median.",
        )
    yield figure(
        charts.distribution(models),
        "Share of calls that took no longer than this; the dots are the slowest calls.",
        charts.legend(models),
    )
    yield figure(charts.course(models), "Time per call in the course of the run, as medians of its stretches.")
    judged = [model for model in models if charts.plotted(model)]
    if judged:
        classes, images = judged[0]["accuracy"]["classes"], judged[0]["accuracy"]["images"]
        yield figure(
            charts.pareto(models),
            f"Top-1 accuracy on {images} photos of {classes} classes against latency, with 95 % intervals. "
            "The line joins the models that none beats in both; rings are beaten.",
        )


def _method(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader who doubts asks for."""
    told = {
        "timed": report["timed"],
        "order": f"all models in one run of {report['seconds']:g} s, in random turns, each equally often first",
        "percentiles": report["percentiles"],
        "warm-up": report["warmup"],
        "seed of noise and order": report["seed"],
        **({"exits": exits} if (exits := [*exit_lines(report)]) else {}),
        **({"harness": report["harness"]} if "harness" in report else {}),
        "format": report["format"],
    }
    for place, model in enumerate(report["models"]):
        told[f"{place + 1}. {model['name']}"] = {
            "file": model["path"], "sha256": model["sha256"], "input": model["shape"],
        }  # fmt: skip
    return told
