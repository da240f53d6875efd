"""From what was observed of each tensor to the range that its integers cover."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from ...errors import DataError
from ...graph import Constant, Model, Node
from ...text import shown

Interval = tuple[float, float]


class Range(Protocol):
    """The least and the greatest value of a tensor on calibration images, and what percentiles of it lie between."""

    @property
    def low(self) -> float:
        """The least value."""

    @property
    def high(self) -> float:
        """The greatest value."""

    @property
    def percentile(self) -> Mapping[float, Interval]:
        """By p: the (100 - p)-th and the p-th percentile."""


Ranges = Mapping[str, Range]
"""By the name of the tensor."""


def intervals(ranges: Ranges, names: Iterable[str], percentile: float | None) -> dict[str, Interval]:
    """The range of each of ``names``: from least to greatest, or clipped at a percentile.

    Raises ``DataError`` if one was not observed, or holds NaN or infinity.
    """
    found: dict[str, Interval] = {}
    for name in names:
        if name not in ranges:
            raise DataError(
                f"The tensor {shown(name)} was not observed on the calibration images.",
                "Observe the very model that is quantised.",
            )
        seen = ranges[name]
        if percentile is not None and percentile not in seen.percentile:
            raise DataError(f"The percentile {percentile:g} was not observed.", "Observe it, or take another.")
        low, high = (seen.low, seen.high) if percentile is None else seen.percentile[percentile]
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                f"The tensor {shown(name)} holds NaN or infinity on the calibration images.",
                "Look at the images, and at the fp32 expert's scores for them.",
            )
        found[name] = (low, high)
    return found


def join(found: dict[str, Interval], model: Model, nodes: Iterable[Node]) -> None:
    """Give what a Concat of ``nodes`` reads and makes one range, in place: with one scale its kernel moves bytes.

    A tensor that two of them read joins both. Not where the range clips instead of a Relu or Clip that vanished and
    would no longer do so: with scales of their own a table converts the bytes.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            name = above
        return name

    for node in nodes:
        if node.op == "Concat":
            first, *rest = [t.name for t in (*node.outputs, *node.inputs) if not isinstance(t, Constant)]
            for name in rest:
                parent[root(name)] = root(first)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(root(name), []).append(name)
    for names in groups.values():
        lows, highs = zip(*(found[name] for name in names), strict=True)
        wide = (min(lows), max(highs))
        if all(_clips_alike(model, name, found[name], wide) for name in names):
            found.update(dict.fromkeys(names, wide))


def _clips_alike(model: Model, name: str, own: Interval, wide: Interval) -> bool:
    at = model.producers.get(name)
    op = "" if at is None else model.nodes[at].op
    return (op != "Relu" or wide[0] >= 0) and (op != "Clip" or wide == own)
