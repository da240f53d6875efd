"""Which classes a person asked for: the text of ``--classes``, resolved to rows of the model's output.

::

    sharks, rays                 classes by name; order and repeats do not matter
    fishes                       a category: all classes below it
    fishes/sharks                a path, or the tail of one
    "Sea Rays", shark            a label; upper case, plurals and the choice of space, '-' or '_' do not matter
    n01482330                    a synset
    #3, #0-4                     rows of the output; without '#' where no name or label is a number
    fishes, -sharks              without the sharks; only exclusions: everything but those
    "crane, bird"                quotes, ' or ", hold a comma or a first '-', '@', '#' or digit: always a name
    @wanted.txt                  a file with one item per line, where commas need no quotes

In a file ``#`` begins a comment, at the start of a line or after white space, unless a digit follows (``#3`` is a row).

An item means the first of these that finds anything: the exact spelling, the folded one (``fold``), another number of
the noun (``plurals``); in each, names before labels and synsets, because names are unique.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import SelectionError
from .taxonomy import MAX_DEPTH, MAX_NAME, Node, Taxonomy
from .text import clean_text, read_text, shown

_NUMBER = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_QUOTE = re.compile(r"\s*(-?)([\"'])")
_COMMENT = re.compile(r"(?:^|(?<=\s))#(?![0-9]).*")
_LISTED = 10  # candidates an error names
_IRREGULAR = {
    "mouse": "mice", "louse": "lice", "goose": "geese", "foot": "feet", "tooth": "teeth", "man": "men", "ox": "oxen",
    "child": "children", "person": "people", "die": "dice", "leaf": "leaves",
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Classes of a model: their rows, ascending, their names, the text that asked for them, whether these are all.

    ``asked`` are the same names in the order in which they were asked for: what a bundle is named after. ``parts`` are
    the rows of each item by itself, in that order, without what is excluded.
    """

    indices: tuple[int, ...]
    classes: tuple[str, ...]
    requested: str
    is_all: bool = False
    asked: tuple[str, ...] = ()
    parts: tuple[tuple[int, ...], ...] = ()


def resolve(taxonomy: Taxonomy, text: str, *, base: Path | None = None) -> Selection:
    """Resolve the text of ``--classes``; ``@file`` is relative to ``base``, the working directory by default.

    Raises ``SelectionError`` for a name that is unknown (with the nearest ones) or ambiguous (with the candidates as
    paths), for a row that is not there, and if nothing is selected.
    """
    items = list(dict.fromkeys(_items(text, base or Path())))
    if not items:
        raise SelectionError("No class is selected.", f"Name classes or categories: --classes {taxonomy.classes[0]}.")
    names = _Names(taxonomy)
    wanted: dict[int, None] = {}  # in the order of asking
    unwanted: set[int] = set()
    parts = []
    for item in items:
        found = names.find(item)
        if item.excluded:
            unwanted.update(found)
        else:
            wanted.update(dict.fromkeys(found))
            parts.append(found)
    if all(item.excluded for item in items):
        wanted.update(dict.fromkeys(range(len(taxonomy))))
    chosen = tuple(sorted(wanted.keys() - unwanted))
    if not chosen:
        raise SelectionError("The exclusions leave no class selected.", "Exclude fewer, or name more.")
    classes = taxonomy.classes
    asked = tuple(classes[i] for i in wanted if i not in unwanted)
    left = [tuple(i for i in part if i not in unwanted) for part in parts or [chosen]]
    return Selection(
        chosen,
        tuple(classes[i] for i in chosen),
        clean_text(text),
        len(chosen) == len(taxonomy),
        asked,
        tuple(part for part in dict.fromkeys(left) if part),
    )


def class_rows(taxonomy: Taxonomy, names: Iterable[str]) -> dict[str, int]:
    """The row of each of ``names`` (of folders, say) that is one class, found as an item in quotes would be.

    Unknown and ambiguous names are left out, and so are categories, even those with a single class: of an expert's
    tree that may be all that is left of many.
    """
    known, rows = _Names(taxonomy), dict[str, int]()
    for name in names:
        text = clean_text(name)
        tiers = (known.candidates(text, tier) for tier in _TIERS) if text else iter(())
        found = next(filter(None, tiers), [])
        index = next((node.index for node in found if node.index is not None), None)
        if index is not None and len({node.leaves for node in found}) == 1:
            rows[name] = index
    return rows


# -- spelling --------------------------------------------------------------------------------------------------


