"""Predicted against measured: what each branch costs in MACs, and what leaving it out really saves in time.

For each category or class of the taxonomy the full model is cut to everything else, and the full model and all these
cuts are timed in turns within one run. MACs predict the saving well only where every layer runs at the same speed;
where they do not, this says so before anybody builds on the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..backends.cpu import open_session
from ..errors import UsageError
from ..graph import to_bytes, with_batch
from ..graph.cost import cost
from ..measure import Ratio, interleave
from ..selection import resolve
from ..source import Source
from ..surgery.fold import Fold
from ..surgery.prune import prune
from ..text import shown

LARGEST = 40  # branches in one run: each is a model in memory
FULL = ""  # the name under which the full model takes its turns; no class has it


@dataclass(frozen=True)
class LeftOut:
    """The branch ``name`` of ``classes`` classes: its share of the full model's MACs, and what leaving it out saves.

    ``time`` is that of the model without the branch over that of the full one.
    """

    name: str
    classes: int
    predicted: float
    time: Ratio

    @property
    def measured(self) -> float:
        """The share of the full model's time that leaving the branch out saves; it may be below zero by noise."""
        return 1.0 - self.time.value


def by_branch(
    source: Source, names: Sequence[str] = (), *, seconds: float, threads: int | None = None
) -> list[LeftOut]:
    """Time ``source`` without each of ``names`` (classes or categories; default: the taxonomy's roots).

    The input is one image of noise. The largest predicted saving comes first. Raises ``SelectionError`` for a name that
    is not known, ``UsageError`` for one that holds every class, for more than ``LARGEST``, and for a model whose input
    has an open height or width or takes several images at once.
    """
    taxonomy, full = source.card.taxonomy, source.cost.macs
    chosen = {name: set(resolve(taxonomy, name).indices) for name in names or [root.name for root in taxonomy.roots]}
    if len(chosen) > LARGEST:
        raise UsageError(f"{len(chosen)} branches are too many for one run.", f"Name up to {LARGEST} of them.")
    image = _noise(source)
    predicted: dict[str, float] = {}
    with ExitStack() as opened:
        calls = {}
        for name, gone in {FULL: set[int](), **chosen}.items():
            rest = [index for index in range(len(taxonomy)) if index not in gone]
            if not rest:
                raise UsageError(f"Without {shown(name)} nothing is left to time.", "Name a part of the classes.")
            cut = prune(source.model, source.card, rest).model
            predicted[name] = 1 - cost(cut).macs / full
            model = to_bytes(Fold().run(with_batch(cut, 1))[0])
            calls[name] = partial(opened.enter_context(closing(open_session(model, threads=threads))).run, image)
        samples = interleave(calls, seconds=seconds, warmup=seconds / 4)
    found = [LeftOut(n, len(gone), predicted[n], samples.ratio(n, FULL)) for n, gone in chosen.items()]
    return sorted(found, key=lambda each: -each.predicted)


def _noise(source: Source) -> np.ndarray[Any, np.dtype[np.float32]]:
    batch, *rest = source.model.inputs[source.card.input]
    sizes = [dim for dim in rest if isinstance(dim, int)]
    if len(sizes) < len(rest) or (isinstance(batch, int) and batch != 1):
        raise UsageError(
            f"The model {shown(source.name)} has no fixed input of one image.",
            "Export it with an open batch, and a fixed height and width.",
        )
    return np.random.default_rng(0).standard_normal((1, *sizes), np.float32)
