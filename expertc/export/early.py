"""The two full models of a network with early exits: *plain*, every exit's logits, and *nested*, which decides.

The plain form is what every pass works on; the nested one has the rule in the graph, and what lies behind the exit that
answers is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import atomic
from ..card import Card
from ..controls import Control
from ..errors import UsageError
from ..exit_rule import decide
from ..exits import THRESHOLD, TOLERANCE
from ..graph import read_model, to_bytes
from ..surgery.exits import nested
from ..text import shown
from ..zoo import ExitNet
from ..zoo.exits import Plain
from .checking import Setting, answers, compare
from .exporter import OPSETS, export, export_file

PLAIN, NESTED = "plain", "nested"
FORMS = (NESTED, PLAIN)
SURE = 1000.0  # nats: no entropy of fewer than e ** 1000 labels is larger


class Driven(nn.Module):
    """What the nested form gives, computed in torch to the end and decided by ``expertc.exits``, to compare with.

    Maps an image ``[1, 3, H, W]`` and a vector per control of ``controls`` to scores ``[1, classes]``, with categories
    also coarse logits ``[1, categories]``, then granularity and exit, ``[1]`` each.
    """

    def __init__(self, network: ExitNet, card: Card, controls: Sequence[Control]) -> None:
        super().__init__()
        assert card.exits is not None
        self.network, self.exits = network, card.exits
        self.names = [control.name for control in controls]

    def forward(self, x: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        made = {name: logits.numpy() for name, logits in zip(self.network.names, self.network.plain(x), strict=True)}
        given = {name: vector.tolist() for name, vector in zip(self.names, vectors, strict=True)}
        (tolerance,) = given.get(TOLERANCE, [self.exits.tolerance])
        found = decide(self.exits, lambda _: made, given.get(THRESHOLD, ()), tolerance)
        logits = [found.scores, *([] if found.coarse is None else [found.coarse])]
        said = [torch.tensor([number], dtype=torch.float32) for number in (found.fine, found.exit)]
        return (*(torch.from_numpy(each).float() for each in logits), *said)


def has_exits(network: nn.Module) -> bool:
    """Whether there is something to decide: with one exit that knows classes alone there is not."""
    return isinstance(network, ExitNet) and len(network.about().tensors) > 1


def weighs(network: nn.Module) -> bool:
    """Whether an exit of it weighs a class against a category."""
    return isinstance(network, ExitNet) and network.about().compares


def with_exits(network: nn.Module, card: Card, *, strict_coarse: bool = False) -> tuple[Plain, Card]:
    """The network in its plain form, and the card that says so."""
    assert isinstance(network, ExitNet)
    return Plain(network), card.with_exits(replace(network.about(), strict_coarse=strict_coarse))


def export_early(
    network: nn.Module,
    card: Card,
    size: tuple[int, int],
    images: Tensor,
    path: Path,
    *,
    form: str = NESTED,
    strict_coarse: bool = False,
    opset: int = OPSETS[-1],
) -> Path:
    """Export ``network`` in its plain or nested ``form``; ``card`` has no exits yet.

    ``strict_coarse`` is the condition of the authors' code (``exits.Exits``). Otherwise as ``export_file``. Raises
    ``UsageError`` if there is no such form.
    """
    if form not in FORMS:
        raise UsageError(f"A network with early exits has no form {shown(form)}.", f"Choose from {', '.join(FORMS)}.")
    plain, card = with_exits(network, card, strict_coarse=strict_coarse)
    if form == PLAIN:
        return export_file(plain, card, size, images, path, opset=opset)
    model, driven = nested(read_model(export(plain, card, size, opset=opset)), card)
    content = to_bytes(model)
    decided = Driven(plain.network, card, driven.controls)
    expected = answers(decided, images, driven.controls)
    if driven.controls:
        expected += answers(decided, images[:1], driven.controls, _each_answer(driven))
    compare(content, expected)
    with atomic.saving(path, force=True) as place:
        place.write_bytes(content)
    return path


def _each_answer(card: Card) -> list[Setting]:
    """With each of these another exit answers, finely or coarsely as far as that is a matter of tolerance."""
    assert card.exits is not None
    early = len(card.exits.thresholds)
    rounds = [
        {THRESHOLD: [SURE * (at == number) for at in range(early)], TOLERANCE: [tolerance]}
        for number in range(early + 1)
        for tolerance in (SURE, -SURE)
    ]
    return [
        {control.name: np.array(values.get(control.name, control.default), np.float32) for control in card.controls}
        for values in rounds
    ]
