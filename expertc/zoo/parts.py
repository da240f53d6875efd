"""A network as a list of parts: what one needs to run, export or time it branch by branch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

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
