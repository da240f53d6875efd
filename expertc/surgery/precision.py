"""Conversions to a lower precision, by the recipe that a manifest keeps: the same recipe makes the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import BundleError
from ..text import shown
from .half import Half
from .passes import Pass
from .quantise import FLAVOURS, Quantise


@dataclass(frozen=True)
class _Interval:
    """What is left of a range once its percentile is chosen."""

    low: float
    high: float
    percentile: Mapping[float, tuple[float, float]] = field(default_factory=dict)


def quantise_recipe(done: Quantise) -> dict[str, Any]:
    """All that is needed to quantise again, as JSON types."""
    p = done.percentile
    seen = {name: (one.low, one.high) if p is None else one.percentile[p] for name, one in done.ranges.items()}
    return {
        "precision": "int8",
        "flavour": next(backend for backend, one in FLAVOURS.items() if one.name == done.flavour.name),
        "reduce_range": done.flavour.reduce_range,
        "exclude": sorted(done.exclude),
        "ranges": {name: list(pair) for name, pair in sorted(seen.items())},
    }


def _quantise(recipe: Mapping[str, Any]) -> Quantise:
    """Read what ``quantise_recipe`` returned. Raises ``BundleError`` for anything else."""
    flavour, exclude, ranges = FLAVOURS.get(str(recipe.get("flavour"))), recipe.get("exclude"), recipe.get("ranges")
    sound = isinstance(exclude, list) and all(isinstance(name, str) for name in exclude)
    sound = sound and isinstance(ranges, Mapping) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(end) in (int, float) for end in pair)
        for pair in ranges.values()
    )  # fmt: skip
    if flavour is None or not sound or not isinstance(recipe.get("reduce_range"), bool):
        raise BundleError("The recipe of the int8 expert is malformed.", "Build the bundle again.")
    return Quantise(
        {name: _Interval(float(low), float(high)) for name, (low, high) in recipe["ranges"].items()},
        replace(flavour, reduce_range=recipe["reduce_range"]),
        frozenset(recipe["exclude"]),
    )


CONVERSIONS: Mapping[str, Callable[[Mapping[str, Any]], Pass]] = {"fp16": Half.from_recipe, "int8": _quantise}


def conversion(recipe: Mapping[str, Any]) -> Pass:
    """The pass that ``recipe`` describes; its "precision" says which. Raises ``BundleError`` if it makes no sense."""
    kind = str(recipe.get("precision"))
    if kind not in CONVERSIONS:
        raise BundleError(f"The precision {shown(kind)} is not known.", "Build the bundle again.")
    return CONVERSIONS[kind](recipe)
