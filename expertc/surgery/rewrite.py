"""The forward sweep: write the expert. Nodes nobody needs are gone, weights are sliced, shapes follow.

Canonical form, so that cutting twice is cutting once, as bytes: nodes keep their order, initializers their names; one
that is needed in two different cuts becomes ``NAME@cut-HASH`` of its content. Selections (ours, and the source's own
Slices and Gathers of ascending rows) are never copied: whoever reads one gets a new selection of the tensor below it,
merged with its own, or nothing where the tensor has already shrunk to the right rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..graph import Constant, Graph, Model, Node, Tensor, Variable, captured, fresh_name, refreshed
from .demand import Demand, covers
from .rules.pieces import is_selection
from .site import Answer, Draft, Site
from .sweep import Flow, rule_at

CUT_MARK = "@cut-"
WHOLE_MARK = "@whole"  # a tensor of which the graph output of that name shows only a part
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """A graph output of the expert: its name, and what of which tensor it shows."""

    name: str
    source: str
    want: Demand


def rewrite(model: Model, flow: Flow, results: Sequence[Result]) -> Model:
    """Write the part of ``model`` that ``flow`` needs, with ``results`` as its outputs, in order."""
    return _Writer(model, flow).write(results)


class _Writer:
    def __init__(self, model: Model, flow: Flow) -> None:
        self.model, self.flow = model, flow
        self.nodes: list[Node] = []
        self.inputs = [Variable(t.name, t.kind, t.shape) for t in model.graph.inputs]
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in self.inputs}  # by the old name
        self.made: dict[tuple[str, int, bytes], Variable] = {}  # selections
        self.constants: dict[tuple[str, tuple[tuple[int, bytes], ...]], Constant] = {}
        self.pinned = {name for node in model.nodes for name in captured(node)}  # a subgraph reads them by name
        self.selections = {
            tensor.name: at
            for at, node in enumerate(model.nodes)
            if flow.answers[at] is not None and is_selection(Site(model, at, node))
            for tensor in node.outputs
            if tensor.name not in self.pinned
        }
        # Only of nodes that stay: names of what goes would differ between a cut and a cut of a cut.
        live = [node for node, answer in zip(model.nodes, flow.answers, strict=True) if answer is not None]
        self.taken = {t.name for node in live for t in (*node.inputs, *node.outputs)} - self.selections.keys()

    def write(self, results: Sequence[Result]) -> Model:
        for at, answer in enumerate(self.flow.answers):
            if answer is not None and self.model.nodes[at].outputs[0].name not in self.selections:
                self._write_node(at, answer)
        outputs = [self._output(result) for result in results]
        self._name_constants()
        source = self.model.graph
        graph = Graph(self.nodes, self.inputs, outputs, source.name, source.opsets)
        return refreshed(replace(self.model, graph=graph))

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _write_node(self, at: int, answer: Answer) -> None:
        node = self.model.nodes[at]
        site = Site(self.model, at, node)
        inputs = [
            Tensor() if ask is None or not tensor.name else self._obtain(tensor.name, ask)
            for tensor, ask in zip(node.inputs, answer.asks, strict=True)
        ]
        draft = Draft(str(node.op), dict(node.attrs), inputs, [tensor.name for tensor in node.outputs])
        if not answer.stopped:
            rule_at(site, self.flow.through).write(site, answer, draft)
        if draft.alias is not None:
            name = next(t.name for t, kept in zip(node.outputs, answer.kept, strict=True) if kept is not None)
            if name not in self.pinned:
                self.tensors[name] = draft.inputs[draft.alias]
                return
            draft = Draft("Identity", {}, [draft.inputs[draft.alias]], [name])
        for position, values in sorted(draft.constants.items()):
            given = node.inputs[position].name if position < len(node.inputs) else ""
            base = given if given in self.model.constants else f"{node.name or node.outputs[0].name}.{position}"
            while len(draft.inputs) <= position:
                draft.inputs.append(Tensor())
            draft.inputs[position] = self._constant(base, values)
        made = [Variable(name) for name in draft.outputs]
        self.tensors.update((tensor.name, tensor) for tensor in made if tensor.name)
        self.nodes.append(Node(draft.op, node.name, draft.attrs, draft.inputs, made, node.domain, like=node))

    def _obtain(self, name: str, want: Demand) -> Tensor:
        """The tensor ``name`` holding exactly ``want``: an initializer is sliced, anything else selected from."""
        while name in self.selections:
            at = self.selections[name]
            site = Site(self.model, at, self.model.nodes[at])
            below = rule_at(site, self.flow.through).ask(site, [want]).asks[0]
            if below is None:
                raise AssertionError(f"the selection '{name}' selects nothing")
            name, want = site.inputs[0], below
        if name in self.model.constants:
            return self._initializer(name, want)
        have = self.flow.kept(self.model, name)
        if not covers(have, want):
            raise AssertionError(f"'{name}' keeps less than a consumer needs: a transfer rule is wrong")
        tensor = self.tensors[name]
        for axis in sorted(want.marks):
            whole = have.indices(axis)
            chosen = np.flatnonzero(want.marks[axis])
            positions: Array = chosen if whole is None else np.searchsorted(whole, chosen)
            size = len(want.marks[axis]) if whole is None else len(whole)
            if len(positions) != size:
                tensor = self._select(tensor, axis, positions, name.removesuffix(WHOLE_MARK))
        return tensor

    def _select(self, tensor: Tensor, axis: int, positions: Array, name: str) -> Variable:
        """Take ``positions`` of an axis: a Slice if they are contiguous, else a Gather; shared between consumers."""
        key = (tensor.name, axis, positions.tobytes())
        if key not in self.made:
            made = Variable(fresh_name(f"{name}@{axis}", self.taken))
            first, last = int(positions[0]), int(positions[-1])
            if last - first + 1 == len(positions):
                bounds = {"starts": [first], "ends": [last + 1], "axes": [axis]}
                if self.model.opset < 10:
                    node = Node("Slice", made.name, dict(bounds), [tensor], [made])
                else:
                    inputs = [Constant(f"{made.name}.{k}", np.array(v, dtype=np.int64)) for k, v in bounds.items()]
                    node = Node("Slice", made.name, {}, [tensor, *inputs], [made])
            else:
                index = Constant(f"{made.name}.indices", positions.astype(np.int64))
                node = Node("Gather", made.name, {"axis": axis}, [tensor, index], [made])
            self.nodes.append(node)
            self.made[key] = made
        return self.made[key]

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _output(self, result: Result) -> Tensor:
        tensor, name = self._obtain(result.source, result.want), result.name
        other = self.tensors.get(name)
        if other is not None and other is not tensor and other.name == name:
            other.name = fresh_name(f"{name}{WHOLE_MARK}", self.taken)  # used inside; the output shows a part of it
        if tensor.name != name:
            graph_names = {t.name for t in (*self.model.graph.inputs, *self.model.graph.outputs)}
            if isinstance(tensor, Constant) or tensor.name in graph_names | self.pinned:
                shown = Variable(name)
                self.nodes.append(Node("Identity", name, {}, [tensor], [shown]))
                tensor = shown
            else:
                tensor.name = name
        shape = self.model.shapes.get(result.source)
        if isinstance(tensor, Variable):
            if shape is not None:
                tensor.shape = [result.want.size(axis, dim) for axis, dim in enumerate(shape)]
            tensor.kind = self.model.types.get(result.source)
        return tensor

    # -- initializers ------------------------------------------------------------------------------------------------

    def _initializer(self, name: str, want: Demand) -> Constant:
        constant = self.model.constants[name]
        cut = tuple((axis, mark.tobytes()) for axis, mark in sorted(want.marks.items()))
        if (name, cut) not in self.constants:
            if cut:
                values = np.asarray(constant.values)
                for axis, mark in want.marks.items():
                    values = np.take(values, np.flatnonzero(mark), axis=axis)
                self.constants[name, cut] = Constant(name, np.ascontiguousarray(values))
            else:
                self.constants[name, cut] = constant.copy()
        return self.constants[name, cut]

    def _constant(self, base: str, values: Array) -> Constant:
        return self.constants.setdefault((base, ((-1, values.tobytes()),)), Constant(base, values))

    def _name_constants(self) -> None:
        """Give every initializer its own name back, and a marked one where several cuts of it are needed."""
        groups: dict[str, list[Constant]] = {}
        variables = {t.name for node in self.nodes for t in node.outputs} | {t.name for t in self.inputs}
        for (name, _), constant in self.constants.items():
            base = name.partition(CUT_MARK)[0]
            groups.setdefault(name if base in variables else base, []).append(constant)
        for base, members in groups.items():
            digests = [""] if len(members) == 1 else [_digest(np.asarray(c.values)) for c in members]
            alone = len(set(digests)) == 1
            for constant, digest in zip(members, digests, strict=True):
                constant.name = base if alone else f"{base}{CUT_MARK}{digest}"


def _digest(values: Array) -> str:
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:12]
