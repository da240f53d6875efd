"""The fuse pass: writes the graph with the wide layers that were planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np

from ...graph import Constant, Model, Node, Tensor, Variable, captured, fresh_name, refreshed
from .form import Form
from .packs import Pack, Widened, divided, has_only_channels
from .plan import Plan


@dataclass(frozen=True)
class Fuse:
    """The fuse pass for one ``form``; without siblings that the form makes wide, the model stays as it is."""

    form: Form
    name: str = "fuse"
    requires: str = "inference mode, shapes inferred, batch norms folded"
    ensures: str = "the form's layers of sibling branches are single nodes; scores agree within rounding"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Fuse until nothing changes: wide nodes may be siblings in their turn. Once and a look, mostly."""
        fused = model
        while (plan := Plan(fused, self.form)).wide:
            fused = refreshed(_Writer(fused, plan).run())
        return fused, fused is not model


class _Writer:
    """Makes the rows wide, joins them where they meet again, and splits them where somebody reads one branch."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.tensors: dict[str, Tensor] = {t.name: Variable(t.name, t.kind, t.shape) for t in model.graph.inputs}
        self.nodes: list[Node] = []
        gone = {at for row, _, _ in plan.wide for at in row.nodes}
        self.kept = [node for at, node in enumerate(model.nodes) if at not in gone]
        self.names: dict[str, str] = {}  # of wide tensors that are all that a concatenation was

    def run(self) -> Model:
        """The model with the planned nodes; what they take the place of is gone, and splits that nobody reads."""
        self._rename()
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
        inputs = [self.tensors[tensor.name] for tensor in graph.inputs]
        outputs = [self._tensor(tensor) for tensor in graph.outputs]
        for tensor, old in zip(outputs, graph.outputs, strict=True):
            if isinstance(tensor, Variable) and isinstance(old, Variable):
                tensor.kind, tensor.shape = old.kind, old.shape
        written = replace(graph, nodes=_in_order(self.nodes), inputs=inputs, outputs=outputs)  # type: ignore[arg-type]
        return replace(self.model, graph=written)

    def _rename(self) -> None:
        """Let a pack that a concatenation puts together have that one's name: the concatenation is then gone."""
        ours = {pack.wide for _, _, pack in self.plan.wide}
        for node in self.kept:
            if self._is_joint(node):
                parts = list(_runs([tensor.name for tensor in node.inputs], self.plan.places))
                if len(parts) == 1 and parts[0] in ours:
                    self.names.setdefault(parts[0], node.outputs[0].name)

    def _write_wide(self, like: Node, widened: Widened, pack: Pack) -> None:
        """The nodes of a row, the last of which makes the pack."""
        before = ""
        for step, wide in enumerate(widened):
            made = pack.wide if step == len(widened) - 1 else fresh_name(f"{pack.wide}.{step}", self.plan.taken)
            read = []
            for place, given in enumerate(wide.inputs):
                if isinstance(given, np.ndarray):
                    read.append(self._constant(f"{made}.{place}", given))
                else:
                    read.append(before if given is None else given)
            self._add(wide.op, made, wide.attrs, read, made, like if wide.op == like.op else None)
            before = made

    def _is_joint(self, node: Node) -> bool:
        """Whether a node concatenates along the channels."""
        rank = len(self.model.shapes.get(node.outputs[0].name, ()))
        return node.op == "Concat" and node.domain in ("", "ai.onnx") and node.attrs.get("axis") in (1, 1 - rank)

    def _joins(self, node: Node) -> bool:
        """Write a concatenation anew if packs can take the place of their members; what is small is put in order."""
        if not self._is_joint(node):
            return False
        made, names = node.outputs[0].name, [tensor.name for tensor in node.inputs]
        parts = list(_runs(names, self.plan.places))
        if any(name in self.plan.places for name in parts) and has_only_channels(self.model, made):
            parts, order = _gathered(self.model, names, self.plan.places)
            if len(parts) > 1:
                whole = fresh_name(f"{made}.packs", self.plan.taken)
                self._add("Concat", whole, {"axis": 1}, parts, whole)
                parts = [whole]
            self._add("Gather", node.name, {"axis": 1}, [parts[0], self._constant(f"{made}.order", order)], made)
        elif len(parts) == len(names):
            return False
        elif len(parts) > 1:
            self._add("Concat", node.name, node.attrs, parts, made, node)
        elif self.names.get(parts[0]) != made:
            self._add("Identity", node.name, {}, parts, made)
        return True

    def _split(self) -> None:
        """Give back to whoever reads a single branch what it reads."""
        read = {tensor.name for node in self.nodes for tensor in node.inputs} | set(self.model.outputs)
        read |= {name for node in self.nodes for name in captured(node)}
        for _, _, pack in self.plan.wide:
            if not read.isdisjoint(pack.members):
                made = [self._tensor(Variable(name)) if name in read else Tensor() for name in pack.members]
                sizes = np.full(len(pack.members), pack.width, np.int64)
                attrs: dict[str, Any] = {"axis": pack.axis}
                given = [self._tensor(Variable(pack.wide))]
                name = fresh_name(f"{pack.wide}.split", self.plan.taken)
                if self.model.opset >= 13:  # the lengths became an input
                    given.append(self._tensor(self._found(self._constant(f"{name}.sizes", sizes))))
                else:
                    attrs["split"] = sizes.tolist()
                self.nodes.append(Node("Split", name, attrs, given, made))
        self.nodes = [
            node
            for node in self.nodes
            if divided(self.model, node) is None or any(tensor.name in read for tensor in node.outputs)
        ]

    def _add(
        self, op: str, name: str, attrs: Mapping[str, Any], read: Sequence[str], made: str, like: Node | None = None
    ) -> None:
        inputs = [self._tensor(self._found(tensor)) for tensor in read]
        self.nodes.append(Node(op, name, attrs, inputs, [self._tensor(Variable(made))], like=like))

    def _constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        name = fresh_name(name, self.plan.taken)
        self.tensors[name] = Constant(name, np.ascontiguousarray(values))
        return name

    def _found(self, name: str) -> Tensor:
        return self.model.constants.get(name) or Variable(name)

    def _tensor(self, tensor: Tensor) -> Tensor:
        """This graph's own object for a tensor of the model's, or a planned one."""
        name = self.names.get(tensor.name, tensor.name)
        if not name:
            return Tensor()
        if name not in self.tensors:
            self.tensors[name] = tensor.copy() if isinstance(tensor, Constant) else Variable(name)
        return self.tensors[name]


def _runs(names: Sequence[str], places: Mapping[str, tuple[Pack, int]]) -> Iterator[str]:
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


def _gathered(
    model: Model, names: Sequence[str], places: Mapping[str, tuple[Pack, int]]
) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The packs (and what is in none) that hold the tensors ``names``, and where the channels of those lie in them."""
    starts: dict[str, int] = {}
    order: list[int] = []
    end = 0
    for name in names:
        width = model.shapes[name][1]
        assert isinstance(width, int)  # as that of all of them together is one
        pack, index = places.get(name, (Pack(name, (name,), width), 0))
        if pack.wide not in starts:
            starts[pack.wide], end = end, end + width * len(pack.members)
        order += range(starts[pack.wide] + index * width, starts[pack.wide] + (index + 1) * width)
    return list(starts), np.array(order, np.int64)


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """The nodes in topological order."""
    made = {tensor.name: at for at, node in enumerate(nodes) for tensor in node.outputs if tensor.name}
    reads = {
        at: [made[name] for name in ([t.name for t in node.inputs] + captured(node)) if name in made]
        for at, node in enumerate(nodes)
    }
    return [nodes[at] for at in TopologicalSorter(reads).static_order()]
