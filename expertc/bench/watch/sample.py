"""What one look at a sensor gives, and how the small files of /proc and /sys are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from ...text import clean_text, system_text

MEGABYTES = "MiB"  # the unit of memory that is in use
MAX_NAME = 60  # characters of a sensor's name


class Channel(NamedTuple):
    """What a number is about, and its unit: MHz, °C, W, MiB or %."""

    name: str
    unit: str


@dataclass(frozen=True)
class Sample:
    """One look: numbers, why clocks are held back just now, and counters of times that they were (since boot).

    ``tells``: it would have said so if clocks were held back, so that silence means that they were not.
    """

    values: Mapping[Channel, float] = field(default_factory=dict)
    held_back: frozenset[str] = frozenset()
    counters: Mapping[str, int] = field(default_factory=dict)
    tells: bool = False

    def __bool__(self) -> bool:
        return bool(self.values or self.counters or self.tells)


class Sensor(Protocol):
    """Something in /proc or /sys that is looked at again and again."""

    @property
    def name(self) -> str:
        """What it is called in a report."""
        ...

    def read(self) -> Sample:
        """Look at it; what cannot be read now is left out."""
        ...


def name_of(text: str) -> str:
    """A sensor's own name for itself, as text that may be printed."""
    return clean_text(text)[:MAX_NAME]


def number(file: Path) -> int | None:
    """The whole number in a small system file, or None."""
    found = system_text(file)
    try:
        return int(found) if found else None
    except ValueError:
        return None


def folders(root: Path, pattern: str) -> Iterator[Path]:
    """The folders below ``root`` that match, in an order that does not change; none where ``root`` is missing."""
    yield from sorted(root.glob(pattern))
