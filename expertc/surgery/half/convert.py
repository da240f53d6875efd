"""The conversion: every node that is no island computes in half precision, with casts only where the two meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import BundleError
from ...graph import Constant, Graph, Model, Node, Tensor, Variable, captured, fresh_name, refreshed
from .choose import choose_islands
from .forms import FLOAT, HALF, Form, float_positions, half_form, is_single, label


@dataclass(frozen=True)
class Half:
    """The pass. Inputs and outputs stay in single precision, integers and sizes what they are.

    ``islands`` are the labels of the nodes that stay too, as ``choose_islands`` gives them: with the same ones the same
    model becomes the same bytes. None lets the pass choose by rule alone, without measured ranges.
    """

    islands: Mapping[str, str] | None = None
    name: str = "half"
    requires: str = "single precision throughout, shapes inferred"
    ensures: str = "every node's inputs agree in type; no Cast there and back"

    @classmethod
    def from_recipe(cls, data: Mapping[str, Any]) -> Half:
        """Read what ``recipe`` returned. Raises ``BundleError`` for anything else."""
        islands = data.get("islands")
        if not isinstance(islands, Mapping) or not all(isinstance(why, str) for why in islands.values()):
            raise BundleError("The list of nodes in single precision is malformed.", "Build the bundle again.")
        return cls(islands)

    def recipe(self, model: Model) -> dict[str, Any]:
        """All that is needed to convert ``model`` again, as JSON types: a manifest keeps it."""
        return {"precision": "fp16", "islands": dict(self._chosen(model))}

    def run(self, model: Model) -> tuple[Model, bool]:
        """The model in half precision; one that somebody has lowered already, or without a node to lower, as it is."""
        if not is_single(model):
            return model, False
        islands = self._chosen(model)
        forms = {at: half_form(model, node) for at, node in enumerate(model.nodes) if label(node) not in islands}
        wanted = {at: form for at, form in forms.items() if isinstance(form, Form) and _floats(model, model.nodes[at])}
        if not wanted:
            return model, False
        return refreshed(_Writer(model, wanted).run()), True

    def _chosen(self, model: Model) -> Mapping[str, str]:
        return choose_islands(model) if self.islands is None else self.islands


class _Writer:
    def __init__(self, model: Model, forms: Mapping[int, Form]) -> None:
        self.model, self.forms = model, forms
        self.nodes: list[Node] = []
        self.inputs = [Variable(tensor.name, tensor.kind, tensor.shape) for tensor in model.graph.inputs]
        self.single: dict[str, Tensor] = {tensor.name: tensor for tensor in self.inputs}
        self.half: dict[str, Tensor] = {}
        self.taken = set(_names(model.graph))
        self.named = {node.name for node in model.nodes}
        # What others read by this name has to be there under it, in single precision.
        self.faces = {tensor.name for tensor in model.graph.outputs}
        self.faces |= {name for node in model.nodes for name in captured(node)}
        self.shared = self.faces | {
            tensor.name
            for at, node in enumerate(model.nodes)
            for position, tensor in enumerate(node.inputs)
            if isinstance(tensor, Constant) and position not in self._form(at).inputs
        }

    def run(self) -> Model:
        for at, node in enumerate(self.model.nodes):
            self._write(node, self._form(at))
        graph = self.model.graph
        outputs = [self._single(tensor) for tensor in graph.outputs]
        for tensor, old in zip(outputs, graph.outputs, strict=True):
            if isinstance(tensor, Variable) and isinstance(old, Variable):
                tensor.kind, tensor.shape = old.kind, old.shape
        return replace(self.model, graph=Graph(self.nodes, self.inputs, outputs, graph.name, graph.opsets))

    def _form(self, at: int) -> Form:
        return self.forms.get(at) or Form(frozenset(), frozenset())

    def _write(self, node: Node, form: Form) -> None:
        read = [self._half(t) if at in form.inputs else self._single(t) for at, t in enumerate(node.inputs)]
        made: list[Tensor] = []
        for at, tensor in enumerate(node.outputs):
            apart = at in form.outputs and tensor.name in self.faces
            made.append(Variable(fresh_name(f"{tensor.name}.half", self.taken) if apart else tensor.name))
            (self.half if at in form.outputs else self.single)[tensor.name] = made[-1]
        self.nodes.append(Node(node.op, node.name, node.attrs, read, made, node.domain, like=node))
        for tensor in node.outputs:
            if tensor.name in self.faces and tensor.name in self.half:
                self.single[tensor.name] = self._cast(self.half[tensor.name], tensor.name, FLOAT)

    def _half(self, tensor: Tensor) -> Tensor:
        if not tensor.name:
            return Tensor()
        if tensor.name not in self.half:
            if isinstance(tensor, Constant):
                name = fresh_name(f"{tensor.name}.half", self.taken) if tensor.name in self.shared else tensor.name
                with np.errstate(over="ignore"):  # an island that was not asked for: verification sees infinity
                    self.half[tensor.name] = Constant(name, np.asarray(tensor.values).astype(np.float16))
            else:
                name = fresh_name(f"{tensor.name}.half", self.taken)
                self.half[tensor.name] = self._cast(self.single[tensor.name], name, HALF)
        return self.half[tensor.name]

    def _single(self, tensor: Tensor) -> Tensor:
        """The tensor as it was; also what is no floating-point number."""
        if not tensor.name:
            return Tensor()
        if tensor.name not in self.single:
            if isinstance(tensor, Constant):
                self.single[tensor.name] = tensor.copy()
            else:
                name = fresh_name(f"{tensor.name}.single", self.taken)
                self.single[tensor.name] = self._cast(self.half[tensor.name], name, FLOAT)
        return self.single[tensor.name]

    def _cast(self, tensor: Tensor, name: str, to: int) -> Variable:
        made = Variable(name)
        self.nodes.append(Node("Cast", fresh_name(name, self.named), {"to": to}, [tensor], [made]))
        return made


def _floats(model: Model, node: Node) -> bool:
    return bool(float_positions(model, node.inputs) or float_positions(model, node.outputs))


def _names(graph: Graph) -> Iterator[str]:
    """Every name of a tensor in a graph and in the branches inside it."""
    yield from (tensor.name for tensor in (*graph.inputs, *graph.outputs))
    yield from graph.local
    for node in graph.nodes:
        yield from (tensor.name for tensor in (*node.inputs, *node.outputs))
        for value in node.attrs.values() if node.has_graphs else ():
            if isinstance(value, Graph):
                yield from _names(value)
