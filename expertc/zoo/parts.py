"""A network as a list of parts: what one needs to run, export or time it branch by branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

IMAGE, TRUNK = "image", "trunk"


@dataclass(frozen=True)
class Part:
    """A module and the names of the parts whose results it reads, or ``IMAGE``.

    ``name`` is where the module's parameters are in the network's state dict. ``gain``: it also reads entry number
    ``gain`` of the network's gain, as ``[1]``. The module gives one tensor, or a list of one.
    """

    name: str
    module: nn.Module
    reads: tuple[str, ...]
    gain: int | None = None


def run(parts: Iterable[Part], logits: Sequence[str], features: Tensor, gain: Tensor | None = None) -> Tensor:
    """What the parts named ``logits`` give, concatenated, if the trunk gives ``features``; a ``gain`` per branch."""
    made = {TRUNK: features}
    for part in parts:
        if part.name not in made:
            own = () if gain is None or part.gain is None else (gain[part.gain : part.gain + 1],)
            made[part.name] = part.module(*(made[name] for name in part.reads), *own)
    return torch.cat([made[name] for name in logits], dim=1)
