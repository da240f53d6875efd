"""Early exits: classifiers along a network, of which the first that is sure enough answers, finely or coarsely.

An exit has logits over the classes (*fine*), over the categories above them (*coarse*), or both. Here is what a model
card says of them, and what is left of it for a selection; ``exit_rule`` says which exit answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import CardError, UsageError
from .preprocessing import required
from .taxonomy import Taxonomy
from .text import shown

THRESHOLD, TOLERANCE = "threshold", "tolerance"
"""Inputs of a driven graph: ``[exits - 1]``, the entropy in nats below which an early exit answers, and ``[1]``."""
SCORES, COARSE, GRANULARITY, EXIT = "scores", "coarse", "granularity", "exit"
"""Its outputs: ``[N, classes]``, ``[N, categories]``, int64 ``[N]`` (0 coarse, 1 fine), int64 ``[N]`` from 1."""
_FACE = (THRESHOLD, TOLERANCE, SCORES, COARSE, GRANULARITY, EXIT)

DEFAULT_THRESHOLD, DEFAULT_TOLERANCE = 0.5, 0.5  # nats; the defaults of the authors' code, for both networks
MAX_EXITS = 24  # protobuf nests 100 messages, of which a graph in a graph takes three
SURELY = 1.01  # times its bound: what no entropy reaches, rounded to single precision as graphs compute it
MAX_SETTING = 1e30  # what an input of a graph can hold; 7 nats are the entropy of a thousand classes
_KEYS = ["categories", "exits", "semantic", "strict_coarse", "driven", "thresholds", "tolerance", "frozen", "of"]


@dataclass(frozen=True)
class Exit:
    """The tensors with an exit's logits: ``fine`` ``[N, classes]``, ``coarse`` ``[N, categories]``, or both."""

    fine: str | None = None
    coarse: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(name for name in (self.fine, self.coarse) if name is not None)


