"""Running a model on all inputs, in every setting of its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..backends import portions
from ..card import Card
from ..graph import Model
from ..text import shown
from .certificate import Mismatch
from .scores import relative_distance
from .settings import Values

BATCH = 8
"""Inputs per run of a model that takes any number."""

Array = np.ndarray[Any, Any]


def batch_of(model: Model, card: Card) -> int:
    """Inputs per run of ``model``."""
    shape = model.inputs.get(card.input, ())
    return shape[0] if shape and isinstance(shape[0], int) else BATCH


def run(
    call: Callable[[Array, Values], Mapping[str, Array]], size: int, x: Array, settings: Sequence[Values]
) -> dict[str, Array]:
    """Every output for all inputs, and that for every setting of the controls, one after the other.

    ``call`` runs the model on ``size`` inputs; the last time, those that are missing are its own again.
    """
    parts: dict[str, list[Array]] = {}
    for controls in settings:
        for part, count in portions(x, size):
            for name, values in call(part, controls).items():
                per_input = values.ndim > 0 and len(values) == size
                if per_input or name not in parts:
                    parts.setdefault(name, []).append(values[:count] if per_input else values)
    return {name: np.concatenate(values) if len(values) > 1 else values[0] for name, values in parts.items()}


def distance(step: str, output: str, found: Array, expected: Array) -> float:
    """How far apart an output is, relative to its largest value. Raises ``Mismatch`` where the shapes differ."""
    if found.shape != expected.shape:
        raise Mismatch(step, f"The expert's output {shown(output)} is {found.shape} instead of {expected.shape}.")
    return relative_distance(found, expected)


def rounding(values: Array) -> float:
    """What rounding to the type of ``values`` may change, relative to the largest; only counts below float32."""
    return float(np.finfo(values.dtype).eps) if values.dtype == np.float16 else 0.0


def short(value: float) -> float:
    """Three digits of a number, for a certificate."""
    return float(f"{value:.3g}")
