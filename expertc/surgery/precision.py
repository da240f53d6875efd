"""Conversions to a lower precision, by the recipe that a manifest keeps: the same recipe makes the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BundleError
from ..text import shown
from .half import Half
from .passes import Pass

CONVERSIONS: Mapping[str, Callable[[Mapping[str, Any]], Pass]] = {"fp16": Half.from_recipe}


def conversion(recipe: Mapping[str, Any]) -> Pass:
    """The pass that ``recipe`` describes; its "precision" says which. Raises ``BundleError`` if it makes no sense."""
    kind = str(recipe.get("precision"))
    if kind not in CONVERSIONS:
        raise BundleError(f"The precision {shown(kind)} is not known.", "Build the bundle again.")
    return CONVERSIONS[kind](recipe)
