"""Which class of a data set is which class of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..selection import class_rows
from ..taxonomy import Taxonomy


def match_classes(dataset: Iterable[str], labels: Sequence[str], taxonomy: Taxonomy | None = None) -> dict[str, int]:
    """Index into ``labels`` for each class name of ``dataset`` that the model knows; the others are left out.

    A name is resolved as ``--classes`` resolves it, among all classes of ``taxonomy`` (default: ``labels`` alone): of
    an expert, the full model's tree, so that what it does not select is not mistaken for what it does. A name that
    could be two classes, or is a category, is none.
    """
    tree = taxonomy or Taxonomy.flat(labels)
    position = {label: index for index, label in enumerate(labels)}
    rows = class_rows(tree, dataset)
    return {name: position[tree.classes[row]] for name, row in rows.items() if tree.classes[row] in position}
