"""Looking at a taxonomy: does it cover the classes, how even are its categories, how deep is it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from statistics import median
from typing import Any

from ..taxonomy import Node, Taxonomy
from ..text import shown

LISTED = 5  # names that one remark repeats


@dataclass(frozen=True)
class Floor:
    """All nodes at one depth. ``sizes``: how many classes are at or below each, in the tree's order."""

    name: str
    categories: int
    classes: int
    sizes: tuple[int, ...]

    @property
    def balance(self) -> float:
        """How evenly the classes are spread over the nodes, from 0 to 1: Pielou's evenness, entropy / log(nodes)."""
        total = sum(self.sizes)
        if len(self.sizes) < 2:
            return 1.0
        return -sum(size / total * log(size / total) for size in self.sizes) / log(len(self.sizes))

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        spread = {"smallest": min(self.sizes), "median": median(self.sizes), "largest": max(self.sizes)}
        return {"name": self.name, "categories": self.categories, "classes": self.classes, **spread,
                "balance": self.balance}  # fmt: skip


def floors(tree: Taxonomy) -> tuple[Floor, ...]:
    """The levels of a taxonomy from the top; those it does not name are called by their number."""
    found: list[Floor] = []
    nodes: tuple[Node, ...] = tree.roots
    while nodes:
        name = tree.levels[len(found)] if len(found) < len(tree.levels) else f"level {len(found) + 1}"
        classes = sum(node.is_class for node in nodes)
        found.append(Floor(name, len(nodes) - classes, classes, tuple(len(node.leaves) for node in nodes)))
        nodes = tuple(child for node in nodes for child in node.children)
    return tuple(found)


def remarks(tree: Taxonomy) -> Iterator[str]:
    """What is legal but may not be meant, a line each."""
    single = [node.name for node in tree.nodes() if len(node.children) == 1]
    if single:
        yield f"categories with one child, which a branch gains nothing from: {_some(single)}"
    depths = sorted({len(tree.path(name)) for name in tree.classes})
    if len(depths) > 1:
        shallow = [name for name in tree.classes if len(tree.path(name)) < depths[-1]]
        yield f"classes lie {depths[0]} to {depths[-1]} levels deep; not at the lowest: {_some(shallow)}"
    if tree.levels and len(tree.levels) != tree.depth:
        yield f"the file names {len(tree.levels)} levels, but the tree has {tree.depth}"
    if len(tree.roots) == 1:
        yield f"there is one category at the top, {shown(tree.roots[0].name)}: nothing to choose between"


def uncovered(tree: Taxonomy, labels: Sequence[str]) -> Iterator[str]:
    """Where a taxonomy and a model's labels, in the order of its outputs, do not say the same, a line each.

    A class may stand in the taxonomy under its name or its label.
    """
    known = {text: leaf for leaf in reversed(tree.leaves) for text in (leaf.label, leaf.name) if text}
    missing = [label for label in labels if label not in known]
    covered = {known[label].name for label in labels if label in known}
    unknown = [name for name in tree.classes if name not in covered]
    moved = [label for row, label in enumerate(labels) if label in known and known[label].index != row]
    for what, names in (
        ("classes of the model that the taxonomy lacks", missing),
        ("classes of the taxonomy that the model lacks", unknown),
        ("classes whose index is not their row in the model's output", moved),
    ):
        if names:
            yield f"{what}: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(shown, names[:LISTED])) + rest
