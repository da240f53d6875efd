"""Axes of a drawing: where a value stands, and which round values are written along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
WIDE = 5.0  # largest over smallest value from which an axis of durations is marked 1, 2, 5, 10, … not evenly
CROWDED = 300.0  # from which it is marked 1, 10, 100, …


@dataclass(frozen=True)
class Axis:
    """Maps values from ``low`` to ``high`` to pixels from ``start`` to ``end``; ``low`` > 0 where ``logarithmic``."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.logarithmic else self._plain(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values on the axis, from 2 to about 10."""
        if self.logarithmic and self.high / self.low >= WIDE:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < CROWDED else (1,)
            marks = [step * 10.0**decade for decade in decades for step in steps]
        else:
            step = _step((self.high - self.low) / 7)
            marks = [step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [mark for mark in marks if self.low <= mark <= self.high]

    def _plain(self, value: float) -> tuple[float, float, float]:
        return self.low, self.high, value


def around(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """Bounds a little outside of all ``values``, never the same."""
    low, high = min(values), max(values)
    spare = margin * (high - low) or 0.05 * abs(high) or 1.0
    return low - spare, high + spare


def unit(seconds: float) -> tuple[str, float]:
    """The unit in which a duration is a readable number, and its length in seconds."""
    return next((each for each in UNITS if seconds >= each[1]), UNITS[-1])


def duration(seconds: float) -> str:
    """A duration in such a unit, with three digits."""
    name, length = unit(seconds)
    return f"{seconds / length:.{max(0, 2 - math.floor(math.log10(max(seconds / length, 1e-2))))}f} {name}"


def _step(rough: float) -> float:
    """The round number next above ``rough``."""
    decade = 10.0 ** math.floor(math.log10(rough))
    return next(step * decade for step in (1, 2, 5, 10) if step * decade >= rough * (1 - 1e-9))
