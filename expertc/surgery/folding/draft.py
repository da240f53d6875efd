"""A graph in the making: a model's nodes, which rules may replace, and who reads what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ...graph import Constant, Graph, Model, Node, Shape, Tensor, Variable, captured, fresh_name
from ...graph.tensors import Array

STANDARD = (None, "", "ai.onnx")


class Draft:
    """Nodes in order, None where one is gone; ``model`` is left as it is: a node that changes is a new one.

    ``fixed`` are the tensors whose name and values must stay because somebody else reads them: the graph's caller, or
    a subgraph. Shapes and types of a tensor never change, so the model's hold here too.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes: list[Node | None] = list(model.nodes)
        self.outputs = {tensor.name for tensor in model.graph.outputs}
        self.captured = {name for node in model.nodes if node.has_graphs for name in captured(node)}
        self.fixed = self.outputs | self.captured
        self.makers = dict(model.producers)
        self.readers: dict[str, Collection[int]] = dict(model.consumers)

    @cached_property
    def taken(self) -> set[str]:
        """Every name that stands for a tensor."""
        found = {t.name for node in self.model.nodes for t in (*node.inputs, *node.outputs)}
        return found | self.model.inputs.keys() | self.fixed

    def finished(self) -> Model:
        """The model as it is now; its shapes are to be inferred."""
        nodes = [node for node in self.nodes if node is not None]
        graph = self.model.graph
        written = Graph(nodes, graph.inputs, graph.outputs, graph.name, graph.opsets)
        return replace(self.model, graph=written)

    # -- looking -----------------------------------------------------------------------------------------------------

    def node(self, at: int) -> Node:
        """The node at a position where there is one."""
        found = self.nodes[at]
        if found is None:
            raise LookupError(f"no node at {at}")
        return found

    def op(self, at: int) -> str:
        """Its operator, "" for one of another domain than ONNX's own."""
        node = self.node(at)
        return node.op if node.domain in STANDARD else ""

    def maker(self, tensor: Tensor) -> int | None:
        """Position of the node that makes a tensor as its only output."""
        at = self.makers.get(tensor.name)
        return None if at is None or len(self.node(at).outputs) != 1 else at

    def sole_maker(self, tensor: Tensor) -> int | None:
        """Position of the node that makes a tensor which only one node, and nobody outside, reads."""
        name = tensor.name
        return None if name in self.fixed or len(self.readers.get(name, ())) != 1 else self.maker(tensor)

    def reader(self, at: int) -> int | None:
        """Position of the only node that reads what the node at ``at`` makes, if nobody outside does."""
        name = self.node(at).outputs[0].name
        readers = self.readers.get(name, ())
        return None if name in self.fixed or len(readers) != 1 else next(iter(readers))

    def shape(self, tensor: Tensor) -> Shape | None:
        """A tensor's shape if its rank is known."""
        if isinstance(tensor, Constant):
            return tuple(tensor.shape)
        return self.model.shapes.get(tensor.name)

    def kind(self, tensor: Tensor) -> int | None:
        """A tensor's element type, if known."""
        if isinstance(tensor, Constant):
            return tensor.kind
        return self.model.types.get(tensor.name)

    # -- changing ----------------------------------------------------------------------------------------------------

    def constant(self, name: str, values: Array) -> Constant:
        """A new initializer called ``name``, or nearly so."""
        return Constant(fresh_name(name, self.taken), values)

    def write(
        self, at: int, inputs: Iterable[Tensor], *, op: str | None = None, attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Let the node at ``at`` read other tensors, or be another operator; what only it has read goes."""
        old = self.node(at)
        attrs = old.attrs if attrs is None else attrs
        made = Node(op or old.op, old.name, attrs, inputs, old.outputs, old.domain, like=old)
        self.nodes[at] = made
        now = {tensor.name for tensor in made.inputs if tensor.name}
        for name in now:
            self._readers(name).add(at)
        self._unread(at, [tensor.name for tensor in old.inputs if tensor.name not in now])

    def freeze(self, at: int, values: Sequence[Array]) -> None:
        """Let initializers take the place of the node at ``at``."""
        node = self.node(at)
        self.nodes[at] = None
        for tensor, value in zip(node.outputs, values, strict=True):
            self.makers.pop(tensor.name, None)
            self._read_instead(tensor.name, Constant(tensor.name, value))
        self._unread(at, [tensor.name for tensor in node.inputs])

    def hand_over(self, at: int, to: int) -> None:
        """Remove the node at ``at``: the node at ``to``, whose output nobody else reads, makes its output instead."""
        gone, heir = self.node(at), self.node(to)
        self.makers.pop(heir.outputs[0].name)
        self.nodes[to] = Node(heir.op, heir.name, heir.attrs, heir.inputs, gone.outputs[:1], heir.domain, like=heir)
        self.makers[gone.outputs[0].name] = to
        self.nodes[at] = None
        self._unread(at, [tensor.name for tensor in gone.inputs])

    def bypass(self, at: int, tensor: Tensor) -> bool:
        """Remove the node at ``at``, whose output equals ``tensor``; False if the output's name forbids it."""
        name = self.node(at).outputs[0].name
        if name not in self.fixed:
            self._read_instead(name, tensor)
        elif not self._rename(tensor, name, at):
            return False
        gone = self.node(at)
        self.nodes[at] = None
        if self.makers.get(name) == at:
            del self.makers[name]
        self._unread(at, [t.name for t in gone.inputs])
        return True

    def _rename(self, tensor: Tensor, name: str, at: int) -> bool:
        """Call what a node makes ``name``, as the graph's caller does; not if it has a name that somebody knows."""
        maker = self.makers.get(tensor.name)
        if maker is None or tensor.name in self.fixed or name in self.captured:
            return False
        node, old = self.node(maker), tensor.name
        new = Variable(name)
        made = [new if t.name == old else t for t in node.outputs]
        self.nodes[maker] = Node(node.op, node.name, node.attrs, node.inputs, made, node.domain, like=node)
        self.makers[name] = maker
        self._read_instead(old, new)
        del self.makers[old]
        return True

    def _read_instead(self, name: str, tensor: Tensor) -> None:
        """Let everybody who reads ``name`` read ``tensor``."""
        readers = self.readers.pop(name, ())
        self._readers(tensor.name).update(readers)
        for reader in readers:
            node = self.node(reader)
            inputs = [tensor if t.name == name else t for t in node.inputs]
            self.nodes[reader] = Node(node.op, node.name, node.attrs, inputs, node.outputs, node.domain, like=node)

    def _readers(self, name: str) -> set[int]:
        """Who reads ``name``, to be changed."""
        found = self.readers.get(name, ())
        own = self.readers[name] = found if isinstance(found, set) else set(found)
        return own

    def _unread(self, at: int, names: Sequence[str]) -> None:
        """Note that the node at ``at`` does not read these any more; what nobody reads is not made."""
        stack = [(at, name) for name in names]
        while stack:
            reader, name = stack.pop()
            if name not in self.readers:
                continue
            readers = self._readers(name)
            readers.discard(reader)
            maker = self.makers.get(name)
            if readers or maker is None or name in self.fixed:
                continue
            node = self.node(maker)
            if all(not t.name or (t.name not in self.fixed and not self.readers.get(t.name)) for t in node.outputs):
                self.nodes[maker] = None
                for t in node.outputs:
                    self.makers.pop(t.name, None)
                stack += [(maker, t.name) for t in node.inputs]
