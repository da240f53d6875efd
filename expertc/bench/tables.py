"""The tables that only some runs have: frames of a camera, batches, branches, cold starts, phases of a prediction.

They are made once, of a report's JSON, for the terminal, the Markdown and the page alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..pages.axis import duration

FEW = "–"  # a percentile without enough samples behind it


@dataclass(frozen=True)
class Table:
    """Rows of text below ``columns``, the first ``left`` of them names; ``note`` says how to read them."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    left: int = 1


def additional(report: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a report as ``BenchReport.to_mapping`` makes it; none of a plain run."""
    if report.get("streams"):
        yield _streams(report["streams"])
    if report.get("sweeps"):
        yield _sweeps(report["sweeps"])
    if report.get("branches"):
        yield _branches(report["branches"])
    if report.get("cold"):
        yield _cold(report["cold"])
    if report.get("phases"):
        yield _phases(report["phases"])


def headlines(report: Mapping[str, Any]) -> Iterator[str]:
    """Of each model the number that its scenario is about, as in MLPerf, and the slowest call: none is left out."""
    for model in report["models"]:
        slowest = f"slowest of {model['summary']['n']:,} calls {duration(max(model['durations_ns']) / 1e9)}"
        stream = (report.get("streams") or {}).get(model["name"])
        if stream is not None:
            missed, age = _share(stream["missed"]), _time(stream["age"]["p90"])
            said = f"{missed} of {stream['frames']:,} frames missed, age p90 {age}"
        elif report["scenario"] == "offline":
            said = f"{model['images_per_second']:.1f} images/s"
        else:
            said = f"p90 {_time(model['summary']['p90'])}"
        yield f"{model['name']}: {said}; {slowest}"


def to_markdown(table: Table, clean: Callable[[str], str]) -> str:
    """The table with its title and note; ``clean`` makes a stranger's text harmless."""
    rule = ["---"] * table.left + ["--:"] * (len(table.columns) - table.left)
    rows = [f"| {' | '.join(row)} |" for row in (table.columns, rule, *(map(clean, row) for row in table.rows))]
    return "\n\n".join((f"## {table.title}", "\n".join(rows), clean(table.note)))


def _streams(streams: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, stream in streams.items():
        counts = (f"{stream['frames']:,}", _share(stream["missed"]), f"{stream['dropped']:,}", f"{stream['late']:,}")
        ages = (_time(stream["age"][key]) for key in ("median", "p90", "p99"))
        rows.append((name, *counts, *ages, _time(stream["work"]["p90"])))
    rate = next(iter(streams.values()))["rate"]
    return Table(
        "camera",
        "Camera",
        ("model", "frames", "missed", "dropped", "late", "age p50", "age p90", "age p99", "work p90"),
        tuple(rows),
        f"{rate:g} frames per second. dropped: not begun when the next frame came; late: ready after the next frame;"
        " missed: both; age: from taking a frame to its result; work: the call.",
    )


def _sweeps(sweeps: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = tuple(
        (name, f"{step['batch']}{' *' if step['batch'] == sweep['chosen'] else ''}",
         f"{step['images_per_second']:.1f}", FEW if step["growth"] is None else f"{100 * step['growth']:+.1f} %")
        for name, sweep in sweeps.items() for step in sweep["steps"]
    )  # fmt: skip
    why = "; ".join(f"{name}: {sweep['stopped']}" for name, sweep in sweeps.items())
    return Table(
        "batch",
        "Choice of the batch",
        ("model", "batch", "images/s", "over the best before"),
        rows,
        f"*: chosen; each batch in turns with the best before. The end: {why}. --batch-size fixes it, as comparing two"
        " reports needs it.",
    )


def _branches(branches: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for branch in sorted(branches.values(), key=lambda each: -float(each["predicted"])):
        sure = "too few calls" if branch["low"] is None else f"{_share(branch['low'])} to {_share(branch['high'])}"
        shares = _share(branch["predicted"]), _share(branch["measured"])
        rows.append((branch["name"], f"{branch['classes']:,}", *shares, sure))
    return Table(
        "branches",
        "What leaving out a branch saves",
        ("left out", "classes", "of the MACs", "time saved", "95 %"),
        tuple(rows),
        "of the MACs: the branch's share of the full model's, which is what it should save; time saved: of the full"
        " model's median, by the cut to all other classes.",
    )


def _cold(cold: Mapping[str, Mapping[str, float]]) -> Table:
    parts = ("imports", "load", "first", "second", "until_first_answer")
    rows = [
        (name, *(duration(start[part]) for part in parts), f"{start['peak_bytes'] / 1e6:.1f} MB")
        for name, start in cold.items()
    ]
    return Table(
        "cold",
        "Cold start",
        ("model", "imports", "load", "1st call", "2nd call", "to answer", "memory"),
        tuple(rows),
        "each model in a process of its own, once; to answer: imports of the runtime, load and first call; memory: the"
        " process's largest.",
    )


def _phases(found: Mapping[str, Any]) -> Table:
    rows = []
    for name, model in found["models"].items():
        for phase, times in model["phases"].items():
            rows.append((name, phase, _time(times["median"]), _time(times["p90"]), _share(times["share"])))
        rows += [(name, key, _time(t["median"]), _time(t["p90"]), FEW) for key, t in model["device"].items()]
    return Table(
        "phases",
        "Phases of a prediction",
        ("model", "phase", "median", "p90", "share"),
        tuple(rows),
        f"Photos: {found['photos']}. {found['definitions']}.",
        left=2,
    )


def _time(seconds: float | None) -> str:
    return FEW if seconds is None else duration(seconds)


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"
