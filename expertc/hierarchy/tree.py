"""Groups as a taxonomy: one level of categories, or several by dividing each group again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..taxonomy import MAX_NAME, Node, Taxonomy
from .grouping import agglomerate


@dataclass(frozen=True)
class Level:
    """How one level of categories is made: what must be exceeded to merge, and how large a group may become."""

    p_min: float
    g_max: int


def from_confusion(matrix: np.ndarray, leaves: Sequence[Node], levels: Sequence[Level], name: str) -> Taxonomy:
    """The tree over the classes ``leaves`` that a confusion probability matrix, float64 ``[C, C]``, suggests.

    The first level groups all classes, each further one the classes of every group of the level above, by themselves. A
    group of one is the class itself, and a group that a level does not divide is left as it is. Raises ``UsageError``
    for levels that make no sense.
    """

    def divide(members: tuple[int, ...], depth: int) -> list[tuple[int, ...]]:
        own = matrix[np.ix_(members, members)]
        groups = agglomerate(own, levels[depth].g_max).groups(levels[depth].p_min)
        return [tuple(members[at] for at in group) for group in groups]

    return grow(leaves, divide, len(levels), name)


def grow(
    leaves: Sequence[Node], divide: Callable[[tuple[int, ...], int], list[tuple[int, ...]]], depth: int, name: str
) -> Taxonomy:
    """A tree with at most ``depth`` levels of categories; ``divide(classes, level)`` splits what is in one of them."""
    taken = {leaf.name for leaf in leaves}

    def below(members: tuple[int, ...], level: int) -> tuple[Node, ...]:
        parts = divide(members, level) if level < depth else [(at,) for at in members]
        if len(parts) == 1 and level:
            return below(members, level + 1)
        return tuple(node(part, level) for part in parts)

    def node(members: tuple[int, ...], level: int) -> Node:
        if len(members) == 1:
            return replace(leaves[members[0]], index=members[0])
        title = group_name([leaves[at].name for at in sorted(members)], taken)
        taken.add(title)
        return Node(title, below(members, level + 1))

    roots = below(tuple(range(len(leaves))), 0)
    titles = ["group"] if depth == 1 else [f"group-{number}" for number in range(1, depth + 1)]
    return Taxonomy(name, roots, (*titles, "class"))


def group_name(members: Sequence[str], taken: set[str]) -> str:
    """A name that depends on nothing but who is in the group: its first member and how many more there are.

    A part of a group is smaller, so the names of a tree differ; only one that is ``taken`` by a class gets a number.
    """
    end = f"-and-{len(members) - 1}-more"
    title, number = members[0][: MAX_NAME - len(end)] + end, 1
    while title in taken:
        number += 1
        again = f"{end}-{number}"
        title = members[0][: MAX_NAME - len(again)] + again
    return title
