"""The drawings of a report's page, as SVG: medians as bars, distribution, course, batches, accuracy against latency.

Models are mappings as ``Entry.to_mapping`` makes them. Series are told apart by colour (after Okabe and Ito's palette,
for eyes that see fewer of them), by dashes, and by the number that the legend gives them; the colours are the page's.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

from ..pages.axis import Axis, around, duration, unit
from ..pages.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, across, drawing, fill, per_cent, series, up
from ..pages.drawing import legend as listed
from ..pages.markup import element
from ..text import clean_text, shortened

Model = Mapping[str, Any]

CURVE = 300  # points of a distribution's curve
SLOWEST = 20  # of which this many are its slowest calls, each a point of its own
STRETCHES = 120  # of a run, each with a median of its own
NAME = 28  # characters that fit above a bar beside its value


def distribution(models: Sequence[Model]) -> Element:
    """For every duration per call, the share of calls that took no longer; to the slowest, none is dropped."""
    ranked = [sorted(ns / 1e9 for ns in model["durations_ns"]) for model in models]
    least, most = min(one[0] for one in ranked), max(one[-1] for one in ranked)
    x = Axis(max(least, 1e-9) / 1.05, max(most, 1e-9) * 1.05, LEFT, WIDTH - RIGHT, logarithmic=True)
    y = Axis(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [
        *across(x, "time per call", unit(ranked[0][len(ranked[0]) // 2])),
        *up(y, (0, 0.25, 0.5, 0.75, 0.9, 1), per_cent),
    ]
    for place, durations in enumerate(ranked):
        count = len(durations)
        picks = sorted({*(round(i * (count - 1) / (CURVE - 1)) for i in range(CURVE)), *range(count)[-SLOWEST:]})
        path = f"M{x(max(durations[0], 1e-9)):.1f} {y(0):.1f}"
        for rank in picks:
            path += f"H{x(max(durations[rank], 1e-9)):.1f}V{y((rank + 1) / count):.1f}"
        parts.append(element("path", d=path, class_=f"line {series(place)}"))
        parts.append(element("circle", cx=x(max(durations[-1], 1e-9)), cy=y(1), r=3.5, class_=f"fill {series(place)}"))
    return drawing("Distribution of the time per call", HEIGHT, parts)


def course(models: Sequence[Model]) -> Element:
    """The time per call from the start of the run to its end: what drifts, throttles or is disturbed shows here."""
    lines = [list(_stretches(model["durations_ns"])) for model in models]
    values = [value for line in lines for value in line]
    y = Axis(min(values) / 1.1, max(values) * 1.1, HEIGHT - BOTTOM, TOP, logarithmic=True)
    x = Axis(0, 1, LEFT, WIDTH - RIGHT)
    parts = [*across(x, "share of the run", ("%", 0.01)), *up(y, y.ticks, _in_its_unit)]
    for place, line in enumerate(lines):
        points = [f"{x((i + 0.5) / len(line)):.1f} {y(value):.1f}" for i, value in enumerate(line)]
        if len(points) == 1:
            points *= 2
        parts.append(element("path", d=f"M{'L'.join(points)}", class_=f"line {series(place)}"))
    return drawing("Course of the run", HEIGHT, parts)


def bars(models: Sequence[Model]) -> Element:
    """The median time per image of each model, with the 95 % interval of that median, and against the first's.

    At least one model has a median.
    """
    step, height = 46, TOP + 46 * len(models) + BOTTOM
    ends = [_interval(model)[1] for model in models if model["summary"]["median"] is not None]
    longest = max(*ends, 1e-9)
    x = Axis(0, 1.05 * longest, RIGHT, WIDTH - RIGHT)
    parts = list(across(x, "median time per image", unit(longest), height))
    for place, model in enumerate(models):
        top, name = TOP + place * step, shortened(clean_text(model["name"]), NAME)
        parts.append(element("text", name, x=x.start, y=top + 12, class_="name"))
        median = model["summary"]["median"]
        value = "too few calls" if median is None else duration(median / model["shape"][0])
        times = f" · {model['ratio']['value']:.2f} × first" if place else ""
        parts.append(element("text", value + times, x=x.end, y=top + 12, class_="end"))
        if median is None:
            continue
        end, (low, high) = x(median / model["shape"][0]), _interval(model)
        parts.append(element("rect", x=x.start, y=top + 18, width=end - x.start, height=16, class_=fill(place)))
        whisker = f"M{x(low):.1f} {top + 22}v8m0 -4H{x(high):.1f}m0 -4v8"
        parts.append(element("path", d=whisker, class_="whisker"))
    return drawing("Median time per image", height, parts)


def pareto(models: Sequence[Model]) -> Element:
    """Accuracy against the median time per image; the line joins those that no other beats in both."""
    judged = [(place, model) for place, model in enumerate(models) if plotted(model)]
    spans = [_interval(model) for _, model in judged]
    shares = [share for _, model in judged for share in (model["accuracy"]["low"], model["accuracy"]["high"])]
    x = Axis(*around([bound for span in spans for bound in span], 0.12), LEFT, WIDTH - RIGHT)
    y = Axis(*around(shares), HEIGHT - BOTTOM, TOP)
    parts = [*across(x, "median time per image", unit(spans[0][0])), *up(y, y.ticks, per_cent)]
    at = {place: (_per_image(model), model["accuracy"]["top1"]) for place, model in judged}
    front = frontier(at)
    steps = "".join(f"H{x(at[place][0]):.1f}V{y(at[place][1]):.1f}" for place in front)
    start = f"M{x(at[front[0]][0]):.1f} {y.start:.1f}"
    parts.append(element("path", d=f"{start}{steps}H{x.end:.1f}", class_="front"))
    for (place, model), (low, high) in zip(judged, spans, strict=True):
        cx, cy = x(at[place][0]), y(at[place][1])
        least, most = y(model["accuracy"]["low"]), y(model["accuracy"]["high"])
        cross = f"M{x(low):.1f} {cy:.1f}H{x(high):.1f}M{cx:.1f} {least:.1f}V{most:.1f}"
        parts.append(element("path", d=cross, class_=f"line solid {series(place)}"))
        ring = fill(place) if place in front else f"beaten {series(place)}"
        parts.append(element("circle", cx=cx, cy=cy, r=9, class_=ring))
        parts.append(element("text", str(place + 1), x=cx, y=cy + 4.5, class_="inside" if place in front else "mid"))
    return drawing("Accuracy against latency", HEIGHT, parts)


def plotted(model: Model) -> bool:
    """Whether a model has both numbers."""
    return model.get("accuracy") is not None and model["summary"]["median"] is not None


def frontier(at: Mapping[int, tuple[float, float]]) -> list[int]:
    """Which of the (time, accuracy) no other beats: none is as accurate in less time, or better in the same."""
    best, front = -1.0, []
    for place in sorted(at, key=lambda place: (at[place][0], -at[place][1])):
        if at[place][1] > best:
            best = at[place][1]
            front.append(place)
    return front


def saturation(sweeps: Mapping[int, Mapping[str, Any]]) -> Element:
    """Images per second by batch, of sweeps by the place of their model; at least one, and one step in it."""
    lines = {place: [(step["batch"], step["images_per_second"]) for step in sweep["steps"]]
             for place, sweep in sweeps.items()}  # fmt: skip
    points = [point for line in lines.values() for point in line]
    x = Axis(1 / 1.15, 1.15 * max(batch for batch, _ in points), LEFT, WIDTH - RIGHT, logarithmic=True)
    y = Axis(0, 1.1 * max(rate for _, rate in points), HEIGHT - BOTTOM, TOP)
    parts = [
        *across(x, "batch", ("images per call", 1), ticks=sorted({batch for batch, _ in points})),
        *up(y, y.ticks, "{:g}".format),
    ]
    for place, line in lines.items():
        path = "L".join(f"{x(batch):.1f} {y(rate):.1f}" for batch, rate in line)
        parts.append(element("path", d=f"M{path}", class_=f"line {series(place)}"))
        for batch, rate in line:
            chosen = batch == sweeps[place]["chosen"]
            kind = f"beaten {series(place)}" if chosen else fill(place)
            parts.append(element("circle", cx=x(batch), cy=y(rate), r=7 if chosen else 3.5, class_=kind))
    return drawing("Images per second by batch", HEIGHT, parts)


def legend(models: Sequence[Model]) -> Element:
    """Number, colour and dashes of each model, as a list that wraps on a small screen."""
    said = {}
    for place, model in enumerate(models):
        times = [ns / 1e9 for ns in model["durations_ns"]]
        said[place] = f"{place + 1}. {model['name']}: {duration(min(times))} to {duration(max(times))} per call"
    return listed(said)


def _stretches(durations: Sequence[int]) -> Iterator[float]:
    """Medians in seconds of the run's stretches, of equally many calls each but for one."""
    count = min(STRETCHES, len(durations))
    edges = [i * len(durations) // count for i in range(count + 1)]
    for start, end in pairwise(edges):
        yield max(statistics.median(durations[start:end]), 1) / 1e9


def _per_image(model: Model) -> float:
    return float(model["summary"]["median"] / model["shape"][0])


def _interval(model: Model) -> tuple[float, float]:
    """Of the median time per image; the median itself where there are too few blocks for an interval."""
    low, high = model["interval"] or (model["summary"]["median"],) * 2
    return low / model["shape"][0], high / model["shape"][0]


def _in_its_unit(seconds: float) -> str:
    name, length = unit(seconds * (1 + 1e-9))  # a tick is a sum of steps, and may be a little less than it should be
    return f"{seconds / length:.4g} {name}"
