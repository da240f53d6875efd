"""Predicted against measured: what each branch costs in MACs, and what leaving it out really saves in time.

For each category or class of the taxonomy the full model is cut to everything else, and the full model and all these
cuts are timed in turns within one run. MACs predict the saving well only where every layer runs at the same speed;
where they do not, this says so before anybody builds on the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ..errors import UsageError
from ..graph import to_bytes, with_batch
from ..graph.cost import cost
from ..selection import resolve
from ..source import Source
from ..surgery.fold import Fold
from ..surgery.prune import prune
from ..text import clean_text, shown
from .report import Branch
from .subjects import Subject, open_subject

LARGEST = 40  # branches in one run: each is a model in memory


def open_without(
    source: Source, names: Sequence[str], threads: int | None, opened: ExitStack
) -> tuple[dict[str, Subject], dict[str, Branch]]:
    """Open ``source`` and its cuts without each of ``names`` (classes or categories; default: the taxonomy's roots).

    Both are by the name of what is timed; the full model is the first, and of the branches the largest. All take one
    image. Raises ``SelectionError`` for
    a name that is not known, ``UsageError`` for one that holds every class, for more than ``LARGEST``, and for a model
    that takes several images at once.
    """
    taxonomy, full = source.card.taxonomy, source.cost.macs
    chosen = {name: set(resolve(taxonomy, name).indices) for name in names or [root.name for root in taxonomy.roots]}
    if len(chosen) > LARGEST:
        raise UsageError(f"{len(chosen)} branches are too many for one run.", f"Name up to {LARGEST} of them.")
    batch = next(iter(source.model.inputs[source.card.input]), None)
    if isinstance(batch, int) and batch != 1:
        raise UsageError(f"{shown(source.name)} takes {batch} images at once.", "Export it with an open batch.")

    def cut(gone: set[int], title: str) -> tuple[Subject, float]:
        rest = [index for index in range(len(taxonomy)) if index not in gone]
        if not rest:
            raise UsageError(f"Without {shown(title)} nothing is left to time.", "Name a part of the classes.")
        model = prune(source.model, source.card, rest).model
        data = to_bytes(Fold().run(with_batch(model, 1))[0])
        return open_subject(source.path, data, threads, opened), 1 - cost(model).macs / full

    subjects = {clean_text(source.name): cut(set(), source.name)[0]}
    branches = {}
    for name, gone in chosen.items():
        title = f"without {clean_text(name)}"
        subjects[title], predicted = cut(gone, name)
        branches[title] = Branch(clean_text(name), len(gone), predicted)
    return subjects, dict(sorted(branches.items(), key=lambda item: -item[1].predicted))
