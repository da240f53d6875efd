"""The nouns of a WordNet database directory.

Reads ``data.noun`` and ``index.noun`` as wndb(5WN) describes them: a synset is a line of ``data.noun``, known by the
byte at which it begins; ``@`` and ``@i`` point to its hypernyms; ``index.noun`` maps a lemma to the synsets of its
senses, the most frequent first. Ids such as n01440764 (ImageNet's) are those offsets in WordNet 3.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import TaxonomyError
from ..taxonomy import MAX_NAME, Node
from ..text import clean_text, shown

DATA, INDEX = "data.noun", "index.noun"
MAX_FILE = 2**28  # bytes; WordNet 3.0's data.noun has 15 million
MAX_CHAIN = 64  # hypernyms above a synset; WordNet 3.0 has at most 19
LISTED = 5  # classes that an error names
HYPERNYM = ("@", "@i")  # also of an instance

_SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Synset:
    """A sense of some nouns; ``offset`` is its byte in ``data.noun``, ``above`` those of its hypernyms."""

    offset: int
    words: tuple[str, ...]
    above: tuple[int, ...]

    @property
    def name(self) -> str:
        """The first word as a name: ``aquatic-mammal``."""
        return clean_text(self.words[0]).replace("_", "-")[:MAX_NAME]


class WordNet:
    """An opened database; synsets are read when asked for. Raises ``TaxonomyError`` for what is none."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._data = self._read(DATA)
        self._known: dict[int, Synset] = {}

    def synset(self, offset: int) -> Synset:
        """The synset at a byte of ``data.noun``. Raises ``TaxonomyError`` if none begins there."""
        if offset not in self._known:
            with _understood(f"byte {offset} of {DATA}"):
                end = self._data.find(b"\n", offset)
                fields = self._data[offset:end].decode("utf-8").split("|", 1)[0].split()
                if int(fields[0]) != offset or len(fields[0]) != 8 or fields[2] != "n":
                    raise ValueError("no synset begins there")
                pointers = 4 + 2 * int(fields[3], 16)  # where their number stands, behind the words
                words = tuple(fields[4:pointers:2])
                found = [fields[at : at + 4] for at in range(pointers + 1, pointers + 1 + 4 * int(fields[pointers]), 4)]
                above = tuple(int(where) for symbol, where, kind, _ in found if symbol in HYPERNYM and kind == "n")
                self._known[offset] = Synset(offset, (words[0], *words[1:]), above)
        return self._known[offset]

    def way(self, offset: int) -> tuple[int, ...]:
        """Offsets from the top down to a synset; of several hypernyms the first counts, which WordNet lists for what a
        thing is (dog: canine) before what it serves as (domestic animal). Raises ``TaxonomyError`` if there is no top.
        """
        way = [offset]
        while above := self.synset(way[0]).above:
            if len(way) > MAX_CHAIN:
                raise TaxonomyError(f"The hypernyms of n{offset:08} have no top.", "Give WordNet's own files.")
            way.insert(0, above[0])
        return tuple(way)

    def find(self, leaves: Sequence[Node]) -> list[int]:
        """The synset of each class: its ``synset``, else the only sense of its name or label.

        Raises ``TaxonomyError``, naming the classes that have none or too many.
        """
        found, missing = [], []
        for leaf in leaves:
            if leaf.synset:
                if not _SYNSET.fullmatch(leaf.synset):
                    raise TaxonomyError(
                        f"The synset {shown(leaf.synset)} is no noun's.", "It should look like n01440764."
                    )
                found.append(int(leaf.synset[1:]))
                continue
            senses = next(filter(None, map(self.senses, (leaf.name, leaf.label))), ())
            found += senses[:1]
            if len(senses) != 1:
                meant = " or ".join(f"n{sense:08} {shown(self.synset(sense).words[-1])}" for sense in senses[:LISTED])
                missing.append(f"{shown(leaf.name)} ({meant or 'no such noun'})")
        if missing:
            rest = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
            raise TaxonomyError(
                f"WordNet does not say what is meant by {', '.join(missing[:LISTED])}{rest}.",
                "Give these classes their 'synset' in a taxonomy file.",
            )
        return found

    def senses(self, lemma: str) -> tuple[int, ...]:
        """Offsets of what a noun can mean, the most frequent first; () for one that is not there."""
        return self._senses.get(re.sub(r"[ \-_]+", "_", lemma.strip().lower()), ())

    @cached_property
    def _senses(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        with _understood(INDEX):
            for line in self._read(INDEX).decode("utf-8").splitlines():
                if line and not line.startswith(" "):  # the licence
                    fields = line.split()
                    found[re.sub("[-_]+", "_", fields[0])] = tuple(map(int, fields[-int(fields[2]) :]))
        return found

    def _read(self, name: str) -> bytes:
        try:
            with open(self._folder / name, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as cause:
            raise TaxonomyError(
                f"{shown(self._folder)} is no WordNet database: '{name}' cannot be read ({cause.strerror}).",
                "Give the folder with data.noun, such as /usr/share/wordnet of Debian's wordnet-base.",
            ) from cause
        if len(data) > MAX_FILE:
            raise TaxonomyError(f"'{name}' is larger than {MAX_FILE / 2**20:g} MiB.", "Give WordNet's own file.")
        return data


@contextmanager
def _understood(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError) as cause:  # UnicodeDecodeError is a ValueError
        raise TaxonomyError(
            f"The WordNet database does not make sense at {where}.", "ImageNet's synsets are those of WordNet 3.0."
        ) from cause
