"""The form in which a network with exits is shipped: it answers as the rule does on what its plain form says.

The plain form was compared with the full model, all its exits; ``exit_rule.decide`` is the rule in numpy. What is
shipped holds it as a graph, or is run in stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import OpenSession, Session, portions
from ..card import CARD_KEY, Card
from ..errors import ModelError, UnsupportedError
from ..exit_rule import decide
from ..exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE, Exits
from ..graph import File, Model, is_exactly
from ..surgery.exits import nested, staged
from .certificate import Mismatch, Number, Step
from .running import BATCH, distance, short

STEP = "exits"
"""The step of the ladder that looks at it."""

INPUTS = 8
"""Of those that the ladder has, how many are run in every setting."""

FAR = 1e9
"""Nats beyond any entropy, on either side."""

NEAR = 1e-3
"""Nats: a decision that the settings as they are leave this close may go either way, as entropies are rounded."""

Array = np.ndarray[Any, Any]
Open = Callable[[Sequence[File], Exits], Session]
"""Opens the files that are shipped as one session."""


@dataclass(frozen=True)
class Driven:
    """The files of the expert as it is shipped: one with the rule in it, or one for each exit."""

    files: tuple[File, ...]


def forms(plain: Model, driven: Driven) -> None:
    """Raise ``Mismatch`` if the files are not what the plain model, with its card, is made into, byte for byte."""
    card = Card.from_json(plain.metadata[CARD_KEY])
    made = (nested(plain, card)[0],) if len(driven.files) == 1 else staged(plain, card)
    same = len(made) == len(driven.files) and all(map(is_exactly, made, driven.files))
    if not same:
        raise Mismatch("structure", "The expert's stages are not those of its plain form.")


def answers(
    open_session: OpenSession, open_driven: Open, plain: File, driven: Driven, *, card: Card, x: Array, allowed: float
) -> Step:
    """(f) The shipped form takes the exits that the rule takes, and answers what the plain one has there.

    Args:
        open_session, open_driven: run the plain form and the shipped one.
        plain, driven: both.
        card: of the plain one.
        x: inputs, as it takes them.
        allowed: difference of scores, over the largest.
    """
    exits = card.exits
    assert exits is not None
    seen: set[tuple[int, bool]] = set()
    largest, close, runs = 0.0, 0, 0
    try:
        with closing(open_session(plain, optimise=True)) as one, closing(open_driven(driven.files, exits)) as other:
            for part, _ in portions(x[:INPUTS], one.input_shape[0] or BATCH):
                logits = one.run(part)
                for settings in forced(exits):
                    runs += 1
                    wanted = _clear(exits, logits, settings)
                    if wanted is None:
                        close += 1
                        continue
                    found = other.run(part, {} if exits.frozen else settings)
                    largest = max(largest, _compared(exits, logits, settings, found, len(part)))
                    seen.add(wanted)
    except (ModelError, UnsupportedError) as error:
        raise Mismatch(STEP, f"The expert with its exits does not run: {error.message}") from error
    numbers: dict[str, Number] = {
        "runs": runs,
        "answers": len(seen),
        "undecided": close,
        "allowed": allowed,
        "largest_difference": short(largest),
    }
    if largest > allowed:
        raise Mismatch(STEP, f"What an exit answers differs by {largest:.2g} of the largest.", numbers)
    places = {number for number, _ in seen}
    took = f"{len(places)} of {len(exits.exits)} exits"
    return Step(STEP, True, f"It takes the exit and gives the answer that the rule does, by {took}.", numbers)


def forced(exits: Exits) -> list[Mapping[str, tuple[float, ...]]]:
    """The settings as they are; if they are not frozen also those that lead to each exit, finely and coarsely."""
    found: list[Mapping[str, tuple[float, ...]]] = [exits.settings]
    for at in range(0 if exits.frozen else len(exits.exits)):
        thresholds = tuple(FAR if number == at else 0.0 for number in range(len(exits.thresholds)))
        for tolerance in (FAR, -FAR) if exits.compares else (0.0,):
            given = {THRESHOLD: thresholds, TOLERANCE: (tolerance,)}
            found.append({name: given[name] for name in exits.settings})
    return found


def _compared(
    exits: Exits, logits: Mapping[str, Array], settings: Mapping[str, Sequence[float]], found: Mapping[str, Array],
    images: int,
) -> float:  # fmt: skip
    """How far the scores of an answer are off. Raises ``Mismatch`` if it is another."""
    wanted = _decided(exits, logits, settings)
    for name, value in ((EXIT, wanted.exit), (GRANULARITY, int(wanted.fine))):
        if name not in found or not np.array_equal(found[name], np.full(images, value)):
            raise Mismatch(STEP, f"The expert takes another {name} than the rule does.")
    pairs = {SCORES: wanted.scores} | ({} if wanted.coarse is None else {COARSE: wanted.coarse})
    for name in pairs:
        if name not in found or not np.isfinite(found[name]).all():
            raise Mismatch(STEP, f"The expert gives no {name}, or NaN or infinity.")
    return max(distance(STEP, name, found[name], values) for name, values in pairs.items())


def _clear(
    exits: Exits, logits: Mapping[str, Array], settings: Mapping[str, Sequence[float]]
) -> tuple[int, bool] | None:
    """Which exit answers, and whether finely; None if a little more or less would change that."""
    found = set()
    for more in (-NEAR, 0.0, NEAR):
        for favour in (-NEAR, NEAR):
            moved = {name: [v + (favour if name == TOLERANCE else more) for v in s] for name, s in settings.items()}
            found.add((lambda d: (d.exit, d.fine))(_decided(exits, logits, moved)))
    return found.pop() if len(found) == 1 else None


def _decided(exits: Exits, logits: Mapping[str, Array], settings: Mapping[str, Sequence[float]]) -> Any:
    return decide(exits, lambda _: logits, settings.get(THRESHOLD, ()), settings.get(TOLERANCE, (0.0,))[0])
