"""Who needs what: the branches of a network, found by one sweep with a bit set of classes per tensor.

Every weight element and every multiplication is needed by some set of classes. A *branch* is everything that one set,
smaller than "all classes", needs; it is named after the taxonomy node with exactly those classes. So branches are
found in anybody's model, whether they are separate modules or the groups of one convolution.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..card import Card
from ..graph import Constant, Model, Shape
from ..graph.cost import Cost, cost, for_one_image, inside, macs, trained
from .demand import Demand, Who, demand, join, shares
from .outputs import class_softmax, score_source
from .site import Flow
from .sweep import sweep


@dataclass(frozen=True)
class Branch:
    """What exactly the classes ``indices`` need together: ``name`` is the taxonomy's, or "" if it has none."""

    name: str
    indices: tuple[int, ...]
    cost: Cost
    nodes: int


@dataclass(frozen=True)
class Ownership:
    """The trunk (needed by every class) and the branches, largest class sets first.

    ``stopped`` counts the reasons for which a demand had to be widened to everything.
    """

    trunk: Branch
    branches: tuple[Branch, ...]
    stopped: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> Branch:
        """Everything."""
        parts = (self.trunk, *self.branches)
        costs = sum((part.cost for part in self.branches), self.trunk.cost)
        return Branch("", self.trunk.indices, costs, sum(part.nodes for part in parts))

    def kept(self, indices: Iterable[int]) -> tuple[Branch, ...]:
        """The branches that an expert for ``indices`` holds."""
        wanted = set(indices)
        return tuple(branch for branch in self.branches if wanted.intersection(branch.indices))


def ownership(model: Model, card: Card, without: Collection[str] = ()) -> Ownership:
    """Divide the cost of ``model`` among the sets of classes that need it, but for what only ``without`` need.

    These are outputs that nobody asks for.
    """
    count = len(card.classes)
    model = for_one_image(model)
    flow = needs(model, card, without)
    everyone = (1 << count) - 1
    ledger = _Ledger()
    ledger.enter(model, flow, dict.fromkeys(model.constants, ""))
    spent = ledger.spent
    found = [_branch(card, who, numbers) for who, numbers in spent.items()]
    trunk = next((b for b in found if len(b.indices) == count), Branch("trunk", tuple(range(count)), Cost(0, 0, 0), 0))
    if everyone not in spent:
        found.append(trunk)
    rest = sorted((b for b in found if b is not trunk), key=lambda b: (-len(b.indices), b.indices))
    stopped = Counter(answer.stopped for answer in flow.answers if answer is not None and answer.stopped)
    return Ownership(trunk, tuple(rest), tuple(sorted(stopped.items())))


def needs(model: Model, card: Card, without: Collection[str] = ()) -> Flow:
    """Who needs what of every tensor, the classes of ``card`` as bits of an integer; none the outputs ``without``."""
    return sweep(model, *_seeds(model, card, without))


def members(bits: int) -> Iterator[int]:
    """The positions of the bits that are set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _seeds(model: Model, card: Card, without: Collection[str]) -> tuple[dict[str, Demand], frozenset[int]]:
    """Class i asks for row i of all scores and for columns that are about it; all ask for every other output."""
    everyone = (1 << len(card.classes)) - 1
    outputs = [output for output in card.outputs if output.name not in without]
    known = {*without, *(output.name for output in outputs)}
    seeds = {name: Demand(everyone) for name in model.outputs if name not in known}
    for name, columns in card.columns.items():
        if name in without:
            continue
        bits = np.array([sum(1 << i for i in classes) for classes in columns], dtype=object)
        seeds[name] = demand(everyone, {1: bits}) or Demand(everyone)
    through: set[int] = set()
    for output in outputs:
        source = score_source(model, output.name)
        marks = np.array([1 << i for i in range(len(card.classes))], dtype=object)
        item = join((seeds.get(source), demand(everyone, {output.axis: marks})))
        if item is not None:
            seeds[source] = item
        softmax = class_softmax(model, source, output.axis)
        if softmax is not None:
            through.add(softmax)
    return seeds, frozenset(through)


class _Ledger:
    """What every set of classes has run up: parameters, MACs, bytes, nodes."""

    def __init__(self) -> None:
        self.spent: dict[Who, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._weighed: set[tuple[str, str]] = set()

    def enter(self, model: Model, flow: Flow, scopes: Mapping[str, str], scope: str = "", *, runs: bool = True) -> None:
        """Charge a graph to those who need it; ``runs`` says whether its MACs count.

        ``scopes`` are the graphs that weights belong to, by name, and ``scope`` is this graph's: neighbouring branches
        may use one name for different weights, and read one from outside that is to be weighed once.
        """
        for at, (node, answer) in enumerate(zip(model.nodes, flow.answers, strict=True)):
            owner = None if answer is None else next(filter(None, answer.kept), None)
            if answer is None or owner is None:
                continue
            if not scope:
                self.spent[owner.who][3] += 1
            for position, constant in trained(node):
                self._spread(0, prod(constant.shape), answer.asks[position], constant.shape)
            total = macs(model, node) if runs else 0
            if total:
                self._spread(1, total, owner, model.shapes.get(node.outputs[0].name, ()))
            for tensor in node.inputs:
                if isinstance(tensor, Constant):
                    weight = scopes[tensor.name], tensor.name
                    if weight not in self._weighed:
                        self._weighed.add(weight)
                        self._spread(2, tensor.nbytes, flow.demands.get(tensor.name), tensor.shape)
            if not node.has_graphs:
                continue
            heaviest = max(answer.inner, key=lambda name: cost(answer.inner[name].model).macs, default="")
            for name, inner in answer.inner.items():
                place = f"{scope}/{at}.{name}"
                known = {**dict.fromkeys(inner.model.constants, place), **scopes}
                self.enter(inner.model, inner.flow, known, place, runs=runs and name == heaviest)
            if not answer.inner:
                spent = inside(model, node)
                for column, amount in enumerate((spent.parameters, spent.macs if runs else 0, spent.weight_bytes)):
                    self.spent[owner.who][column] += amount

    def _spread(self, column: int, amount: int, item: Demand | None, shape: Shape) -> None:
        """Charge ``amount``, of which every element of a tensor has the same part, to those who need the elements."""
        if item is not None and not item.marks:
            self.spent[item.who][column] += amount
        elif item is not None:
            sizes = [dim if isinstance(dim, int) else 1 for dim in shape]
            for who, elements in shares(item, sizes).items():
                self.spent[who][column] += elements * amount // prod(sizes)


def _branch(card: Card, who: Who, numbers: list[int]) -> Branch:
    indices = tuple(members(int(who)))
    whole = len(indices) == len(card.classes)
    node = None if whole else card.taxonomy.owner(indices)
    name = "trunk" if whole else node.name if node is not None else ""
    return Branch(name, indices, Cost(*numbers[:3]), numbers[3])
