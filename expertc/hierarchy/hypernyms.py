"""The class tree that WordNet's hypernyms make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from ..errors import UsageError
from ..taxonomy import MAX_NAME, Node, Taxonomy
from .grouping import LEAST
from .wordnet import Synset, WordNet

Part: TypeAlias = "Branch | int"  # an int is a class


@dataclass(frozen=True)
class Branch:
    """Classes with a hypernym, ``offset`` (None: all there are), and what it parts them into."""

    offset: int | None
    parts: tuple[Part, ...]

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """All classes at or below."""
        return tuple(index for part in self.parts for index in ((part,) if isinstance(part, int) else part.classes))

    def cut(self, most: int) -> Iterator[Part]:
        """This branch if it has at most so many classes, else its parts, cut likewise."""
        if len(self.classes) <= most:
            yield self
            return
        for part in self.parts:
            if isinstance(part, int):
                yield part
            else:
                yield from part.cut(most)


def from_wordnet(database: WordNet, leaves: Sequence[Node], sizes: Sequence[int], name: str) -> Taxonomy:
    """The tree over the classes ``leaves`` by their hypernyms in WordNet.

    Without ``sizes`` every hypernym that parts its classes is a category. With them there is a level for each: the
    largest categories of at most so many classes; a class that no such category has with others is on its own. Raises
    ``TaxonomyError`` if classes cannot be found, ``UsageError`` for sizes below 2.
    """
    if any(size < LEAST for size in sizes):
        raise UsageError(f"Groups of at most {min(sizes)} are no groups.", "Give --g-max from 2 on.")
    whole = _part([(database.way(offset), index) for index, offset in enumerate(database.find(leaves))])
    taken = {leaf.name for leaf in leaves}

    def below(branch: Branch, level: int) -> Iterator[Part]:
        if not sizes:
            yield from branch.parts
        elif level == len(sizes):
            yield from branch.classes
        elif branch.offset is not None and len(branch.classes) <= sizes[level]:  # it is such a category itself
            yield from below(branch, level + 1)
        else:
            yield from branch.cut(min(sizes[level], len(branch.classes) - 1))  # never the branch itself

    def node(part: Part, level: int) -> Node:
        if isinstance(part, int):
            return replace(leaves[part], index=part)
        title = _name(database.synset(part.offset or 0), taken)
        taken.add(title)
        return Node(title, tuple(node(one, level + 1) for one in below(part, level + 1)))

    top = whole if isinstance(whole, Branch) else Branch(None, (whole,))
    return Taxonomy(name, tuple(node(part, 0) for part in below(replace(top, offset=None), 0)))


def _part(ways: Sequence[tuple[tuple[int, ...], int]], depth: int = 0) -> Part:
    """The branch of classes whose ways, offsets from the top down, agree up to ``depth``; a class alone is itself."""
    if len(ways) == 1:
        return ways[0][1]
    lower: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    parts: list[Part] = []
    for way, index in ways:
        if len(way) == depth:  # the class is what the others are kinds of
            parts.append(index)
        else:
            lower.setdefault(way[depth], []).append((way, index))
    if not parts and len(lower) == 1:  # a hypernym that parts nothing
        return _part(ways, depth + 1)
    parts += [_part(some, depth + 1) for some in lower.values()]
    return Branch(ways[0][0][depth - 1] if depth else None, tuple(parts))


def _name(synset: Synset, taken: set[str]) -> str:
    """The synset's first word; where that is taken, with its id."""
    if synset.name not in taken:
        return synset.name
    end = f"-n{synset.offset:08}"
    return synset.name[: MAX_NAME - len(end)] + end
