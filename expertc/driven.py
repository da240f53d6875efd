"""The form in which a network with exits is shipped: decided in its graph, or between its stages. The last step.

Everything before works on the plain form, which computes all exits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .bundle import CONTROLS, EMBEDDED, EXITS, MODEL, STAGE
from .card import CARD_KEY, Card, Output
from .controls import Control
from .errors import UnsupportedError, UsageError
from .exits import SCORES
from .finish import PLAIN, card_of
from .graph import File, Model, is_large, read_model, to_bytes
from .surgery.exits import flatten, joined, nested, staged
from .targets import Target
from .text import shown
from .verify.exits import Driven

NESTED, STAGED = "nested", "staged"
FORMS = (NESTED, STAGED, PLAIN)


@dataclass(frozen=True)
class Shipped:
    """An expert in the ``form`` that it is shipped in: its ``files``, by name in the bundle.

    ``card`` is what a person is told about it: scores, and controls that somebody can set.
    """

    form: str
    files: dict[str, File]
    card: Card

    @property
    def driven(self) -> Driven | None:
        """What a verification looks at beside the plain form."""
        return None if self.form == PLAIN else Driven(tuple(self.files.values()))

    def described(
        self, about: Mapping[str, Any], full: Card, indices: Sequence[int], *, embedded: bool
    ) -> dict[str, Any]:
        """The manifest ``about`` a plain expert, for this form.

        ``full`` is the card that it was cut from; ``embedded`` says that its controls were frozen for this expert.
        """
        found, exits = {**about, EXITS: None}, self.card.exits
        if full.exits is not None and embedded:  # of all its exits, also of those that cannot be reached
            own = full.exits.telling(full.taxonomy, indices)
            settings = [Control(name, values, False) for name, values in own.settings.items()]
            found[EMBEDDED] = [*found[EMBEDDED], *(control.to_mapping() for control in settings)]
        if self.form == PLAIN or exits is None:
            return found
        free = () if exits.frozen else (Control(name, values, False) for name, values in exits.settings.items())
        placed = (control.to_mapping() | {"shape": [len(control.default)]} for control in free)
        return found | {
            "output": asdict(output_of(self.form, self.card)),
            CONTROLS: [*found[CONTROLS], *placed],
            EXITS: replace(exits, driven=self.form == NESTED).to_mapping(),
        }


def require_exits(form: str | None, card: Card, device: Target) -> str:
    """The form that ``--exits`` names, or the one for the device; that of a network without exits is plain.

    Raises ``UsageError`` if there is no such form, or the network has no exits.
    """
    if form is not None and form not in FORMS:
        raise UsageError(f"There is no form {shown(form)} of exits.", f"Choose from {', '.join(FORMS)}.")
    if card.exits is None:
        if form not in (None, PLAIN):
            raise UsageError("The model has no early exits.", "Leave out --exits.")
        return PLAIN
    return form or (STAGED if device.backend == "tensorrt" else NESTED)


def shipped(expert: File, plain: Model, form: str) -> Shipped:
    """The finished expert ``plain``, packed as ``expert``, in a form.

    Raises ``UnsupportedError`` if it is too large for a form that is not plain, or cannot take it.
    """
    card = card_of(plain)
    if form == PLAIN or card.exits is None:
        return Shipped(PLAIN, {MODEL: expert}, card)
    if is_large(plain) or not isinstance(expert, bytes):
        raise UnsupportedError("The expert is too large for a graph in a graph.", "Add --exits plain.")
    # As somebody reads it who was given the file.
    model = read_model(expert)
    made, driven = nested(model, card_of(model))
    if form == NESTED or len(card.exits.exits) == 1:  # of which there is nothing to skip
        return Shipped(NESTED, {MODEL: to_bytes(made)}, driven)
    parts = map(to_bytes, staged(model, card_of(model)))
    return Shipped(form, {MODEL if at == 1 else STAGE.format(at): part for at, part in enumerate(parts, 1)}, driven)


def taken_apart(files: Sequence[File]) -> Model:
    """The plain form of an expert from the files that are shipped. Raises ``ModelError`` and ``CardError``."""
    first, *later = map(read_model, files)
    card = Card.from_json(first.metadata.get(CARD_KEY, ""))
    return joined((first, *later), card) if later else flatten(first, card)[0]


def to_the_end(model: Model, card: Card) -> bytes:
    """A plain model in its nested form, with thresholds that let no exit answer but the last: to be timed."""
    assert card.exits is not None
    never = replace(card.exits, thresholds=(0.0,) * len(card.exits.thresholds), frozen=True)
    made, own = nested(model, card.with_exits(never))
    return to_bytes(made.with_metadata({CARD_KEY: own.to_json()}))


def frozen(card: Card) -> Card:
    """The card of a network whose thresholds never change; any other as it is."""
    return card if card.exits is None else card.with_exits(replace(card.exits, frozen=True))


def output_of(form: str, card: Card) -> Output:
    """What an expert with the plain card answers with in a form."""
    return card.outputs[0] if form == PLAIN else Output(SCORES)
