"""What is done to an expert once it is cut, before its precision is chosen; a manifest says it, to be done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .card import CARD_KEY, Card
from .errors import BundleError, UsageError
from .graph import Model, with_batch
from .surgery.embed import Embed
from .surgery.fold import Fold
from .surgery.passes import Pass, run_all
from .surgery.prune import Cut
from .text import shown

OFF = "off"
"""The form of an expert whose branches stay apart."""

PLAIN = "plain"
"""The form of a network with exits that computes them all and decides nothing (``driven``); that of any other."""


@dataclass(frozen=True)
class Finish:
    """The passes after the cut.

    Args:
        batch: images per call, None for any number.
        embed: freeze the controls at their defaults.
        bake: make the scaling of pixels a part of the graph, which then takes bytes.
        fuse: name of the form its branches take, "off" for none.
        opset: the newest opset that the target reads, None without a limit.
        strength: write what ONNX Runtime is slow at by operators that it is fast at.
        exits: the form in which its exits are shipped, which is no pass, but the last that is done.
    """

    batch: int | None = 1
    embed: bool = False
    bake: bool = False
    fuse: str = OFF
    opset: int | None = None
    strength: bool = False
    exits: str = PLAIN

    def run(self, cut: Cut) -> tuple[Model, tuple[str, ...]]:
        """The finished expert, and the names of the passes that changed something. Raises what they raise."""
        model = cut.model if self.batch is None else with_batch(cut.model, self.batch)
        return run_all(model, self._passes(cut.card))

    def _passes(self, card: Card) -> tuple[Pass, ...]:
        found: list[Pass] = []
        if self.embed:
            found.append(Embed(card))
            card = replace(card, controls=())
        if self.bake:
            found.append(_bake(card))
        found.append(Fold())
        if self.fuse != OFF:
            found.append(_fuse(self.fuse))
        if self.strength:
            found.append(_strength())
        if self.opset is not None:
            found.append(_lower(self.opset))
        return tuple(found)

    def to_mapping(self) -> dict[str, Any]:
        """How the manifest's "forms" describe it, as JSON types."""
        return {
            "fuse": self.fuse,
            "batch": "dynamic" if self.batch is None else self.batch,
            "embed": self.embed,
            "bake": self.bake,
            "opset": self.opset,
            "strength": self.strength,
            "exits": self.exits,
        }

    @classmethod
    def from_mapping(cls, forms: Mapping[str, Any], *, embed: bool) -> Finish:
        """Read what ``to_mapping`` returned. ``embed`` is for manifests of before, which do not say it.

        Raises ``BundleError`` if it makes no sense.
        """
        batch, opset = forms.get("batch"), forms.get("opset")
        found = cls(
            None if batch == "dynamic" else batch, forms.get("embed", embed), forms.get("bake", False),
            forms.get("fuse", OFF), opset, forms.get("strength", False), forms.get("exits", PLAIN),
        )  # fmt: skip
        whole = [number is None or (type(number) is int and number > 0) for number in (found.batch, opset)]
        known = found.fuse == OFF or found.fuse in _forms()
        flags = [type(flag) is bool for flag in (found.embed, found.bake, found.strength)]
        flags.append(found.exits in ("nested", "staged", PLAIN))
        if not (all(whole) and known and all(flags)):
            raise BundleError("The manifest does not say how the expert was made.", "Build the bundle again.")
        return found


def candidates(plain: Model) -> dict[str, Model]:
    """The forms of a finished expert that differ from it, by name."""
    from .surgery.fuse import FORMS, Fuse

    made = {form.name: Fuse(form).run(plain) for form in FORMS}
    return {name: model for name, (model, changed) in made.items() if changed}


def card_of(model: Model) -> Card:
    """The card that a finished expert carries."""
    return Card.from_json(model.metadata[CARD_KEY])


def require_form(name: str) -> str:
    """The form that ``--fuse`` names: "on" is the whole fusion. Raises ``UsageError`` if there is none."""
    if name == "on":
        return "grouped"
    if name not in ("auto", OFF) and name not in _forms():
        raise UsageError(f"There is no form {shown(name)}.", f"Choose from auto, on, off, {', '.join(_forms())}.")
    return name


# -- passes that most builds do not run are imported by those that do -------------------------------------------------


def _bake(card: Card) -> Pass:
    from .surgery.bake import Bake

    return Bake(card)


def _forms() -> tuple[str, ...]:
    from .surgery.fuse import FORMS

    return tuple(form.name for form in FORMS)


def _fuse(name: str) -> Pass:
    from .surgery.fuse import FORMS, Fuse

    return next(Fuse(form) for form in FORMS if form.name == name)


def _strength() -> Pass:
    from .surgery.strength import Strength

    return Strength()


def _lower(opset: int) -> Pass:
    from .surgery.lower import Lower

    return Lower(opset)
