"""What a network with early exits answers, and how a person sets the exits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..bundle import MANIFEST, OPERATING, Bundle
from ..controls import MAX_VALUE, Control
from ..errors import BundleError, UsageError
from ..exits import COARSE, EXIT, GRANULARITY, THRESHOLD, TOLERANCE, Exits
from ..text import shown

Array = np.ndarray[Any, Any]

FINE, COARSELY = "fine", "coarse"
"""The granularity of a prediction, as people and JSON read it."""

_NO_NUMBER = "Write a number of nats, for example 0.5."


@dataclass(frozen=True)
class Answered:
    """What a network with exits says of N images.

    ``scores`` ``[N, classes]`` and ``coarse`` ``[N, categories]`` (None without categories) are the logits of the exit
    that answered, ``exit`` int64 ``[N]`` its number from 1, ``fine`` bool ``[N]`` whether the answer is a class.
    """

    scores: Array
    coarse: Array | None
    fine: Array
    exit: Array

    @classmethod
    def join(cls, parts: Sequence[Answered]) -> Answered:
        """All of them, one after the other."""
        coarse = [part.coarse for part in parts if part.coarse is not None]
        scores, fine, taken = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "fine", "exit")
        )
        return cls(scores, np.concatenate(coarse) if coarse else None, fine, taken)

    @classmethod
    def of(cls, scores: Array, found: Mapping[str, Array]) -> Answered:
        """From the outputs of a session, by their names."""
        coarse = found.get(COARSE)
        return cls(scores, coarse, np.logical_or(coarse is None, found[GRANULARITY]), found[EXIT])


@dataclass(frozen=True)
class Chosen:
    """How the exits are to be set: thresholds in nats (one for all, or one for each exit but the last) and tolerance,
    or the number of the one exit that shall answer.

    Raises ``UsageError`` for what is no number or no exit. Infinity stands for more than any entropy.
    """

    threshold: tuple[float, ...] | None = None
    tolerance: float | None = None
    exit: int | None = None

    def __post_init__(self) -> None:
        given = {THRESHOLD: self.threshold or (), TOLERANCE: () if self.tolerance is None else (self.tolerance,)}
        for name, values in given.items():
            if any(map(math.isnan, values)):
                raise UsageError(f"The {name} is not a number.", _NO_NUMBER)
        if self.threshold is not None and self.exit is not None:
            raise UsageError("An exit that is forced has no threshold.", "Give --threshold or --exit.")
        if self.exit is not None and self.exit < 1:
            raise UsageError(f"There is no exit {self.exit}.", "The first is 1.")

    def settings(self, controls: Sequence[Control], exits: Exits | None = None) -> dict[str, tuple[float, ...]]:
        """The values of the model's ``controls``; ``exits`` are those that it decides among, as far as it is known.

        Raises ``UsageError`` for a model that has no such exits, or where they cannot be set.
        """
        sizes = {control.name: len(control.default) for control in controls}
        early, settable = sizes.get(THRESHOLD, 0), sizes.keys() & {THRESHOLD, TOLERANCE}
        if self != AS_BUILT and not settable:
            if exits is not None:
                refuse_unsettable(exits)
            raise UsageError(
                "There are no early exits to decide among.",
                "Leave out --threshold, --tolerance and --exit; if its network has exits, build without --exits plain.",
            )
        found: dict[str, tuple[float, ...]] = {}
        if self.threshold is not None:
            values = self.threshold * early if len(self.threshold) == 1 else self.threshold
            if not values or len(values) != early:
                said = f"{len(self.threshold)} thresholds are given for {early} early exits."
                raise UsageError(said, "Give one for all, or one for each exit but the last.")
            found[THRESHOLD] = tuple(map(_held, values))
        if self.exit is not None:
            if self.exit > early + 1:
                raise UsageError(f"There is no exit {self.exit}: the last is {early + 1}.", "The first is 1.")
            found |= forced(early, self.exit)
        if self.tolerance is not None:
            if TOLERANCE not in sizes:
                raise UsageError("No exit of this network weighs two answers.", "Leave out --tolerance.")
            found[TOLERANCE] = (_held(self.tolerance),)
        return found


def refuse_unsettable(exits: Exits) -> NoReturn:
    """Raise ``UsageError`` for exits of which nothing can be set, and say why."""
    if not exits.frozen:
        raise UsageError("One exit of this expert is left, so there is nothing to set.", "Use it as it is.")
    raise UsageError("The thresholds of this expert are frozen.", "Build it without embedding them.")


AS_BUILT = Chosen()
"""Nothing is set."""


def forced(early: int, number: int) -> dict[str, tuple[float, ...]]:
    """Settings by which the exit ``number``, from 1, answers: of a network with ``early`` exits before its last.

    No entropy is below a threshold of 0, and all are below the largest number that a control holds.
    """
    values = tuple(0.0 if at < number else MAX_VALUE for at in range(1, early + 1))
    return {THRESHOLD: values} if values else {}


def read_operating(bundle: Bundle) -> tuple[int, int, int] | None:
    """Of a calibrated bundle: on how many photos, how many answers were right, and how many named a class.

    Raises ``BundleError`` if its manifest does not say that in numbers that make sense.
    """
    found = bundle.manifest.get(OPERATING)
    if found is None:
        return None
    entries = [found.get(key) if isinstance(found, dict) else None for key in ("accuracy", "fine")]
    counts = [one.get(key) if isinstance(one, dict) else None for one in entries for key in ("images", "hits")]
    images, hits, others, fine = (count if type(count) is int else -1 for count in counts)
    if 0 < images == others and 0 <= hits <= images and 0 <= fine <= images:
        return images, hits, fine
    problem = f"{MANIFEST} in {shown(bundle.path)} is malformed: '{OPERATING}' makes no sense."
    raise BundleError(problem, "Calibrate the bundle again, or copy it again.")


def _held(value: float) -> float:
    return max(-MAX_VALUE, min(MAX_VALUE, value))
