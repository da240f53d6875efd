"""Routes: what the classifiers inside a tree of branches say, as a graph output beside the scores.

A *router* chooses among the nodes below one category. Its probabilities explain a prediction: they are the steps of the
path to it. The graph only has a matrix of numbers, so which column is which node of the taxonomy stands in the card.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .errors import CardError
from .preprocessing import required
from .taxonomy import Taxonomy
from .text import shown

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Routes:
    """The graph output ``name``, ``[N, columns]`` float.

    Column i is how likely the taxonomy's node ``columns[i]`` is, given the nearest node above it that has a column; the
    columns of one router follow each other. A router normalises over all that the full model had below it, so in an
    expert they may add up to less than one.
    """

    name: str
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise CardError("The output with the routes has no name.", "Write the name that the graph uses.")
        names = self.columns
        named = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if not named or not names or len(set(names)) < len(names):
            raise CardError("The columns of the routes are none, no names, or one twice.", "Name each node once.")

    def check(self, taxonomy: Taxonomy) -> None:
        """Raise ``CardError`` if a column is no node, a router's stand apart, or a class is on no path."""
        for name in self.columns:
            if name not in taxonomy.by_name:
                raise CardError(f"The routes have {shown(name)}, which is not in the taxonomy.", "Name its nodes.")
        above = [self.above(taxonomy, name) for name in self.columns]
        begins = [name for name, before in zip(above, [None, *above], strict=False) if name != before]
        if len(set(begins)) < len(begins):
            raise CardError("The columns of one router stand apart.", "Put them side by side.")
        for leaf in taxonomy.leaves:
            if not self.steps(taxonomy, leaf.name):
                raise CardError(f"No route leads to {shown(leaf.name)}.", "Name a node above every class.")

    def steps(self, taxonomy: Taxonomy, name: str) -> tuple[int, ...]:
        """The columns on the way from the top to the node ``name``, which may have one of its own."""
        return tuple(self._places[step] for step in taxonomy.path(name) if step in self._places)

    def above(self, taxonomy: Taxonomy, name: str) -> str:
        """The node whose router chooses ``name``, "" for the top one."""
        steps = [step for step in taxonomy.path(name)[:-1] if step in self._places]
        return steps[-1] if steps else ""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.columns)}

    def routers(self, taxonomy: Taxonomy) -> dict[str, tuple[int, ...]]:
        """The columns of every router, by the node it stands at ("" for the top), in order."""
        found: dict[str, tuple[int, ...]] = {}
        for column, name in enumerate(self.columns):
            above = self.above(taxonomy, name)
            found[above] = (*found.get(above, ()), column)
        return found

    def kept(self, taxonomy: Taxonomy, indices: Iterable[int]) -> tuple[int, ...]:
        """The columns of nodes that have any of the classes ``indices``."""
        wanted = set(indices)
        named = enumerate(self.columns)
        return tuple(at for at, name in named if wanted.intersection(taxonomy.by_name[name].leaves))

    def restrict(self, taxonomy: Taxonomy, indices: Iterable[int]) -> Routes:
        """The routes of the expert for these classes; ``taxonomy`` is that of the model it is cut from."""
        return replace(self, columns=tuple(self.columns[at] for at in self.kept(taxonomy, indices)))

    def likeliest(self, taxonomy: Taxonomy, row: Array) -> tuple[int, ...]:
        """The columns that are taken where every router is followed to its likeliest child; ``row`` is ``[columns]``.

        Of equally likely ones the first.
        """
        routers = self.routers(taxonomy)
        found: list[int] = []
        at = ""
        while at in routers:
            columns = routers[at]
            found.append(columns[int(np.argmax(row[list(columns)]))])
            at = self.columns[found[-1]]
        return tuple(found)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"name": self.name, "columns": list(self.columns)}

    @classmethod
    def from_mapping(cls, data: Any) -> Routes | None:
        """Read what ``to_mapping`` returned, or None for a model without. Raises ``CardError``."""
        if data is None:
            return None
        found = required(data, ["name", "columns"], "The description of the routes")
        if not isinstance(found["columns"], list):
            raise CardError("The columns of the routes are not a list.", "Export the model again.")
        return cls(found["name"], tuple(found["columns"]))
