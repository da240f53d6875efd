"""Which class of a data set is which class of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from ..selection import fold
from ..taxonomy import Taxonomy


def match_classes(dataset: Iterable[str], labels: Sequence[str], taxonomy: Taxonomy | None = None) -> dict[str, int]:
    """Index into ``labels`` for each class name of ``dataset`` that the model knows; the others are left out.

    Tried in this order: the same name; the same but for case, spaces, hyphens and underscores; the label and then the
    synset that ``taxonomy`` gives the class, likewise folded. A name that could be two classes is none.
    """
    position = {label: index for index, label in enumerate(labels)}
    named = list(position.items())
    leaves = [node for node in taxonomy.leaves if node.name in position] if taxonomy else []
    displayed = [(node.label, position[node.name]) for node in leaves if node.label]
    synsets = [(node.synset, position[node.name]) for node in leaves if node.synset]
    ladders: list[tuple[Callable[[str], str], dict[str, int]]] = [
        (str, _unambiguous(named, str)),
        (fold, _unambiguous(named, fold)),
        (fold, _unambiguous(displayed, fold)),
        (fold, _unambiguous(synsets, fold)),
    ]
    found = {}
    for name in dataset:
        index = next((known[key(name)] for key, known in ladders if key(name) in known), None)
        if index is not None:
            found[name] = index
    return found


def _unambiguous(pairs: Iterable[tuple[str, int]], key: Callable[[str], str]) -> dict[str, int]:
    indices = defaultdict(set)
    for name, index in pairs:
        indices[key(name)].add(index)
    return {name: next(iter(found)) for name, found in indices.items() if len(found) == 1}
