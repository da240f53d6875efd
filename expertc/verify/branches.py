"""Branches of an If: an expert's may be smaller than the full model's, so they are compared as graphs of their own."""

from __future__ import annotations

from dataclasses import replace

from ..graph import Constant, Graph, Model, Node, Tensor


def as_model(outer: Model, branch: Graph) -> Model:
    """A branch as a model without inputs, its ``Constant`` nodes as initializers; what it captures has no maker."""
    constants = {
        node.outputs[0].name: value.copy(node.outputs[0].name)
        for node in branch.nodes
        if node.op == "Constant" and isinstance(value := node.attrs.get("value"), Constant)
    }

    def found(tensor: Tensor) -> Tensor:
        return constants.get(tensor.name, tensor)

    nodes = [
        Node(node.op, node.name, node.attrs, map(found, node.inputs), node.outputs, node.domain, like=node)
        for node in branch.nodes
        if node.outputs[0].name not in constants
    ]
    return replace(outer, graph=Graph(nodes, (), list(map(found, branch.outputs)), branch.name, outer.graph.opsets))
