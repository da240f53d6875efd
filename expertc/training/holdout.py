"""How often a network is right about the photos that were kept aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..zoo import ExitNet
from ..zoo.exits import Plain
from .data import Photos, normalise
from .processes import Processes
from .recipe import Recipe


def count_hits(model: nn.Module, photos: Photos, recipe: Recipe, processes: Processes) -> int:
    """Number of images whose highest logit is their label; every process looks at its part of them."""
    made = _answers(model, photos, recipe, processes)
    return int(processes.total(sum(int((logits.argmax(1).cpu() == y).sum()) for logits, y in made)))


def count_exits(model: nn.Module, photos: Photos, recipe: Recipe, processes: Processes) -> dict[str, dict[str, int]]:
    """As ``count_hits``, under "exits", for the logits of every exit, fine and coarse; nothing if there are none."""
    if not isinstance(model, ExitNet):
        return {}
    about = model.about().placed(model.taxonomy)
    above = torch.tensor(about.of)
    hits = {name: 0 for one in about.exits for name in one.names}
    coarse = {one.coarse for one in about.exits}
    for made, y in _answers(Plain(model), photos, recipe, processes):
        for name, logits in zip(model.names, made, strict=True):
            if name in hits:
                hits[name] += int((logits.argmax(1).cpu() == (above[y] if name in coarse else y)).sum())
    return {"exits": {name: int(processes.total(number)) for name, number in hits.items()}}


def _answers(module: nn.Module, photos: Photos, recipe: Recipe, processes: Processes) -> Iterator[tuple[Any, Tensor]]:
    """What ``module`` makes of this process's part of the photos, batch by batch, and their labels ``[N]``."""
    module.eval()
    part = Subset(photos, range(processes.index, len(photos), processes.count))
    with torch.inference_mode():
        for x, y in DataLoader(part, 128):
            yield module(normalise(x, recipe, processes.device)), y
