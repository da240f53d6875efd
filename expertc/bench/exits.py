"""How the early exits of a network stood while it was measured, and which of them answered: what was timed.

The input is the same in every call, so one exit answers all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..controls import is_value
from ..exits import MAX_EXITS, THRESHOLD, TOLERANCE
from ..runtime.exits import Chosen

KEYS = {"answered", "asked", "thresholds", "tolerance"}


@dataclass(frozen=True)
class Exiting:
    """Exit ``answered``, from 1; ``asked`` is its number where one was to answer whatever the entropies are.

    ``thresholds`` and ``tolerance`` are in nats; None where they decided nothing, or are frozen into the graph.
    """

    answered: int
    asked: int | None = None
    thresholds: tuple[float, ...] | None = None
    tolerance: float | None = None

    @classmethod
    def of(cls, answered: int, chosen: Chosen, held: Mapping[str, tuple[float, ...]]) -> Exiting:
        """Of a run with the exits as ``chosen``, and in all with the controls ``held``."""
        thresholds = None if chosen.exit is not None else held.get(THRESHOLD)
        return cls(answered, chosen.exit, thresholds, *held.get(TOLERANCE, ()))

    def __str__(self) -> str:
        said = []
        if self.asked is not None:
            said.append("as asked" if self.asked == self.answered else f"though exit {self.asked} was asked for")
        if self.thresholds:
            plural = "s" if len(self.thresholds) > 1 else ""
            said.append(f"threshold{plural} {', '.join(f'{value:g}' for value in self.thresholds)} nats")
        if self.tolerance is not None:
            said.append(f"tolerance {self.tolerance:g} nats")
        return f"exit {self.answered} answers" + (f" ({'; '.join(said)})" if said else "")

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        thresholds = None if self.thresholds is None else list(self.thresholds)
        return {"answered": self.answered, "asked": self.asked, "thresholds": thresholds, "tolerance": self.tolerance}


def read_exiting(data: Any) -> Exiting | None:
    """What ``to_mapping`` returned, None for a model without exits. Raises ``ValueError`` for anything else."""
    if data is None:
        return None
    if not isinstance(data, dict) or data.keys() != KEYS:
        raise ValueError("no exits")
    thresholds = data["thresholds"]
    exits = [number for number in (data["answered"], data["asked"]) if number is not None]
    if data["answered"] is None or not all(type(number) is int and 0 < number <= MAX_EXITS for number in exits):
        raise ValueError("no numbers of exits")
    nats = [*(thresholds or ()), *(() if data["tolerance"] is None else (data["tolerance"],))]
    if not all(map(is_value, nats)):
        raise ValueError("no nats")
    return Exiting(**{**data, "thresholds": None if thresholds is None else tuple(thresholds)})


def exit_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """One for each model of a report as ``BenchReport.to_mapping`` makes it; none where no model has early exits."""
    found = {model["name"]: read_exiting(model["exits"]) for model in report["models"]}
    if any(found.values()):
        yield from (f"{name}: {one or 'no early exits, runs to its end'}" for name, one in found.items())
