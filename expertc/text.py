"""Text from strangers: read within bounds, cleaned, and parsed as JSON without surprises.

Nothing here knows what the text means; every function is told which error its caller wants raised.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any, NoReturn

from .errors import ExpertcError

MAX_BYTES = 16 * 2**20
MAX_SYSTEM = (
    2**16
)  # bytes of a file of /proc or /sys; the longest that is read here, /proc/stat of 256 cores, has 40 kB
MAX_SHOWN = 80  # characters of a stranger's text that an error repeats


def clean_text(text: str) -> str:
    """Return ``text`` without control, format and surrogate characters, white space folded to single spaces.

    Names and labels are text from strangers; a terminal escape or a bidirectional override in one must not reach a
    table, a path or a page.
    """
    if text.isprintable():  # the usual case, ten times as fast
        return " ".join(text.split())
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join(kept.split())


def shown(text: object) -> str:
    """``text`` as an error message may repeat it: clean, in quotes, and cut off after 80 characters."""
    clean = clean_text(str(text)[: 4 * MAX_SHOWN])
    return f"'{clean}'" if len(clean) <= MAX_SHOWN else f"'{clean[:MAX_SHOWN]}…'"


def shortened(text: str, most: int) -> str:
    """``text``, cut in the middle if it has more than ``most`` >= 3 characters: names often differ at their end."""
    tail = (most - 1) // 3
    return text if len(text) <= most else f"{text[: most - tail - 1].rstrip()}…{text[len(text) - tail :].lstrip()}"


def read_text(path: str | Path, what: str, error: type[ExpertcError], limit: int = MAX_BYTES) -> str:
    """Return the UTF-8 text of a file, without a byte order mark and with its line ends as they are.

    Raises ``error``, calling the file ``what``, if it cannot be read, is longer than ``limit`` bytes or is not text.
    """
    file_name = f"'{clean_text(str(path))}'"
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)  # not stat: a device or a pipe has no size
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{what} {file_name} cannot be read ({reason}).", "Check the path.") from cause
    if len(data) > limit:
        raise error(f"{what} {file_name} is larger than {limit / 2**20:g} MiB.", "It should be a short text file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{what} {file_name} is not UTF-8 text.", "Save it as UTF-8.") from cause
    if "\0" in text:
        raise error(f"{what} {file_name} holds NUL bytes, so it is not UTF-8 text.", "Save it as UTF-8.")
    return text


def system_text(path: Path) -> str | None:
    """Return what stands in a small file of the system; None where there is none, or the driver cannot answer now."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_SYSTEM).decode("utf-8", "replace").strip()
    except OSError:
        return None


def parse_json(text: str, what: str, error: type[ExpertcError]) -> dict[str, Any]:
    """Return the object in a JSON text. Raises ``error`` if it is anything else, names a key twice or holds NaN."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{shown(key)} stands twice")
            found[key] = value
        return found

    if len(text) > MAX_BYTES:
        raise error(f"{what} is larger than {MAX_BYTES / 2**20:g} MiB.", "Take the file that expertc wrote.")
    try:
        data = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except RecursionError as cause:
        raise error(f"{what} is nested too deeply.", "Take the file that expertc wrote.") from cause
    except ValueError as cause:
        raise error(
            f"{what} is not valid JSON ({cause}).", "Take the file that expertc wrote, or correct it."
        ) from cause
    if not isinstance(data, dict):
        raise error(f"{what} is not a JSON object.", "It should begin with '{'.")
    return data


def times(number: int) -> str:
    """How often: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
