"""What a transfer rule sees of a node, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..graph import Model, Node, Shape, Tensor, Variable, symbol_source
from .demand import Demand, Who

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Site:
    """A node in its model: shapes, constants, attributes."""

    model: Model
    at: int  # position in model.nodes
    node: Node

    @property
    def op(self) -> str:
        """The operator's name."""
        return str(self.node.op)

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set."""
        return self.model.opset

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, "" for one that is left out."""
        return [tensor.name for tensor in self.node.inputs]

    def has(self, index: int) -> bool:
        """Whether the optional input ``index`` is there."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def shape(self, index: int) -> Shape | None:
        """Shape of an input, if it is known."""
        return self.model.shapes.get(self.node.inputs[index].name) if self.has(index) else None

    def out_shape(self, index: int = 0) -> Shape | None:
        """Shape of an output, if it is known."""
        return self.model.shapes.get(self.node.outputs[index].name)

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """Values of an input that is an initializer."""
        return self.model.value(self.node.inputs[index].name) if self.has(index) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or ``default``."""
        return self.node.attrs.get(name, default)

    def axis(self, value: int, rank: int) -> int:
        """A possibly negative axis as a position. Raises ``IndexError`` for one that the tensor does not have."""
        return range(rank)[value]


class Answer(NamedTuple):
    """``asks[i]`` is the demand on input i; ``kept[j]``, at least what was wanted, is what output j will hold.

    ``stopped`` says why the demand was widened to everything, "" if it was not. ``inner`` are the subgraphs that were
    looked into, by attribute: each is to be written anew, and ``captured`` is what they need of the tensors outside.
    """

    asks: tuple[Demand | None, ...]
    kept: tuple[Demand | None, ...]
    stopped: str = ""
    inner: Mapping[str, Inner] = _NOTHING
    captured: Mapping[str, Demand] = _NOTHING


@dataclass(frozen=True)
class Flow:
    """The outcome of a sweep: an answer per node (None: nobody needs it) and the demand that reached every tensor.

    ``held`` is what the expert's nodes find of a graph input, if that is not all of it.
    """

    answers: tuple[Answer | None, ...]
    demands: Mapping[str, Demand]
    through: frozenset[int]
    held: Mapping[str, Demand] = field(default_factory=dict)

    def kept(self, model: Model, name: str) -> Demand:
        """What tensor ``name`` will hold: its maker's answer, or everything for most inputs and initializers."""
        at = model.producers.get(name)
        if at is None:
            return self.held.get(name) or Demand(self.demands[name].who)
        answer = self.answers[at]
        position = [tensor.name for tensor in model.nodes[at].outputs].index(name)
        kept = None if answer is None else answer.kept[position]
        if kept is None:
            raise KeyError(name)
        return kept


@dataclass(frozen=True)
class Inner:
    """A subgraph as a model of its own, whose inputs are the tensors it captures."""

    model: Model
    flow: Flow
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Result:
    """An output that is to be written: its name, and what of which tensor it shows."""

    name: str
    source: str
    want: Demand


Wanted = Sequence[Demand | None]
"""The demand on each output of a node; at least one is not None."""


class Maker(Protocol):
    """What a rule may ask of whoever writes the expert, when one node is not enough."""

    def emit(self, op: str, name: str, attrs: dict[str, Any], inputs: Sequence[Tensor]) -> Variable:
        """Write a node in front of the one being drafted; returns its output, called ``name``."""

    def sizes(self, dims: Shape, name: str) -> Tensor:
        """A vector of sizes; symbols are read off the graph input that has them, at run time."""


@dataclass
class Draft:
    """The node as it will stand in the expert; a rule's ``write`` edits it.

    ``inputs`` are new tensors that hold exactly ``answer.asks``; ``alias`` (an input's position) replaces the node by
    its input.
    """

    make: Maker

    op: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[str]  # names of the outputs that are still there, "" for one nobody wants
    constants: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)  # inputs to be replaced by these values
    alias: int | None = None


Ask = Callable[[Site, Wanted], Answer]
Write = Callable[[Site, Answer, Draft], None]


def readable(model: Model, dims: Shape) -> bool:
    """Whether every size is a number or a symbol of a graph input."""
    return all(isinstance(dim, int) or symbol_source(model, dim) is not None for dim in dims)


def unchanged(site: Site, answer: Answer, draft: Draft) -> None:
    """The ``write`` of operators that need no change beyond smaller inputs."""


@dataclass(frozen=True)
class Rule:
    """The transfer rule of an operator.

    ``plain`` says that an output wanted as a whole needs every input as a whole, as with most operators: then nobody
    need ask, which in a network of many branches is most of the time.
    """

    ask: Ask
    write: Write = unchanged
    plain: bool = False


def everyone(wanted: Wanted) -> Who:
    """Everybody who wants any output."""
    found: Who | None = None
    for item in wanted:
        if item is not None:
            found = item.who if found is None else found | item.who
    if found is None:
        raise ValueError("a node nobody wants has no demand")
    return found


def opaque(site: Site, wanted: Wanted, why: str = "") -> Answer:
    """Ask for everything and keep everything: right for any operator."""
    whole = Demand(everyone(wanted))
    partial = any(item is not None and item.marks for item in wanted)
    asks = tuple(whole if site.has(i) else None for i in range(len(site.node.inputs)))
    kept = tuple(whole if item is not None else None for item in wanted)
    return Answer(asks, kept, (why or f"no rule for {site.op}") if partial else "")
