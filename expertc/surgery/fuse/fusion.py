"""The fuse pass: plans the wide layers of a form, then writes the graph with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

import numpy as np

from ...graph import Constant, Model, Node, Tensor, Variable, captured, fresh_name, refreshed
from .form import Form
from .packs import Pack, Row
from .rows import rows
from .rules import Widened, is_pooled, widen
from .siblings import siblings

_WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Fuse:
    """The fuse pass for one ``form``; without siblings that the form makes wide, the model stays as it is."""

    form: Form
    name: str = "fuse"
    requires: str = "inference mode, shapes inferred, batch norms folded"
    ensures: str = "the form's layers of sibling branches are single nodes; scores agree within rounding"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Make the rows wide, join them where they meet again, and split them where somebody reads one branch."""
        plan = _Plan(model, self.form)
        if not plan.wide:
            return model, False
        return refreshed(_Writer(model, plan).run()), True


class _Plan:
    """Which rows become wide, and where every tensor of theirs then lies."""

    def __init__(self, model: Model, form: Form) -> None:
        self.places: dict[str, tuple[Pack, int]] = {}
        self.wide: list[tuple[Row, Widened, Pack]] = []
        self.entries: list[Pack] = []
        self.taken = {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}
        for nodes in siblings(model):
            if form.heads and model.nodes[nodes[0]].op in _WEIGHTED:
                self._enter(model, nodes)
            for row in rows(model, nodes, self.places):
                widened = widen(model, row, form)
                if widened:
                    self.wide.append(
                        (row, widened, self._pack([model.nodes[at].outputs[0].name for at in row.nodes], model))
                    )

    def _pack(self, members: Sequence[str], model: Model) -> Pack:
        width = model.shapes[members[0]][1]
        assert isinstance(width, int)
        pack = Pack(fresh_name(f"{members[0]}.wide", self.taken), tuple(members), width)
        self.places.update((name, (pack, index)) for index, name in enumerate(members))
        return pack

    def _enter(self, model: Model, nodes: Sequence[int]) -> None:
        """Lay side by side what the pooled branches, which stayed apart until here, hand to their heads."""
        row = Row(tuple(nodes), (), 1)
        names = [model.nodes[at].inputs[0].name for at in nodes]
        apart = len(set(names)) == len(names) and not any(name in self.places for name in names)
        if apart and is_pooled(model, row) and all(name in model.producers for name in names):
            self.entries.append(self._pack(names, model))