def fold(text: str) -> str:
    """``text`` without what people do not tell apart: case, compatibility forms, space or ``-`` or ``_``."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    joined = re.sub(r"[\s_-]+", "-", plain)
    return re.sub(r"-?/-?", "/", joined).strip("-/") or joined


def plurals(word: str) -> tuple[str, ...]:
    """Plurals, right or plausible, of a folded English noun; of several words, the last is the noun."""
    found = []
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        found.append(word + "es")
    if not word.endswith(("s", "x", "z", "ch", "sh")):
        found.append(word + "s")
    if re.search(r"[^aeiou]y$", word):
        found.append(word[:-1] + "ies")
    if word.endswith(("f", "fe")):
        found.append(word.rstrip("e")[:-1] + "ves")
    if word.endswith("us"):
        found.append(word[:-2] + "i")
    if word.endswith("is"):
        found.append(word[:-2] + "es")
    found += [word.removesuffix(one) + many for one, many in _IRREGULAR.items() if word.endswith(one)]
    return tuple(found)


def _exactly(text: str) -> tuple[str, ...]:
    return (text,)


def _folded(text: str) -> tuple[str, ...]:
    return (fold(text),)


def _in_any_number(text: str) -> tuple[str, ...]:
    return (fold(text), *plurals(fold(text)))


@dataclass(frozen=True)
class _Tier:
    """One way to compare: two texts are the same if they have a spelling in common."""

    spell: Callable[[str], tuple[str, ...]]
    labels: bool  # compare with labels and synsets too, not only with names

    def spellings(self, node: Node) -> set[str]:
        keys = (node.name, node.label, node.synset) if self.labels else (node.name,)
        return {spelling for key in keys if key for spelling in self.spell(key)}


_TIERS = tuple(_Tier(spell, labels) for spell in (_exactly, _folded, _in_any_number) for labels in (False, True))


# -- finding ---------------------------------------------------------------------------------------------------


class _Names:
    """The nodes of a taxonomy by spelling; a tier's table is made when the first item needs it."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy
        self._tables: dict[_Tier, dict[str, list[Node]]] = {}
        self._numbers_are_names = any(
            _NUMBER.fullmatch(key) for node in taxonomy.nodes() for key in (node.name, node.label)
        )

    def find(self, item: _Item) -> tuple[int, ...]:
        """The rows an item stands for."""
        if not item.quoted and item.text.startswith("#"):
            return self._rows(item.text, item.text[1:])
        if not item.quoted and not self._numbers_are_names and _NUMBER.fullmatch(item.text):
            return self._rows(item.text, item.text)
        for tier in _TIERS:
            found = self.candidates(item.text, tier)
            if len({node.leaves for node in found}) > 1:
                raise self._ambiguous(item.text, found)
            if found:
                return found[0].leaves
        raise self._unknown(item.text)

    def _rows(self, item: str, numbers: str) -> tuple[int, ...]:
        match = _NUMBER.fullmatch(numbers)
        if match is None:
            raise SelectionError(
                f"{shown(item)} is not a row of the output.", "Write #3 or #0-4, or put quotes around a name."
            )
        first, last = (int(d) if len(d) < 10 else 10**9 for d in (match[1], match[2] or match[1]))
        if last >= len(self._taxonomy) or first > last:
            raise SelectionError(
                f"There are no rows {shown(item)}." if match[2] else f"There is no row {shown(item)}.",
                f"The rows are #0 to #{len(self._taxonomy) - 1}, ranges ascending.",
            )
        return tuple(range(first, last + 1))

    def candidates(self, text: str, tier: _Tier) -> list[Node]:
        """Nodes that ``text`` names, by itself or as the tail of a path."""
        if len(text) > MAX_DEPTH * (MAX_NAME + 1):
            return []
        if tier not in self._tables:
            table: dict[str, list[Node]] = {}
            for node in self._taxonomy.nodes():
                for spelling in tier.spellings(node):
                    table.setdefault(spelling, []).append(node)
            self._tables[tier] = table
        found: dict[str, Node] = {}
        for start in _starts(text):
            for spelling in tier.spell(text[start:]):
                for node in self._tables[tier].get(spelling, ()):
                    if start == 0 or self._ends_in(text, node, tier):
                        found[node.name] = node
        return list(found.values())

    def _ends_in(self, text: str, node: Node, tier: _Tier) -> bool:
        """Whether ``text`` is the tail of the node's path. Names may hold slashes, so every way to cut it is tried."""
        starts, ends = _starts(text), {len(text)}
        for name in reversed(self._taxonomy.path(node.name)):
            spellings = tier.spellings(self._taxonomy.by_name[name])
            cuts = {
                start
                for end in ends
                for start in starts
                if start < end and not spellings.isdisjoint(tier.spell(text[start:end]))
            }
            if 0 in cuts:
                return True
            ends = {cut - 1 for cut in cuts}
        return False

    def _ambiguous(self, text: str, found: list[Node]) -> SelectionError:
        paths = [_path(self._taxonomy, node) for node in found[:_LISTED]]
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        return SelectionError(f"{shown(text)} could be {' or '.join(paths)}{more}.", "Give the path or the row.")

    def _unknown(self, text: str) -> SelectionError:
        near = " or ".join(self._nearest(text))
        hint = f"Did you mean {near}?" if near else "'expertc classes' lists the names."
        if _NUMBER.fullmatch(text):
            hint = f"Write #{text[:20]} for a row of the output."
        return SelectionError(f"There is no class or category {shown(text)}.", hint)

    def _nearest(self, text: str) -> list[str]:
        """Up to three names like ``text``, in quotes: by spelling, then by a word in common."""
        asked = fold(text.rpartition("/")[2])[:MAX_NAME]
        named: dict[str, Node] = {}
        for node in self._taxonomy.nodes():
            for key in (node.name, node.label):
                if key:
                    named.setdefault(fold(key), node)
        keys = difflib.get_close_matches(asked, named, n=3, cutoff=0.6)
        words = {word for word in asked.split("-") if len(word) > 2}
        keys += [key for key in named if not words.isdisjoint(key.split("-")) or (len(asked) > 2 and asked in key)]
        nodes = {named[key].name: named[key] for key in keys}
        if "/" in text:
            return [_path(self._taxonomy, node) for node in list(nodes.values())[:3]]
        return [shown(name) for name in list(nodes)[:3]]


