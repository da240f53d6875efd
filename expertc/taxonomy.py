"""The class tree: categories above, classes (the leaves) below, one index per class.

The file format is YAML, any depth; a mapping that holds ``index`` is a class, every other mapping is a category::

    name: sea-animals
    levels: [domain, group, class]          # optional, names of the levels, top first
    classes: 23                             # optional, checked
    tree:
      fishes:
        cartilaginous-fishes:
          rays:   {index: 13, label: Sea Rays}
          sharks: {index: 17, label: Sharks}

``index`` is the row of the class in the model's output. Names are unique in a tree. Resolving what a person typed
(plurals, paths, exclusions) is ``expertc.selection``'s work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import TaxonomyError
from .text import clean_text as clean_text
from .text import read_text, shown

MAX_DEPTH = 64
MAX_NAME = 200  # characters of a name, a label, an attribute
MAX_NUMBER = 2**53  # what every reader of JSON can hold

_LEAF_KEYS = ("index", "label", "synset")


@dataclass(frozen=True)
class Node:
    """A node of the tree: a class if ``index`` is set, otherwise a category with ``children``.

    ``attributes`` carries further scalar facts of a class from the file (such as ``imagenet1k``).
    """

    name: str
    children: tuple[Node, ...] = ()
    index: int | None = None
    label: str = ""
    synset: str = ""
    attributes: tuple[tuple[str, str | int | float | bool], ...] = ()

    @property
    def is_class(self) -> bool:
        """Whether this is a leaf."""
        return self.index is not None

    @property
    def display(self) -> str:
        """What a person reads: the label if there is one, else the name."""
        return self.label or self.name

    def walk(self) -> Iterator[Node]:
        """This node and all below it, depth first, in file order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Indices of the classes at or below this node, ascending."""
        return tuple(sorted(node.index for node in self.walk() if node.index is not None))


@dataclass(frozen=True)
class Taxonomy:
    """A class tree whose classes are numbered 0 to n-1 without gaps; raises ``TaxonomyError`` if they are not."""

    name: str
    roots: tuple[Node, ...]
    levels: tuple[str, ...] = ()
    _paths: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        stack: list[tuple[Node, tuple[str, ...]]] = [(root, ()) for root in reversed(self.roots)]
        while stack:
            node, above = stack.pop()
            if not node.name or max(len(node.name), len(node.label)) > MAX_NAME:
                raise TaxonomyError(
                    f"A name in the taxonomy is empty or longer than {MAX_NAME} characters ({shown(node.name)}).",
                    "Give every category and class a short name.",
                )
            if node.name in self._paths:
                raise TaxonomyError(
                    f"The taxonomy names '{node.name}' twice.", "Give every category and class a name of its own."
                )
            path = (*above, node.name)
            self._paths[node.name] = path
            if node.is_class and node.children:
                raise TaxonomyError(f"'{node.name}' has an index and children.", "Only the leaves are classes.")
            if not node.is_class and not node.children:
                raise TaxonomyError(f"The category '{node.name}' is empty.", "Give it classes, or a class its 'index'.")
            stack.extend((child, path) for child in reversed(node.children))
        indices = sorted(node.index for node in self.nodes() if node.index is not None)
        if not indices:
            raise TaxonomyError("The taxonomy has no classes.", "Give at least one class with an 'index'.")
        if indices != list(range(len(indices))):
            odd = next((i for k, i in enumerate(indices) if i != k), indices[-1])
            raise TaxonomyError(
                f"The class indices are not 0 to {len(indices) - 1}, each once (look at {odd}).",
                "Number the classes by their row in the model's output, starting at 0.",
            )

    # -- reading -----------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> Taxonomy:
        """Read a taxonomy YAML file. Raises ``TaxonomyError`` if it is missing, malformed or larger than 16 MiB."""
        text = read_text(path, "The taxonomy", TaxonomyError)
        return cls.parse(text, source=f"The taxonomy '{clean_text(str(path))}'")

    @classmethod
    def named(cls, name: str) -> Taxonomy:
        """A YAML file, or a taxonomy that comes with expertc. Raises ``TaxonomyError``."""
        return cls.load(name) if Path(name).suffix in (".yaml", ".yml") else cls.shipped(name)

    @classmethod
    def shipped(cls, name: str) -> Taxonomy:
        """Read the taxonomy ``name`` that comes with expertc. Raises ``TaxonomyError`` with the names there are."""
        files = {file.name: file for file in resources.files(__package__).joinpath("taxonomies").iterdir()}
        if f"{name}.yaml" not in files:
            known = ", ".join(sorted(file.removesuffix(".yaml") for file in files if file.endswith(".yaml")))
            raise TaxonomyError(f"No taxonomy {shown(name)} comes with expertc.", f"Take one of: {known}.")
        return cls.parse(files[f"{name}.yaml"].read_text(encoding="utf-8"), source=f"The taxonomy '{name}'")

    @classmethod
    def parse(cls, text: str, source: str = "The taxonomy") -> Taxonomy:
        """Read a taxonomy from YAML text. Duplicate keys, anchors, aliases and tags are refused."""
        from .strict_yaml import parse_yaml  # which a model that brings its classes along does not need

        return cls.from_mapping(parse_yaml(text, source, TaxonomyError))

    @classmethod
    def from_mapping(cls, data: Any) -> Taxonomy:
        """Build a taxonomy from the parsed file, or from what ``to_mapping`` returned."""
        if not isinstance(data, Mapping) or not isinstance(data.get("tree"), Mapping):
            raise TaxonomyError("The taxonomy has no 'tree' mapping.", "See the format in expertc.taxonomy.")
        levels = data.get("levels", ())
        if not isinstance(levels, Sequence) or isinstance(levels, str):
            raise TaxonomyError("'levels' is not a list of names.", "Write levels: [domain, group, class].")
        roots = tuple(_node(name, value, 1) for name, value in data["tree"].items())
        found = cls(_text(data.get("name", "taxonomy"), "name"), roots, tuple(_text(x, "levels") for x in levels))
        declared = data.get("classes", len(found))
        if declared != len(found):
            raise TaxonomyError(
                f"The taxonomy says 'classes: {_text(declared, 'classes')}' but has {len(found)}.",
                "Correct the number or leave it out.",
            )
        return found

    @classmethod
    def flat(cls, labels: Sequence[str], name: str = "classes") -> Taxonomy:
        """A taxonomy without categories: ``labels[i]`` is class ``i``."""
        return cls(name, tuple(Node(clean_text(label), index=i) for i, label in enumerate(labels)), ("class",))

    # -- asking ------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[Node]:
        """All nodes, depth first, in file order."""
        for root in self.roots:
            yield from root.walk()

    @cached_property
    def leaves(self) -> tuple[Node, ...]:
        """The classes in the order of their index."""
        found = [node for node in self.nodes() if node.is_class]
        return tuple(sorted(found, key=lambda node: -1 if node.index is None else node.index))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their index."""
        return tuple(node.name for node in self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Every node by its exact name."""
        return {node.name: node for node in self.nodes()}

    def path(self, name: str) -> tuple[str, ...]:
        """Names from the top of the tree down to the node called ``name``, both included."""
        return self._paths[name]

    @property
    def depth(self) -> int:
        """Number of levels, classes included."""
        return max(len(path) for path in self._paths.values())

    def owner(self, indices: Iterable[int]) -> Node | None:
        """The lowest node whose classes are exactly ``indices``, or None: the taxonomy's name for a branch."""
        return self._owners.get(tuple(sorted(indices)))

    @cached_property
    def _owners(self) -> dict[tuple[int, ...], Node]:
        return {node.leaves: node for node in self.nodes()}  # of a chain of only children the lowest wins

    # -- making another ----------------------------------------------------------------------------------------

    def restrict(self, indices: Iterable[int]) -> Taxonomy:
        """The tree over the given classes only, renumbered in ascending order of their old index.

        Raises ``TaxonomyError`` if there are none, ``IndexError`` if one is no class.
        """
        indices = set(indices)
        if not indices <= set(range(len(self))):
            raise IndexError(f"classes {sorted(indices)} of a taxonomy with {len(self)}")
        renumbered = {old: new for new, old in enumerate(sorted(indices))}

        def keep(node: Node) -> Node | None:
            if node.index is not None:
                if node.index not in renumbered:
                    return None
                return Node(node.name, (), renumbered[node.index], node.label, node.synset, node.attributes)
            children = tuple(child for child in map(keep, node.children) if child is not None)
            return Node(node.name, children, None, node.label, node.synset) if children else None

        return Taxonomy(self.name, tuple(n for n in map(keep, self.roots) if n is not None), self.levels)

    def lowest(self, levels: int) -> Taxonomy:
        """The tree of the classes and of the categories up to ``levels - 1`` above each, with the same indices.

        Raises ``TaxonomyError`` if a category would then stand in two places: its classes lie at different depths.
        """

        def grow(chains: Iterable[Sequence[str]]) -> tuple[Node, ...]:
            below: dict[str, list[Sequence[str]]] = {}
            for name, *rest in chains:
                below.setdefault(name, []).extend([rest] if rest else [])
            return tuple(replace(self.by_name[name], children=grow(rests)) for name, rests in below.items())

        paths = [self.path(node.name) for node in self.nodes() if node.is_class]
        return Taxonomy(self.name, grow(path[-levels:] for path in paths), self.levels[-levels:])

    def to_mapping(self) -> dict[str, Any]:
        """The file's content as plain JSON types; ``from_mapping`` reads it back."""

        def render(node: Node) -> dict[str, Any]:
            if node.index is None:
                return {child.name: render(child) for child in node.children}
            facts: dict[str, Any] = {"index": node.index}
            facts |= {key: text for key, text in (("label", node.label), ("synset", node.synset)) if text}
            return facts | dict(node.attributes)

        tree = {root.name: render(root) for root in self.roots}
        return {"name": self.name, "levels": list(self.levels), "tree": tree}


def _text(value: Any, key: str) -> str:
    """A scalar of the file as clean text, of bounded length."""
    if isinstance(value, (str, int, float)) and len(text := clean_text(str(_bounded(value, key)))) <= MAX_NAME:
        return text
    raise TaxonomyError(f"A '{key}' in the taxonomy is not a short text.", f"Keep it under {MAX_NAME} characters.")


def _bounded(value: str | int | float, key: str) -> str | int | float:
    if isinstance(value, str) or abs(value) < MAX_NUMBER:  # which NaN is not
        return value
    raise TaxonomyError(f"The number at {shown(key)} in the taxonomy is out of range.", "Correct it.")


def _node(name: Any, value: Any, depth: int) -> Node:
    text = clean_text(str(name))
    if depth > MAX_DEPTH:
        raise TaxonomyError(f"The taxonomy is deeper than {MAX_DEPTH} levels.", "Flatten it.")
    if not isinstance(value, Mapping):
        raise TaxonomyError(
            f"{shown(text)} is neither a category nor a class.",
            f"Write '{text[:MAX_NAME]}: {{index: 0}}', or categories below it.",
        )
    index = value.get("index")
    if index is None or isinstance(index, Mapping):  # a class may well be called "index"
        return Node(text, tuple(_node(key, child, depth + 1) for key, child in value.items()))
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_NUMBER:
        raise TaxonomyError(f"The index of {shown(text)} is not a number from 0 on.", "Give the class its output row.")
    label, synset = (_text(value.get(key, ""), key) for key in ("label", "synset"))
    extra = tuple((_text(k, "name"), _fact(text, k, v)) for k, v in value.items() if k not in _LEAF_KEYS)
    if len({*_LEAF_KEYS, *(key for key, _ in extra)}) < len(_LEAF_KEYS) + len(extra):  # keys that cleaning made equal
        raise TaxonomyError(f"An attribute of {shown(text)} stands twice.", "Keep one of them.")
    return Node(text, (), index, label, synset, extra)


def _fact(name: str, key: str, fact: Any) -> str | int | float | bool:
    if not isinstance(fact, (str, int, float)):
        raise TaxonomyError(
            f"{shown(name)} has an index, but {shown(key)} looks like a child.",
            "A class has no children.",
        )
    return _text(fact, key) if isinstance(fact, str) else _bounded(fact, key)
