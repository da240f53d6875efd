"""How long builds took on this device, so that the next one can say how long it will take.

The file stands beside the timing cache, as JSON lines; nothing here is ever fatal either.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from statistics import median
from typing import Any

KEPT = 100
"""Builds that are remembered: the last ones."""

NEAREST = 3
"""Builds that an estimate rests on: those of networks nearest in size, and of equally near ones the last."""

_FIELDS: dict[str, type] = {"layers": int, "precision": str, "seconds": float}
_LONGEST = 2**16  # bytes of the file


def expected(path: Path, layers: int, precision: str) -> float | None:
    """About how many seconds a network of so many layers will take; None if nothing was built here before.

    The time per layer is that of the networks nearest in size, of the same precision if there are any.
    """
    found = _records(path)
    found = [record for record in found if record["precision"] == precision] or found
    if not found or layers < 1:
        return None
    found.reverse()  # the last first: the sort keeps that order
    found.sort(key=lambda record: abs(math.log(record["layers"] / layers)))
    nearest = [each for each in found if each["layers"] == layers][:1] or found[:NEAREST]
    return layers * float(median(record["seconds"] / record["layers"] for record in nearest))


def remember(path: Path, layers: int, precision: str, seconds: float) -> None:
    """Note how long a build took."""
    records = [*_records(path), {"layers": layers, "precision": precision, "seconds": round(seconds, 3)}]
    text = "".join(f"{json.dumps(record)}\n" for record in records[-KEPT:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        return  # an estimate less


def _records(path: Path) -> list[dict[str, Any]]:
    """What is known, oldest first; lines that make no sense are passed over."""
    try:
        with open(path, "rb") as file:
            lines = file.read(_LONGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            data = json.loads(line)
            record: dict[str, Any] = {key: kind(data[key]) for key, kind in _FIELDS.items()}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if record["layers"] > 0 and 0 <= record["seconds"] < math.inf:
            found.append(record)
    return found
