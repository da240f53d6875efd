"""What an expert's file shows to the outside: that it can be read, holds its graph and nothing else, and its card."""

from __future__ import annotations

from dataclasses import replace

from ..card import CARD_KEY, Card
from ..errors import CardError, ModelError
from ..graph import File, Model, is_exactly, read_model
from ..preprocessing import Preprocess
from .certificate import Mismatch


def read_expert(data: File) -> Model:
    """The expert in ``data``; that it cannot be read is a mismatch."""
    try:
        return read_model(data)
    except ModelError as error:
        raise Mismatch("structure", f"The expert cannot be read: {error.message}") from error


def check_file(model: Model, data: File) -> None:
    """Raise ``Mismatch`` if the file holds more than the model."""
    if not is_exactly(model, data):
        raise Mismatch("structure", "The expert's file holds something that its graph does not use.")


def check_card(model: Model, own: Card, baked: Preprocess | None = None) -> None:
    """Raise ``Mismatch`` if the model carries another card than ``own``, or anything beside it.

    One with its preprocessing ``baked`` in takes bytes, ``[N, H, W, 3]``, RGB; its card says so, and names that input.
    """
    if set(model.metadata) != {CARD_KEY}:
        raise Mismatch("structure", "The expert carries other metadata than its card.")
    try:
        card = Card.from_json(model.metadata[CARD_KEY])
        card.check_graph(model.inputs, model.outputs, model.types)
    except CardError as error:
        raise Mismatch("structure", f"The expert's card is wrong: {error.message}") from error
    if card.classes != own.classes:
        raise Mismatch("structure", "The classes on the expert's card are not the selected ones, in order.")
    if baked is not None:
        own = replace(own, input=card.input, preprocess=baked.as_bytes())
    if card.to_json() != own.to_json():
        raise Mismatch("structure", "The expert's card is not the full model's card for the selected classes.")
