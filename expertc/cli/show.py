"""How numbers and names are printed: tables that fit 80 columns, text from strangers cleaned and markup escaped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80  # where there is no terminal to ask


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, tight: bool = False) -> None:
    """Print a table whose first ``left`` columns are text; the others are numbers, to the right. ``tight``: many."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0 if tight else 1, 0, 0))
    for position, name in enumerate(columns):
        made.add_column(_text(name), justify="left" if position < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*map(_text, row))
    _print(made)


def facts(named: Mapping[str, str]) -> None:
    """Print names and what they stand for, one below the other; line breaks in a value are kept."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in named.items():
        made.add_row(_text(name), "\n".join(map(_text, value.split("\n"))))
    _print(made)


def line(message: str = "", *, error: bool = False) -> None:
    """Print one line, cleaned, on stdout or stderr.

    Not through click, which writes past the stream that a bar of rich puts in the way to keep below the results.
    """
    from ..text import clean_text

    print(clean_text(message), file=sys.stderr if error else sys.stdout, flush=True)


def json_out(value: Any) -> None:
    """Print ``value`` as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def console(stderr: bool = False) -> Console:
    """A console of rich: without a terminal it writes plain text, ``WIDTH`` columns wide."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if made.is_terminal and not made.no_color:
        return made
    width = made.width if made.is_terminal else WIDTH
    return Console(stderr=stderr, highlight=False, width=width, color_system=None)


def _print(made: Table) -> None:
    """Through click: rich would fill lines up with spaces, and end the process itself where the reader has gone."""
    shown = console()
    with shown.capture() as captured:
        shown.print(made)
    lines = [text.rstrip() for text in captured.get().splitlines()]
    click.echo("\n".join(lines).strip("\n"), color=shown.color_system is not None)


def _text(value: str) -> str:
    """A stranger's text for a cell: clean but for its indentation, markup shown and not obeyed."""
    from rich.markup import escape

    from ..text import clean_text

    return " " * (len(value) - len(value.lstrip(" "))) + escape(clean_text(value))


# -- numbers -----------------------------------------------------------------------------------------------------------


def count(number: int) -> str:
    """A whole number with thousands separated."""
    return f"{number:,}"


def size(number: int) -> str:
    """Bytes in a readable unit (1 MB = 1,000,000 bytes)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def change(part: float, whole: float) -> str:
    """By how much ``part`` is more or less than ``whole``, in per cent."""
    return "" if not whole else f"{100 * (part / whole - 1):+.1f} %"


def percent(value: float | None) -> str:
    """A share as per cent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """A short time in milliseconds with three digits."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
