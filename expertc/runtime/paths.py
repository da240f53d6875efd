"""The path to a prediction: what the routers of a tree of classifiers say about the categories that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bundle import ROUTES, Bundle
from ..errors import BundleError

Step = tuple[str, float]
"""The name of a category (or of a class that stands beside categories) and how likely its router finds it."""

Path = tuple[Step, ...]
"""From the top of the tree down."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Paths:
    """The output ``name``, ``[N, columns]``: what its columns are called, and which lead to each class (``steps``)."""

    name: str
    columns: tuple[str, ...]
    steps: tuple[tuple[int, ...], ...]

    def to(self, index: int, row: Array) -> Path:
        """The path to class ``index`` for an image whose ``row`` of the output this is."""
        return tuple((self.columns[at], float(row[at])) for at in self.steps[index])


def read_paths(bundle: Bundle) -> Paths | None:
    """What the manifest says of the routes; None for an expert without. Raises ``BundleError`` if it is malformed."""
    found = bundle.manifest.get(ROUTES)
    if found is None:
        return None
    made = _read(found, len(bundle.labels))
    if made is None:
        raise BundleError(f"The manifest of '{bundle.path}' does not describe its routes.", "Build it again.")
    return made


def _read(data: Any, classes: int) -> Paths | None:
    if not isinstance(data, dict) or data.keys() != {"name", "columns", "steps"}:
        return None
    name, columns, steps = data["name"], data["columns"], data["steps"]
    lists = isinstance(columns, list) and isinstance(steps, list) and all(isinstance(own, list) for own in steps)
    if not isinstance(name, str) or not lists or not all(isinstance(column, str) for column in columns):
        return None
    numbered = all(type(at) is int and 0 <= at < len(columns) for own in steps for at in own)
    if not numbered or len(steps) != classes:
        return None
    return Paths(name, tuple(columns), tuple(tuple(own) for own in steps))