class _Writer:
    def __init__(self, model: Model, plan: _Plan) -> None:
        self.model, self.plan = model, plan
        self.taken = plan.taken
        self.tensors: dict[str, Tensor] = {t.name: Variable(t.name, t.kind, t.shape) for t in model.graph.inputs}
        self.nodes: list[Node] = []
        gone = {at for row, _, _ in plan.wide for at in row.nodes}
        self.kept = [node for at, node in enumerate(model.nodes) if at not in gone]

    def run(self) -> Model:
        for pack in self.plan.entries:
            self._add("Concat", pack.wide, {"axis": 1}, pack.members, pack.wide)
        for row, widened, pack in self.plan.wide:
            self._write_wide(self.model.nodes[row.nodes[0]], widened, pack)
        for node in self.kept:
            if not self._joins(node):
                made = [self._tensor(tensor) for tensor in node.outputs]
                read = [self._tensor(tensor) for tensor in node.inputs]
                self.nodes.append(Node(node.op, node.name, node.attrs, read, made, node.domain, like=node))
        self._split()
        graph = self.model.graph
        outputs = [self._tensor(tensor) for tensor in graph.outputs]
        for tensor, old in zip(outputs, graph.outputs, strict=True):
            if isinstance(tensor, Variable) and isinstance(old, Variable):
                tensor.kind, tensor.shape = old.kind, old.shape
        inputs = [tensor for tensor in self.tensors.values() if isinstance(tensor, Variable)]
        face = {tensor.name for tensor in graph.inputs}
        faces = [tensor for tensor in inputs if tensor.name in face]
        return replace(self.model, graph=replace(graph, nodes=_in_order(self.nodes), inputs=faces, outputs=outputs))

    def _write_wide(self, like: Node, widened: Widened, pack: Pack) -> None:
        """The nodes of a row, the last of which makes the pack."""
        before = ""
        for step, wide in enumerate(widened):
            made = pack.wide if step == len(widened) - 1 else fresh_name(f"{pack.wide}.{step}", self.taken)
            read = []
            for place, given in enumerate(wide.inputs):
                if isinstance(given, np.ndarray):
                    name = fresh_name(f"{made}.{place}", self.taken)
                    self.tensors[name] = Constant(name, np.ascontiguousarray(given))
                    read.append(name)
                else:
                    read.append(before if given is None else given)
            self._add(wide.op, made, wide.attrs, read, made, like if wide.op == like.op else None)
            before = made

    def _joins(self, node: Node) -> bool:
        """Write a concatenation of channels anew if its inputs lie side by side already, packs for their members."""
        if (
            node.op != "Concat"
            or node.domain not in ("", "ai.onnx")
            or node.attrs.get("axis") not in _channel_axes(self.model, node)
        ):
            return False
        names = [tensor.name for tensor in node.inputs]
        parts = list(_runs(names, self.plan.places))
        if len(parts) == len(names):
            return False
        self._add(
            "Concat" if len(parts) > 1 else "Identity",
            node.name,
            node.attrs if len(parts) > 1 else {},
            parts,
            node.outputs[0].name,
        )
        return True

    def _split(self) -> None:
        """Give back to whoever reads a single branch what it reads."""
        read = {tensor.name for node in self.nodes for tensor in node.inputs} | set(self.model.outputs)
        read |= {name for node in self.nodes for name in captured(node)}
        for _, _, pack in self.plan.wide:
            if read.isdisjoint(pack.members):
                continue
            name = fresh_name(f"{pack.wide}.split", self.taken)
            sizes = np.full(len(pack.members), pack.width, np.int64)
            made = [self._tensor(Variable(member)) if member in read else Tensor() for member in pack.members]
            if self.model.opset >= 13:  # the lengths became an input
                self.tensors[name] = Constant(name, sizes)
                node = Node("Split", name, {"axis": 1}, [self._tensor(Variable(pack.wide)), self.tensors[name]], made)
            else:
                attrs = {"axis": 1, "split": sizes.tolist()}
                node = Node("Split", name, attrs, [self._tensor(Variable(pack.wide))], made)
            self.nodes.append(node)

    def _add(self, op: str, name: str, attrs: object, read: Sequence[str], made: str, like: Node | None = None) -> None:
        inputs = [self._tensor(self._found(tensor)) for tensor in read]
        self.nodes.append(Node(op, name, attrs, inputs, [self._tensor(Variable(made))], like=like))  # type: ignore[arg-type]

    def _found(self, name: str) -> Tensor:
        return self.model.constants.get(name) or Variable(name)

    def _tensor(self, tensor: Tensor) -> Tensor:
        """This graph's own object for a tensor of the model's."""
        if not tensor.name:
            return Tensor()
        if tensor.name not in self.tensors:
            self.tensors[tensor.name] = tensor.copy() if isinstance(tensor, Constant) else Variable(tensor.name)
        return self.tensors[tensor.name]


def _channel_axes(model: Model, node: Node) -> tuple[int, ...]:
    """How the axis of the channels may be written for this node."""
    return 1, 1 - len(model.shapes.get(node.outputs[0].name, ()))


def _runs(names: Sequence[str], places: dict[str, tuple[Pack, int]]) -> Iterator[str]:
    """The names, but for each pack whose members follow each other there in order, its wide tensor."""
    at = 0
    while at < len(names):
        pack = places[names[at]][0] if names[at] in places else None
        if pack is not None and tuple(names[at : at + len(pack.members)]) == pack.members:
            yield pack.wide
            at += len(pack.members)
        else:
            yield names[at]
            at += 1


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """The nodes in topological order, otherwise as they come."""
    made = {tensor.name: at for at, node in enumerate(nodes) for tensor in node.outputs if tensor.name}
    reads = {
        at: [made[name] for name in ([t.name for t in node.inputs] + captured(node)) if name in made]
        for at, node in enumerate(nodes)
    }
    return [nodes[at] for at in TopologicalSorter(reads).static_order()]
