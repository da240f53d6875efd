"""Named class sets in a TOML file, for building several experts from one model.

::

    [sets]
    beach = "sharks, rays"
    reef = ["corals", "fishes", "-eels"]

The values are what ``--classes`` takes, as one text or a list of items; the names become those of the bundles.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UsageError
from .text import read_text, shown

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_FORMAT = 'Write [sets] and lines like: beach = "sharks, rays".'


def read_sets(path: str | Path) -> dict[str, str]:
    """The sets of a file, in its order: name to the text of ``--classes``. Raises ``UsageError`` for what is wrong."""
    text = read_text(path, "The class sets", UsageError)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The class sets {shown(path)} are not TOML ({error}).", _FORMAT) from error
    sets = data.get("sets")
    if not isinstance(sets, Mapping) or not sets or data.keys() != {"sets"}:
        raise UsageError(f"The class sets {shown(path)} are not one table [sets].", _FORMAT)
    return {name: _text(name, value, path) for name, value in sets.items()}


def _text(name: str, value: Any, path: str | Path) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{shown(name)} in {shown(path)} is no name for a bundle.", "Use letters, digits, '-' and '_'."
        )
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise UsageError(f"The set {shown(name)} in {shown(path)} is neither text nor a list of text.", _FORMAT)
    return ",".join(items)
