"""A subgraph of a control-flow node as a model of its own, to be cut and counted like the one around it."""

from __future__ import annotations

from dataclasses import replace

from .model import Model, symbol_source
from .nodes import Constant, Graph, Node, Tensor, Variable, outside
from .write import refreshed


def branch_model(outer: Model, branch: Graph) -> Model:
    """A branch as a model whose inputs are its own and what it captures; its constants are initializers.

    What is not known of a captured tensor is not known inside either, nor are sizes that the graph around it cannot
    read at run time.
    """
    made: dict[str, Tensor] = {}
    nodes: list[Node] = []

    def tensor(old: Tensor) -> Tensor:
        if not old.name:
            return Tensor()
        if old.name not in made:
            made[old.name] = old.copy() if isinstance(old, Constant) else Variable(old.name)
        return made[old.name]

    for node in branch.nodes:
        if node.op == "Constant" and isinstance(node.attrs.get("value"), Constant):
            made[node.outputs[0].name] = node.attrs["value"].copy(node.outputs[0].name)
            continue
        read, written = [tensor(t) for t in node.inputs], [tensor(t) for t in node.outputs]
        nodes.append(Node(node.op, node.name, node.attrs, read, written, node.domain, like=node))
    inside = {t.name for node in nodes for t in node.outputs} | {n for n, t in made.items() if isinstance(t, Constant)}
    inputs = [captive for captive in map(tensor, branch.inputs) if isinstance(captive, Variable)]
    for own, declared in zip(inputs, branch.inputs, strict=True):
        own.kind, own.shape = declared.kind, declared.shape
    # Constants count as the branch's own, whoever has them.
    for name in dict.fromkeys(tensor.name for tensor in outside(branch) if isinstance(tensor, Variable)):
        if name in inside:
            continue
        shape = outer.shapes.get(name)
        captive = made.get(name)
        if not isinstance(captive, Variable):
            captive = made[name] = Variable(name)
        captive.kind = outer.types.get(name)
        if shape is not None:
            captive.shape = [dim if isinstance(dim, int) or symbol_source(outer, dim) else None for dim in shape]
        inputs.append(captive)
    graph = Graph(nodes, inputs, [tensor(t) for t in branch.outputs], branch.name, outer.graph.opsets)
    return refreshed(replace(outer, graph=graph, metadata={}))
