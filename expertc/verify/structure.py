"""Structure: every node of the expert comes from the full model, and reads what it read there.

This walks both graphs from the image on, by names and contents, and knows nothing of the demand analysis. What it
cannot see is *which* rows of a weight were taken: the scores show that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from ..card import Card
from ..graph import Constant, Graph, Model, Node, Shape, Tensor
from ..surgery.inputs import default_values
from ..surgery.rewrite import CUT_MARK, FILLED_MARK
from ..text import shown
from .branches import as_model, idle, scope_of
from .certificate import Mismatch
from .views import View
from .weights import is_part
from .zeros import Unread, unread

MOVERS = ("Concat", "Split", "Slice", "Gather", "Identity")
"""Operators that put rows together or take them out: a cut may make them smaller until nothing is left of them."""

Array = np.ndarray[Any, Any]

# Inputs that say where rows are, or how many; a cut writes them anew.
_COUNTING: Mapping[str, tuple[int, ...]] = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Pad": (1,),
    "Slice": (1, 2, 3, 4),
    "Gather": (1,),
    "Split": (1,),
    "Squeeze": (1,),
    "Resize": (3,),
}
_COUNTING_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "Conv": ("group",),
    "ConvTranspose": ("group",),
    "ConvInteger": ("group",),
    "QLinearConv": ("group",),
    "Split": ("split", "num_outputs"),
    "Reshape": ("allowzero",),
    "Squeeze": ("axes",),
    "GroupNormalization": ("num_groups",),
}
_INSERTED = re.compile(r"@\d+(\.\d+)*$")  # how the cut names the selections it puts between two nodes
_SUFFIX = re.compile(r"@(\d+|whole)(\.\d+)*$")


@dataclass(frozen=True)
class Trace:
    """Where an expert comes from.

    Args:
        twins: positions of the full model's nodes that the expert has.
        weights: names of the full model's initializers that the expert has, whole or in part.
        sliced: how many of these are there in part.
        reshaped: how many nodes work on smaller tensors than in the full model (or on fewer groups), so that the
            runtime may pick another kernel for them.
        unread: for products of the full model, what they multiply with zeros and the expert does not have.
    """

    twins: frozenset[int]
    weights: frozenset[str]
    sliced: int
    reshaped: int
    unread: Mapping[int, Unread] = field(default_factory=dict)


def trace(full: Model, cut: Model, views: Sequence[View], card: Card, indices: Sequence[int]) -> Trace:
    """Find the counterpart of every node of ``cut`` in ``full``. Raises ``Mismatch`` naming the first that has none.

    ``card`` is the full model's, ``indices`` are the selected classes.
    """
    shapes, gone = dict(full.inputs), {}
    for control in card.controls:
        if control.per_class:
            shapes[control.name] = (len(indices), *full.inputs[control.name][1:])
            gone[control.name] = np.delete(default_values(full, control.name, control.default), list(indices), axis=0)
    return _Tracer(full, cut, views, shapes, gone).run()


@dataclass
class _Tracer:
    full: Model
    cut: Model
    views: Sequence[View]
    inputs: Mapping[str, Shape] = field(default_factory=dict)  # the expert's
    gone: Mapping[str, Array] = field(default_factory=dict)  # of controls, the defaults of classes that are gone
    shows: dict[str, str] = field(default_factory=dict)  # tensor of the expert -> the full model's it is (a part of)
    twins: dict[int, int] = field(default_factory=dict)  # full -> expert
    pairs: dict[tuple[str, str], bool] = field(default_factory=dict)  # initializers compared: whether it is sliced
    reshaped: int = 0
    unread: dict[int, Unread] = field(default_factory=dict)
    outer: _Tracer | None = None  # of the graph around a branch
    scope: str = ""  # of the weights in this branch

    def run(self) -> Trace:
        self._compare_faces()
        self.shows.update((name, name) for name in self.full.inputs)
        self._walk()
        for view in self.views:
            if not self._leads(self.shows.get(view.output, ""), view.source):
                raise Mismatch("structure", f"The output {shown(view.output)} shows something else than it should.")
        weights = frozenset(whole for _, whole in self.pairs)
        return Trace(frozenset(self.twins), weights, sum(self.pairs.values()), self.reshaped, self.unread)

    def _walk(self) -> None:
        for at, node in enumerate(self.cut.nodes):
            if self._is_selection(node):
                self.shows[node.outputs[0].name] = self.shows[node.inputs[0].name]
            else:
                self._pair(at, node)

    def _is_branch(self, one: Graph, other: Graph, scope: str) -> bool:
        """Whether ``one`` of the expert is (a part of) the branch ``other`` of the full model's If."""
        full, cut = as_model(self.full, other, scope), as_model(self.cut, one, scope)
        mine, theirs = idle(one, cut, scope), idle(other, full, scope)
        if not mine.items() <= theirs.items():
            return False
        inner = _Tracer(full, cut, (), shows=dict(self.shows), pairs=self.pairs, outer=self, scope=scope)
        try:
            inner._walk()
        except Mismatch:
            return False
        ends = {tensor.name: tensor for tensor in inner.full.graph.outputs}
        self.reshaped += inner.reshaped
        return all(
            tensor.name in ends and (inner._reads(tensor, ends[tensor.name], False) or tensor.name in inner.shows)
            for tensor in inner.cut.graph.outputs
        )

    def _compare_faces(self) -> None:
        full, cut = self.full, self.cut
        for what, one, other in (
            ("operator set", full.opset, cut.opset),
            ("IR version", full.ir_version, cut.ir_version),
            ("inputs", self.inputs, cut.inputs),
            ("output names", [view.output for view in self.views], list(cut.outputs)),
        ):
            if one != other:
                raise Mismatch("structure", f"The expert's {what} differ from the full model's.")

    def _is_selection(self, node: Node) -> bool:
        """Whether the cut put this node in: it takes rows of a tensor, or gives one the name that somebody reads."""
        if not node.inputs or node.inputs[0].name not in self.shows:
            return False
        if node.op == "Identity":
            name = node.outputs[0].name
            return name in self.cut.outputs or self._leads(self.shows[node.inputs[0].name], name)
        if node.op == "Concat":
            return self._is_filling(node)
        taking = node.op in ("Slice", "Gather") and bool(_INSERTED.search(node.name))
        return taking and all(isinstance(tensor, Constant) for tensor in node.inputs[1:])

    def _is_filling(self, node: Node) -> bool:
        """Whether the cut put the defaults of classes that are gone beside a control."""
        name, *rest = (tensor.name for tensor in node.inputs)
        beside = node.inputs[-1]
        return (
            name in self.gone
            and node.name.startswith(f"{name}{FILLED_MARK}")
            and node.attrs.get("axis") == 0
            and len(rest) == 1
            and isinstance(beside, Constant)
            and is_part(np.asarray(beside.values), self.gone[name])
        )

    def _pair(self, at: int, node: Node) -> None:
        """Find the node's counterpart, and remember which tensors its outputs are."""
        problem = ""
        for twin in self._candidates(node):
            found = self._difference(at, node, twin)
            if found is None:
                self._accept(at, node, twin)
                return
            problem = problem or found
        if not problem:
            problem = f"The expert's node {_where(node)} is not in the full model."
        raise Mismatch("structure", problem)

    def _candidates(self, node: Node) -> list[int]:
        """Nodes of the full model that make a tensor of the same name; below an output, where the cut renames what is
        left of a Concat, also those that only rearranging separates from it."""
        names = [_SUFFIX.sub("", t.name) if t.name not in self.full.producers else t.name for t in node.outputs]
        names += [t for view in self.views for t in self._upstream(view.source) if view.output in names]
        found = dict.fromkeys(self.full.producers[name] for name in names if name in self.full.producers)
        same = [at for at in found if at not in self.twins and self.full.nodes[at].op == node.op]
        return [at for at in same if (self.full.nodes[at].domain or "") == (node.domain or "")]

    def _difference(self, at: int, node: Node, twin: int) -> str | None:
        """What the node does otherwise than its counterpart, as a sentence; None if nothing."""
        other = self.full.nodes[twin]
        free = _COUNTING_ATTRIBUTES.get(node.op, ())
        for name in sorted({*node.attrs, *other.attrs} - set(free)):
            mine, theirs = node.attrs.get(name), other.attrs.get(name)
            if isinstance(mine, Graph) and isinstance(theirs, Graph) and node.op == "If":
                same = self._is_branch(mine, theirs, scope_of(self.scope, twin, name))
            else:
                same = name in node.attrs and name in other.attrs and _same(mine, theirs)
            if not same:
                return f"The expert's node {_where(node)} differs from the full model's in '{name}'."
        if node.metadata != other.metadata:
            return f"The expert's node {_where(node)} carries other metadata than the full model's."
        if node.op == "Concat":
            rest = iter(other.inputs)
            unread = [x for x in node.inputs if not any(self._reads(x, y, False) for y in rest)]
        else:
            counting = _COUNTING.get(node.op, ())
            both = enumerate(zip_longest(node.inputs, other.inputs))
            unread = [x or y for position, (x, y) in both if not self._reads(x, y, position in counting)]
        if unread:
            return f"The expert's node {_where(node)} reads something else at {shown(unread[0].name)}."
        return None

    def _reads(self, x: Tensor | None, y: Tensor | None, counting: bool) -> bool:
        """Whether ``x`` of the expert is (a part of) ``y`` of the full model."""
        if counting and isinstance(x, Constant):
            return np.issubdtype(x.dtype, np.integer)
        if x is None or y is None or not x.name or not y.name:
            return (x is None or not x.name) and (y is None or not y.name)
        if isinstance(x, Constant) and isinstance(y, Constant):
            return self._is_weight(x, y)
        if isinstance(x, Constant) or isinstance(y, Constant):
            return False
        return x.name in self.shows and self._leads(self.shows[x.name], y.name)

    def _is_weight(self, x: Constant, y: Constant) -> bool:
        if (x.name, y.name) in self.pairs:
            return True
        # What branches share stands outside them in the full model, and in each of the expert's.
        mine, theirs = (t.name.removeprefix(self.scope).partition(CUT_MARK)[0] for t in (x, y))
        named = mine == theirs
        if not named or not is_part(np.asarray(x.values), np.asarray(y.values)):
            return False
        self.pairs[x.name, y.name] = tuple(x.shape) != tuple(y.shape)
        return True

    def _accept(self, at: int, node: Node, twin: int) -> None:
        self.twins[twin] = at
        other = self.full.nodes[twin]
        left = [tensor.name for tensor in other.outputs if tensor.name]
        for tensor in node.outputs:
            if tensor.name:
                name = _SUFFIX.sub("", tensor.name) if tensor.name not in left else tensor.name
                self.shows[tensor.name] = name if name in left else left[0]
        for position, (x, y) in enumerate(zip(node.inputs, other.inputs, strict=False)):
            if isinstance(x, Constant) and isinstance(y, Constant) and self.pairs.get((x.name, y.name)):
                found = unread(node, x.values, y.values, position)
                self.unread |= {} if found is None else {twin: found}
        smaller = any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for x, y in zip(node.outputs, other.outputs, strict=False)
            for a, b in zip(self._shape(self.cut, x), self._shape(self.full, y), strict=False)
        )
        fewer = node.attrs.get("group", 1) != other.attrs.get("group", 1)
        self.reshaped += node.op not in MOVERS and (smaller or fewer)

    @staticmethod
    def _shape(model: Model, tensor: Tensor) -> Shape:
        return model.shapes.get(tensor.name, ())

    def _leads(self, tensor: str, to: str) -> bool:
        """Whether nothing but rearranging lies between ``tensor`` and ``to`` in the full model."""
        return tensor == to or tensor in self._upstream(to)

    def _upstream(self, name: str) -> list[str]:
        """``name`` and every tensor of the full model that it is made of by rearranging alone, nearest first."""
        found = {name: None}
        queue = [name]
        for tensor in queue:
            at = self.full.producers.get(tensor)
            if at is not None and self.full.nodes[at].op in MOVERS:
                read = [t.name for t in self.full.nodes[at].inputs if t.name]
            else:
                read = self.outer._upstream(tensor) if at is None and self.outer else []
            new = [name for name in read if name not in found]
            found.update(dict.fromkeys(new))
            queue += new
        return queue


def _where(node: Node) -> str:
    return f"{shown(node.name or node.outputs[0].name)} ({shown(node.op)})"


def _same(one: Any, other: Any) -> bool:
    """Equality of attribute values: numbers, text, lists, tensors, subgraphs."""
    if isinstance(one, Graph) and isinstance(other, Graph):
        names = [[t.name for t in (*graph.inputs, *graph.outputs)] for graph in (one, other)]
        return names[0] == names[1] and len(one.nodes) == len(other.nodes) and all(map(_same, one.nodes, other.nodes))
    if isinstance(one, Node) and isinstance(other, Node):
        return (one.op, one.domain, [t.name for t in one.outputs]) == (
            other.op, other.domain, [t.name for t in other.outputs],
        ) and _same(dict(one.attrs), dict(other.attrs)) and _same(list(one.inputs), list(other.inputs))  # fmt: skip
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Constant) and isinstance(other, Constant):
        return one.name == other.name and _same(np.asarray(one.values), np.asarray(other.values))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return bool(one.name == other.name)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return type(one) is type(other) and bool(one == other)