@dataclass(frozen=True)
class Exits:
    """The exits of a network.

    Args:
        categories: nodes of the taxonomy, the columns of every coarse tensor; none if no exit is coarse.
        exits: in running order; the last always answers.
        semantic: ``[N, 2]`` of an AG-HBN, known at the first exit: coarse or fine, for the whole run.
        strict_coarse: the condition of the authors' code that their Algorithm 1 does not have: an early coarse answer
            also needs ``H_coarse < H_fine - tolerance``.
        driven: whether the rule is in the graph: it has the outputs named above, and the tensors are inside it.
        thresholds: nats, of each exit but the last, if nothing else is said when it runs; all ``DEFAULT_THRESHOLD``
            where none is given. Frozen, the last may have one too: it then answers finely only below that.
        tolerance: by how many nats fine answers are favoured; likewise.
        frozen: whether these never change, so that an expert needs no exit that cannot answer.
        of: the column of each class's category, () if nobody has looked it up (``placed``); a card does.

    Raises ``CardError`` for values that make no sense.
    """

    categories: tuple[str, ...]
    exits: tuple[Exit, ...]
    semantic: str | None = None
    strict_coarse: bool = False
    driven: bool = False
    thresholds: tuple[float, ...] = ()
    tolerance: float = DEFAULT_TOLERANCE
    frozen: bool = False
    of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.exits or len(self.exits) > MAX_EXITS or not all(one.names for one in self.exits):
            raise CardError("The card has no exits, too many, or one without logits.", f"Give 1 to {MAX_EXITS}.")
        if not all(isinstance(name, str) and name for name in (*self.tensors, *self.categories)):
            raise CardError("A tensor of an exit, or a category, has no name.", "Write those of graph and taxonomy.")
        if set(self.tensors) & {*_FACE}:
            raise CardError(f"A tensor of an exit is called like one of {', '.join(_FACE)}.", "Call it otherwise.")
        if len(set(self.tensors)) < len(self.tensors) or len(set(self.categories)) < len(self.categories):
            raise CardError("The card names a tensor of the exits, or a category, twice.", "Name each once.")
        if not any(one.fine for one in self.exits):
            raise CardError("No exit answers with a class.", "Give one its fine logits.")
        if bool(self.categories) != any(one.coarse for one in self.exits):
            raise CardError("Coarse logits need categories, and categories coarse logits.", "Name both or neither.")
        if self.semantic is not None and not all(one.fine and one.coarse for one in self.exits):
            raise CardError("An exit cannot be told which answer to give.", "Give every exit fine and coarse logits.")
        early = len(self.exits) - 1
        given = self.thresholds or (DEFAULT_THRESHOLD,) * early
        surplus = len(given) - early
        if surplus not in (0, self._last_has_limit) or not all(map(_is_setting, (*given, self.tolerance))):
            raise CardError(
                f"The card has no sound thresholds and tolerance for {early} early exits.",
                f"Give a number of nats for each, up to {MAX_SETTING:g}.",
            )
        object.__setattr__(self, "thresholds", tuple(map(float, given)))
        object.__setattr__(self, "tolerance", float(self.tolerance))

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every tensor of the exits, in running order; the one that decides the granularity first."""
        beside = () if self.semantic is None else (self.semantic,)
        return (*beside, *(name for one in self.exits for name in one.names))

    @property
    def fine(self) -> tuple[str, ...]:
        """The tensors with logits over the classes as a card lists them: the last exit's first."""
        found = [one.fine for one in self.exits if one.fine is not None]
        last = self.exits[-1].fine
        return tuple(found if last is None else [last, *found[:-1]])

    @property
    def beside(self) -> dict[str, int]:
        """How many columns each graph output has that is not over the classes."""
        if self.driven:
            return {COARSE: len(self.categories)} if self.categories else {}
        found = {one.coarse: len(self.categories) for one in self.exits if one.coarse is not None}
        return found if self.semantic is None else {self.semantic: 2, **found}

    @property
    def compares(self) -> bool:
        """Whether an exit weighs its two answers against each other, and so looks at the tolerance."""
        return any(map(self._weighs, self.exits))

    def _weighs(self, one: Exit) -> bool:
        return self.semantic is None and len(one.names) == 2

    @property
    def _last_has_limit(self) -> bool:
        """Whether the last exit may have a threshold, below which alone it answers finely."""
        return self.frozen and self._weighs(self.exits[-1])

    @property
    def settings(self) -> dict[str, tuple[float, ...]]:
        """What can be set, by the names of a driven graph's inputs, and to what."""
        found = {THRESHOLD: self.thresholds} if self.thresholds else {}
        return found | ({TOLERANCE: (self.tolerance,)} if self.compares else {})

    def with_settings(self, values: Mapping[str, Sequence[float]]) -> Exits:
        """With what ``values`` says by those names."""
        tolerance = values.get(TOLERANCE, (self.tolerance,))[0]
        return replace(self, thresholds=tuple(values.get(THRESHOLD, self.thresholds)), tolerance=tolerance)

    def merged(self, own: Exits, values: Mapping[str, Sequence[float]]) -> Exits:
        """With the settings that an expert with the exits ``own`` of these has been given; others keep theirs."""
        given = own.with_settings(values)
        mine = {name: value for one, value in zip(own.exits, given.thresholds, strict=False) for name in one.names}
        thresholds = [
            next((mine[name] for name in one.names if name in mine), value)
            for one, value in zip(self.exits, self.thresholds, strict=False)
        ]
        return replace(self, thresholds=tuple(thresholds), tolerance=given.tolerance)

    # -- against the taxonomy ------------------------------------------------------------------------------------------

    def placed(self, taxonomy: Taxonomy) -> Exits:
        """With the category of each class. Raises ``CardError`` if a class has none, or another than ``of`` says."""
        if not self.categories:
            found: tuple[int, ...] = ()
        else:
            columns = {name: column for column, name in enumerate(self.categories)}
            paths = [taxonomy.path(name) for name in taxonomy.classes]
            if any(len(path) != 2 for path in paths) or {path[0] for path in paths} != columns.keys():
                raise CardError(
                    "The categories of the exits are not those right above the classes, of two levels in all.",
                    "Name each of them once, and give every class one.",
                )
            found = tuple(columns[path[0]] for path in paths)
        if self.of not in ((), found):
            raise CardError("The card puts a class under two categories.", "Export the model again.")
        return replace(self, of=found)

    def kept(self, taxonomy: Taxonomy, indices: Iterable[int]) -> tuple[int, ...]:
        """The columns of the categories that have any of the classes ``indices``; none if they have but one."""
        wanted = set(indices)
        named = enumerate(self.categories)
        found = tuple(at for at, name in named if wanted.intersection(taxonomy.by_name[name].leaves))
        return found if len(found) > 1 else ()

    def restrict(self, taxonomy: Taxonomy, indices: Iterable[int]) -> Exits:
        """The exits of the expert for these classes; ``taxonomy`` is that of the model it is cut from.

        Those that say something of them (``telling``), and where thresholds are frozen may ever answer (``reachable``).
        """
        indices = tuple(indices)
        cut = self.telling(taxonomy, indices)
        return cut.reachable(len(set(indices))) if cut.frozen else cut

    def telling(self, taxonomy: Taxonomy, indices: Iterable[int]) -> Exits:
        """The exits that say something of these classes, whatever the thresholds are.

        A granularity with one label says nothing: it goes, and with it exits that had no other. Where one class is left
        the first exit is sure.
        """
        indices = sorted(set(indices))
        columns = self.kept(taxonomy, indices)
        left = [at for at, one in enumerate(self.exits) if columns or one.fine]
        return self._only(left[:1] if len(indices) == 1 else left, columns, len(indices))

    def reachable(self, classes: int) -> Exits:
        """The exits that may ever answer among ``classes``, if the thresholds are as they stand and never change.

        An entropy lies between 0 and the logarithm of how many labels there are. An exit whose threshold is not above 0
        never answers; one that always does is the last, and the others go. It keeps its threshold if that may yet make
        an answer coarse. Some exit that knows classes is left in any case.
        """
        left: list[int] = []
        last = len(self.exits) - 1
        for at, one in enumerate(self.exits):
            limit = self.thresholds[at] if at < len(self.thresholds) else math.inf
            if limit > 0 or at == last:
                left.append(at)
            if self._always(one, limit, classes):
                break
        if not any(self.exits[at].fine for at in left):
            return self
        return self._only(left, range(len(self.categories)), classes)

    def _always(self, one: Exit, limit: float, classes: int) -> bool:
        """Whether an early exit with this threshold answers whatever its logits are.

        Where two answers are weighed and neither is sure, the run goes on; so it is enough that the coarse one always
        is. With ``strict_coarse`` an exit may be sure of both and like neither. With a semantic branch either of the
        two may be the one that counts.
        """
        if self._weighs(one):
            return not self.strict_coarse and limit > SURELY * math.log(len(self.categories))
        sizes = (classes if one.fine else 0, len(self.categories) if one.coarse else 0)
        return limit > SURELY * math.log(max(sizes))

    def _binds(self, limit: float, classes: int) -> bool:
        """Whether a threshold keeps a last exit of two answers from a fine one that it would give without.

        It gives one if the fine entropy is below the coarse one and the tolerance: so never far above both bounds.
        """
        favoured = math.log(len(self.categories)) + max(self.tolerance, 0.0)
        return limit <= SURELY * min(math.log(classes), favoured)

    def _only(self, left: Sequence[int], columns: Sequence[int], classes: int) -> Exits:
        """These exits and these columns of categories, for that many classes."""
        exits = tuple(self.exits[at] if columns else Exit(self.exits[at].fine) for at in left)
        coarse = any(one.coarse for one in exits)
        cut = replace(
            self,
            categories=tuple(self.categories[column] for column in columns) if coarse else (),
            exits=exits,
            semantic=self.semantic if coarse else None,
            thresholds=tuple(self.thresholds[at] for at in left[:-1]),
            of=(),
        )
        final = self.thresholds[left[-1] : left[-1] + 1]
        if final and cut._last_has_limit and cut._binds(final[0], classes):
            return replace(cut, thresholds=(*cut.thresholds, *final))
        return cut

    # -- JSON ----------------------------------------------------------------------------------------------------------

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "categories": list(self.categories),
            "exits": [{"fine": one.fine, "coarse": one.coarse} for one in self.exits],
            "semantic": self.semantic,
            "strict_coarse": self.strict_coarse,
            "driven": self.driven,
            "thresholds": list(self.thresholds),
            "tolerance": self.tolerance,
            "frozen": self.frozen,
            "of": list(self.of),
        }

    @classmethod
    def from_mapping(cls, data: Any) -> Exits | None:
        """Read what ``to_mapping`` returned, or None for a model without. Raises ``CardError``."""
        if data is None:
            return None
        found = dict(required(data, _KEYS, "The description of the exits"))
        lists = ("categories", "exits", "thresholds", "of")
        if not all(isinstance(found[key], list) for key in lists):
            raise CardError("The description of the exits has no list where one should be.", "Export the model again.")
        flags = [found[key] for key in ("strict_coarse", "driven", "frozen")]
        if not all(isinstance(flag, bool) for flag in flags) or not all(type(column) is int for column in found["of"]):
            raise CardError("The description of the exits has a value of a wrong type.", "Export the model again.")
        made = [Exit(**required(one, ["fine", "coarse"], "An exit")) for one in found.pop("exits")]
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        return cls(exits=tuple(made), **plain)


def two_levels(taxonomy: Taxonomy) -> tuple[str, ...]:
    """The categories of a taxonomy of two levels, in its order. Raises ``UsageError`` if it has more, or fewer."""
    if any(len(taxonomy.path(name)) != 2 for name in taxonomy.classes):
        raise UsageError(
            f"The network needs a taxonomy of two levels, and {shown(taxonomy.name)} is not one.",
            "Say levels = 2 in the recipe, or --levels 2: the classes and what is right above them.",
        )
    return tuple(node.name for node in taxonomy.roots)


def _is_setting(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_SETTING <= value <= MAX_SETTING
