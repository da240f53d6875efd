"""What a transfer rule sees of a node, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..graph import Model, Node, Shape, Tensor
from .demand import Demand, Who


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


@dataclass(frozen=True)
class Answer:
    """``asks[i]`` is the demand on input i; ``kept[j]``, at least what was wanted, is what output j will hold.

    ``stopped`` says why the demand was widened to everything, "" if it was not.
    """

    asks: tuple[Demand | None, ...]
    kept: tuple[Demand | None, ...]
    stopped: str = ""


Wanted = Sequence[Demand | None]
"""The demand on each output of a node; at least one is not None."""


@dataclass
class Draft:
    """The node as it will stand in the expert; a rule's ``write`` edits it.

    ``inputs`` are new tensors that hold exactly ``answer.asks``; ``alias`` (an input's position) replaces the node by
    its input.
    """

    op: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[str]  # names of the outputs that are still there, "" for one nobody wants
    constants: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)  # inputs to be replaced by these values
    alias: int | None = None


Ask = Callable[[Site, Wanted], Answer]
Write = Callable[[Site, Answer, Draft], None]


def unchanged(site: Site, answer: Answer, draft: Draft) -> None:
    """The ``write`` of operators that need no change beyond smaller inputs."""


@dataclass(frozen=True)
class Rule:
    """The transfer rule of an operator."""

    ask: Ask
    write: Write = unchanged


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