def _path(taxonomy: Taxonomy, node: Node) -> str:
    """A node's path, with a class's row, as an error names it."""
    path = "/".join(taxonomy.path(node.name))
    return f"'{path}'" if node.index is None else f"'{path}' (#{node.index})"


def _starts(text: str) -> list[int]:
    """Where a part of a path can begin."""
    return [0, *(match.end() for match in re.finditer("/", text))]


# -- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    text: str
    excluded: bool = False
    quoted: bool = False


def _items(text: str, base: Path) -> Iterator[_Item]:
    """The items of a comma list, those of its files included."""
    at = 0
    while at < len(text):
        opening = _QUOTE.match(text, at)
        if opening:
            item, at = _quoted(text, opening, r"\s*(?:,|\Z)")
            yield item
            continue
        end = text.find(",", at)
        end = len(text) if end < 0 else end
        plain, at = text[at:end].strip(), end + 1
        if plain.startswith("@"):
            yield from _lines(base / plain[1:].strip())
        elif clean_text(plain):
            yield _plain(plain)


def _lines(path: Path) -> Iterator[_Item]:
    """The items of a file, one per line."""
    for line in re.split(r"\r\n|\r|\n", read_text(path, "The class list", SelectionError)):
        opening = _QUOTE.match(line)
        if opening:
            yield _quoted(line, opening, r"\s*(?:\s#.*)?\Z")[0]
            continue
        plain = _COMMENT.sub("", line).strip()
        if plain.startswith("@"):
            raise SelectionError(
                f"The class list {shown(path)} names another file.", "Put quotes around a name with '@'."
            )
        if clean_text(plain):
            yield _plain(plain)


def _plain(text: str) -> _Item:
    excluded = text.startswith("-")
    name = text[1:] if excluded else text
    if excluded and (not name or name[0].isspace() or name.startswith("@")):
        raise SelectionError(
            f"{shown(text)} does not say what to leave out.", "Write '-sharks'; in a file, one such item per line."
        )
    return _Item(clean_text(name), excluded)


def _quoted(text: str, opening: re.Match[str], closing: str) -> tuple[_Item, int]:
    """The quoted item and where the next one begins. The last quote counts that stands before the item's end."""
    end = re.compile(opening[2] + closing).search(text, opening.end())
    name = clean_text(text[opening.end() : end.start()]) if end else ""
    if end is None or not name:
        raise SelectionError(
            f"The quote before {shown(text[opening.end() :])} is not closed, or holds nothing.",
            "Close it before the comma; a name with an apostrophe in front goes into double quotes.",
        )
    return _Item(name, bool(opening[1]), True), end.end()
