"""What a format makes of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap

from .place import Files

WIDTH = 76  # of a line, before it is indented


@dataclass(frozen=True)
class Made:
    """The files of a package, by path; those that others will make out of them; what a person should be told."""

    files: Files
    derived: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def wrapped(text: str) -> list[str]:
    """A paragraph of a README in lines."""
    return [f"  {line}" for line in wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)]


def listed(files: Mapping[str, str]) -> list[str]:
    """The lines of a README that say what each file is."""
    width = max(map(len, files))
    return [f"  {name:{width}}  {what}" for name, what in files.items()]
