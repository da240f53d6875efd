"""How numbers and names are printed: tables that fit 80 columns, markup from strangers escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The console for results on stdout; plain text without a terminal."""
    from rich.console import Console

    made = Console(highlight=False)
    if not made.is_terminal:
        made = Console(highlight=False, width=max(80, made.width), no_color=True, force_terminal=False)
    return made


def text(value: str) -> str:
    """A stranger's text for a table: control characters out, markup shown and not obeyed."""
    from rich.markup import escape

    from ..text import clean_text

    return escape(clean_text(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table; the first column is left-aligned, the others right. Cells are escaped."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for position, name in enumerate(columns):
        made.add_column(text(name), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(_indented(cell) for cell in row))
    console().print(made)


def _indented(cell: str) -> str:
    """A cell with its line breaks and the indentation of its lines, which ``text`` would fold."""
    lines = cell.split("\n")
    return "\n".join(" " * (len(part) - len(part.lstrip(" "))) + text(part) for part in lines)


def line(message: str = "") -> None:
    """Print one line on stdout."""
    from ..text import clean_text

    click.echo(clean_text(message))


def json_out(value: Any) -> None:
    """Print ``value`` as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def count(number: int) -> str:
    """A whole number with thousands separated."""
    return f"{number:,}"


def size(number: int) -> str:
    """Bytes in a readable unit (1 MB = 1,000,000 bytes)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def share(part: float, whole: float) -> str:
    """By how much ``part`` is less than ``whole``, in per cent."""
    return "" if not whole else f"{100 * (part / whole - 1):+.1f} %"


def percent(value: float | None) -> str:
    """A share as per cent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f} %"
