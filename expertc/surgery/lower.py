"""lower: the same model for an engine that knows an older version of the operators only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnx import helper

from ..errors import UnsupportedError
from ..graph import Graph, Model, Node, refreshed
from .lowering import OLDEST, Scope, lowered
from .passes import MALFORMED, malformed


@dataclass(frozen=True)
class Lower:
    """The lower pass: a model of at most ``opset``, and of the IR version that came with it.

    An operator whose definition has changed since is rewritten exactly, or kept where this node uses nothing of what
    has changed. ``run`` raises ``UnsupportedError`` naming the operator and the node where neither can be, and for an
    ``opset`` below 13.
    """

    opset: int
    name: str = "lower"
    requires: str = "shapes inferred"
    ensures: str = "every operator is one of the older opset; results agree within rounding, bit for bit but for norms"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Rewrite node by node, also in subgraphs."""
        if self.opset < OLDEST:
            raise UnsupportedError(
                f"Opset {self.opset} is older than {OLDEST}, the oldest that an expert can be lowered to.",
                "Choose another target.",
            )
        # An older IR may lack types, but then so does the opset that came with it.
        ir = min(model.ir_version, helper.OP_SET_ID_VERSION_MAP.get(("ai.onnx", self.opset), model.ir_version))
        if model.opset <= self.opset:
            return (replace(model, ir_version=ir), True) if ir < model.ir_version else (model, False)
        graph = _graph(model.graph, Scope(model, self.opset))
        graph = replace(graph, opsets={**model.graph.opsets, "": self.opset})
        return refreshed(replace(model, graph=graph, ir_version=ir)), True


def _graph(graph: Graph, scope: Scope) -> Graph:
    nodes = []
    for node in graph.nodes:
        inner: Mapping[str, Any] = node.attrs
        if node.has_graphs:
            inner = {key: _graph(v, scope) if isinstance(v, Graph) else v for key, v in node.attrs.items()}
            node = Node(node.op, node.name, inner, node.inputs, node.outputs, node.domain, like=node)
        try:
            nodes += lowered(node, scope)
        except MALFORMED as error:
            raise malformed(node) from error
    return replace(graph, nodes=nodes)
