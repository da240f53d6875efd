"""The forward sweep: write the expert. Nodes nobody needs are gone, weights are sliced, shapes follow.

Canonical form, so that cutting twice is cutting once, as bytes: nodes keep their order, initializers their names; one
that is needed in two different cuts becomes ``NAME@cut-HASH`` of its content. Selections (ours, and the source's own
Slices and Gathers of ascending rows) are never copied: whoever reads one gets a new selection of the tensor below it,
merged with its own, or nothing where the tensor has already shrunk to the right rows.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from ..graph import (
    Constant,
    Graph,
    Model,
    Node,
    Shape,
    Tensor,
    Variable,
    captured,
    captured_tensors,
    fresh_name,
    refreshed,
    symbol_source,
)
from .demand import Demand, covers
from .inputs import Held
from .rules.pieces import is_selection
from .rules.sizes import sizes_read
from .site import Answer, Draft, Flow, Inner, Result, Site, readable
from .sweep import rule_at

CUT_MARK = "@cut-"
FILLED_MARK = "@filled"  # a control with the defaults of classes that are gone
_NUMBER = re.compile(r"(?<=@\d)\.\d+$")  # which of the selections along one axis
WHOLE_MARK = "@whole"  # a tensor of which the graph output of that name shows only a part
Array = np.ndarray[Any, Any]


def rewrite(model: Model, flow: Flow, results: Sequence[Result], held: Mapping[str, Held] | None = None) -> Model:
    """Write the part of ``model`` that ``flow`` needs, with ``results`` as its outputs, in order.

    ``held`` are the graph inputs that are cut.
    """
    writer = _Writer(model, flow)
    for name, item in (held or {}).items():
        writer.shrink(name, item)
    graph = writer.write(results)
    return refreshed(replace(model, graph=graph))


def set_apart(model: Model, name: str, axis: int) -> Model:
    """Show output ``name`` through a Concat of one input, so that a softmax below it is not the class softmax.

    A softmax over some classes of many may come to stand at the end when the others go. The Concat, whose other inputs
    went with them, says that it was never a distribution over all classes; a further cut takes it out again.
    """
    at = [tensor.name for tensor in model.graph.outputs].index(name)
    below, taken = model.graph.outputs[at], {tensor.name for node in model.nodes for tensor in node.outputs}
    shown = Variable(name, model.types.get(name), model.shapes.get(name))
    below.name = fresh_name(f"{name}{WHOLE_MARK}", taken)
    outputs = [*model.graph.outputs[:at], shown, *model.graph.outputs[at + 1 :]]
    nodes = [*model.nodes, Node("Concat", name, {"axis": axis}, [below], [shown])]
    return refreshed(replace(model, graph=replace(model.graph, nodes=nodes, outputs=outputs)))


class _Writer:
    """Writes a graph; a subgraph has a writer of its own, which asks the ``outer`` one for what it captures."""

    def __init__(self, model: Model, flow: Flow, outer: _Writer | None = None) -> None:
        self.model, self.flow, self.outer = model, flow, outer
        self.root: _Writer = outer.root if outer else self
        self.nodes: list[Node] = []
        self.inputs = [] if outer else [Variable(t.name, t.kind, t.shape) for t in model.graph.inputs]
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in self.inputs}  # by the old name
        self.made: dict[tuple[Tensor, int, bytes], Variable] = {}  # selections
        self.measured: dict[str, Variable] = {}  # shapes of graph inputs
        self.vectors: dict[tuple[str, Shape], Tensor] = {}  # of sizes
        self.constants: dict[tuple[str, tuple[tuple[int, bytes], ...]], Constant] = {}
        # Only nodes that stay count: what goes would differ between a cut and a cut of a cut.
        live = [(at, model.nodes[at], answer) for at, answer in enumerate(flow.answers) if answer is not None]
        # What a subgraph that is not looked into reads from outside, it reads by name.
        self.pinned = {name for _, node, answer in live if not answer.inner for name in captured(node)}
        single = {node.outputs[0].name: at for at, node, _ in live if node.outputs[0].name not in self.pinned}
        sites = {name: Site(model, at, model.nodes[at]) for name, at in single.items()}
        self.selections = {name: at for name, at in single.items() if is_selection(sites[name])}
        self.lengths = {
            name: found
            for name, at in single.items()
            if (found := sizes_read(sites[name], flow.answers[at])) is not None
        }
        self.virtual = self.selections.keys() | self.lengths.keys()
        self.taken: set[str] = outer.taken if outer else {tensor.name for tensor in self.inputs}
        names = {t.name for _, node, _ in live for t in node.outputs}
        names |= {t.name for _, node, a in live for t, ask in zip(node.inputs, a.asks, strict=True) if ask is not None}
        self.taken |= names - self.virtual - {t.name for t in model.graph.inputs}

    def shrink(self, name: str, held: Held) -> None:
        """Let a graph input hold the rows that it is fed; what else is read of it is put beside them."""
        given = self.tensors[name]
        if isinstance(given, Variable) and given.shape is not None:
            given.shape = [held.fed.size(axis, dim) for axis, dim in enumerate(given.shape)]
        if held.missing is not None:
            values, order = held.missing
            made = Variable(fresh_name(f"{name}{FILLED_MARK}", self.taken))
            beside = Constant(f"{made.name}.defaults", values)
            self.nodes.append(Node("Concat", made.name, {"axis": 0}, [given, beside], [made]))
            if not np.array_equal(order, np.arange(len(order))):
                index = Constant(f"{made.name}.order", order)
                made = self.emit("Gather", f"{made.name}@0", {"axis": 0}, [made, index])
            self.tensors[name] = made

    def write(self, results: Sequence[Result]) -> Graph:
        for at, answer in enumerate(self.flow.answers):
            if answer is not None and self.model.nodes[at].outputs[0].name not in self.virtual:
                self._write_node(at, answer)
        outputs = [self._output(result) for result in results]
        self._settle_selections(outputs)
        self._name_constants()
        source = self.model.graph
        return Graph(self.nodes, self.inputs, outputs, source.name, source.opsets, self._local(outputs))

    def _local(self, outputs: Sequence[Tensor]) -> dict[str, Constant]:
        """The initializers of a subgraph; those of the main graph need no list."""
        if self.outer is None:
            return {}
        read = [tensor for node in self.nodes for tensor in (*node.inputs, *captured_tensors(node))]
        return {tensor.name: tensor for tensor in (*read, *outputs) if isinstance(tensor, Constant)}

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _write_node(self, at: int, answer: Answer) -> None:
        node = self.model.nodes[at]
        site = Site(self.model, at, node)
        inputs = [
            Tensor() if ask is None or not tensor.name else self._obtain(tensor.name, ask)
            for tensor, ask in zip(node.inputs, answer.asks, strict=True)
        ]
        draft = Draft(self, str(node.op), dict(node.attrs), inputs, [tensor.name for tensor in node.outputs])
        draft.attrs |= {name: self._inside(inner) for name, inner in answer.inner.items()}
        if not answer.stopped:
            rule_at(at, node, self.flow.through).write(site, answer, draft)
        if draft.alias is not None:
            name = next(t.name for t, kept in zip(node.outputs, answer.kept, strict=True) if kept is not None)
            if name not in self.pinned:
                self.tensors[name] = draft.inputs[draft.alias]
                return
            draft = Draft(self, "Identity", {}, [draft.inputs[draft.alias]], [name])
        for position, values in sorted(draft.constants.items()):
            given = node.inputs[position].name if position < len(node.inputs) else ""
            base = given if given in self.model.constants else f"{node.name or node.outputs[0].name}.{position}"
            while len(draft.inputs) <= position:
                draft.inputs.append(Tensor())
            draft.inputs[position] = self._constant(base, values)
        made = [Variable(name) for name in draft.outputs]
        self.tensors.update((tensor.name, tensor) for tensor in made if tensor.name)
        self.nodes.append(Node(draft.op, node.name, draft.attrs, draft.inputs, made, node.domain, like=node))

    def _inside(self, inner: Inner) -> Graph:
        return _Writer(inner.model, inner.flow, self).write(inner.results)

    def _obtain(self, name: str, want: Demand) -> Tensor:
        """The tensor ``name`` holding exactly ``want``: an initializer is sliced, anything else selected from."""
        while name in self.selections:
            at = self.selections[name]
            node = self.model.nodes[at]
            site = Site(self.model, at, node)
            below = rule_at(at, node, self.flow.through).ask(site, [want]).asks[0]
            if below is None:
                raise AssertionError(f"the selection '{name}' selects nothing")
            name, want = site.inputs[0], below
        if name in self.model.constants:
            return self._initializer(name, want)
        if name in self.lengths:
            chosen, dims = want.indices(0), self.lengths[name]
            return self.sizes(dims if chosen is None else tuple(dims[i] for i in chosen), name)
        if self.outer and name not in self.model.producers:
            return self.outer._obtain(name, want)
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
        key = (tensor, axis, positions.tobytes())
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

    def _settle_selections(self, outputs: Sequence[Tensor]) -> None:
        """Put every selection before its first reader, and number those of one tensor in that order.

        Whoever asked for it first may be gone, such as a Concat of one input, and would not ask in a cut of this cut.
        """
        makers = {tensor: node for node in self.nodes for tensor in node.outputs}
        waiting = {tensor.name: tensor for tensor in self.made.values()}
        numbered = defaultdict[str, list[Variable]](list)
        placed: list[Node] = []

        def place(name: str) -> None:
            tensor = waiting.pop(name, None)
            if tensor is not None:
                place(makers[tensor].inputs[0].name)
                placed.append(makers[tensor])
                if tensor not in outputs:
                    numbered[_NUMBER.sub("", name)].append(tensor)

        chosen = set(self.made.values())
        for node in self.nodes:
            if node.outputs[0] not in chosen:
                for name in (*(tensor.name for tensor in node.inputs), *captured(node)):
                    place(name)
                placed.append(node)
        for tensor in (*outputs, *list(waiting.values())):
            place(tensor.name)
        self.nodes = placed
        for tensors in numbered.values():
            names = sorted((tensor.name for tensor in tensors), key=lambda name: (len(name), name))
            for tensor, name in zip(tensors, names, strict=True):
                for constant in makers[tensor].inputs[1:]:
                    constant.name = name + constant.name.removeprefix(tensor.name)
                tensor.name = makers[tensor].name = name

    # -- what a rule may ask for (site.Maker) ------------------------------------------------------------------------

    def emit(self, op: str, name: str, attrs: dict[str, Any], inputs: Sequence[Tensor]) -> Variable:
        """Write a node of one output."""
        made = Variable(fresh_name(name, self.taken))
        self.nodes.append(Node(op, made.name, attrs, list(inputs), [made]))
        return made

    def sizes(self, dims: Shape, name: str) -> Tensor:
        """A vector of sizes. A graph input is measured once, before whoever needs it first; symbols are read there."""
        if (name, dims) not in self.vectors:
            self.vectors[name, dims] = self._vector(dims, name)
        return self.vectors[name, dims]

    def _vector(self, dims: Shape, name: str) -> Tensor:
        if all(isinstance(dim, int) for dim in dims):
            return self._constant(name, np.array(dims, dtype=np.int64))
        parts: list[Tensor] = []
        for source, run in groupby(dims, key=lambda dim: symbol_source(self.root.model, dim)):
            values = list(run)
            if source is None:
                parts.append(self._constant(f"{name}@{len(parts)}", np.array(values, dtype=np.int64)))
            else:
                parts += [self._symbol(*source)] * len(values)
        return parts[0] if len(parts) == 1 else self.emit("Concat", name, {"axis": 0}, parts)

    def _symbol(self, source: str, axis: int) -> Tensor:
        if source not in self.measured:
            self.measured[source] = self.emit("Shape", f"{source}@shape", {}, [self.root.tensors[source]])
        whole = self.measured[source]
        one: Array = np.array([axis])
        return whole if len(self.root.model.inputs[source]) == 1 else self._select(whole, 0, one, whole.name)

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _output(self, result: Result) -> Tensor:
        tensor, name = self._obtain(result.source, result.want), result.name
        faces = {t.name for t in (*self.model.graph.inputs, *self.model.graph.outputs)} | self.pinned
        own = {t for node in self.nodes for t in node.outputs}
        below, whole = self._selected_from(tensor), f"{name}{WHOLE_MARK}"
        if below is not tensor and below in own and below.name not in (faces - {name}) | {whole}:
            # In a cut that keeps all of it, it is the output: so it is called after the output in every other, too.
            self._rename(below, fresh_name(whole, self.taken))
        other = self.tensors.get(name)
        if other is not None and other is not tensor and other.name == name:
            self._rename(other, fresh_name(whole, self.taken))  # used inside; the output shows something else
        if tensor.name != name:
            if isinstance(tensor, Constant) or (self.outer and tensor not in own) or tensor.name in faces:
                shown = Variable(name)
                self.nodes.append(Node("Identity", name, {}, [tensor], [shown]))
                tensor = shown
            else:
                self._rename(tensor, name)
        shape = self.model.shapes.get(result.source)
        if isinstance(tensor, Variable):
            if shape is not None:
                # How a size inside a branch is called that depends on data is of no interest, and not always the same.
                known = [d if not self.outer or readable(self.root.model, (d,)) else None for d in shape]
                tensor.shape = [result.want.size(axis, dim) for axis, dim in enumerate(known)]
            tensor.kind = self.model.types.get(result.source)
        return tensor

    def _selected_from(self, tensor: Tensor) -> Tensor:
        """The tensor of which ``tensor`` is a selection, or itself."""
        below = {made: key[0] for key, made in self.made.items()}
        while tensor in below:
            tensor = below[tensor]
        return tensor

    def _rename(self, tensor: Tensor, name: str) -> None:
        """Call a tensor ``name``, and its selections after it."""
        before, after = tensor.name.removesuffix(WHOLE_MARK), name.removesuffix(WHOLE_MARK)
        tensor.name = name
        self.taken.add(name)
        if before == after:
            return
        nodes = {made: node for node in self.nodes for made in node.outputs}
        for (_, axis, _), made in self.made.items():
            if self._selected_from(made) is tensor and made.name.startswith(f"{before}@{axis}"):
                old = made.name
                made.name = nodes[made].name = fresh_name(f"{after}@{axis}", self.taken)
                for constant in nodes[made].inputs[1:]:
                    constant.name = made.name + constant.name.removeprefix(old)

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
            held = self.model.constants[base].shape if base in self.pinned and base in self.model.constants else None
            # A subgraph reads it as a whole, by its name: whoever has less of it needs another.
            cut = [constant for constant in members if held is not None and constant.shape != held]
            digests = [_digest(c.values) for c in members] if len(members) > 1 or cut else [""]
            alone = len(set(digests)) == 1 and not cut
            for constant, digest in zip(members, digests, strict=True):
                plain = alone or (held is not None and constant.shape == held)
                constant.name = base if plain else f"{base}{CUT_MARK}{digest}"


def _digest(values: Array) -> str:
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:12]
