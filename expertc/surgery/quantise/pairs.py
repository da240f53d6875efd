"""What the quantiser leaves undone: Q/DQ pairs where a runtime would take the fp32 layer behind them for its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...graph import Model, Node, Tensor, Variable, fresh_name, refreshed
from .flavours import LAYERS

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = LAYERS | {"ConvTranspose"}


def keep_wide(model: Model) -> Model:
    """Hide the DequantizeLinear in front of every layer that is to stay fp32 from ONNX Runtime (1.21 and later).

    Its optimiser WeightBiasQuantization completes what looks like a forgotten half: an fp32 Conv or Gemm between
    integers gets int8 weights with one scale for all channels, which is just what such a layer was spared. A Sum of one
    term changes nothing, and no optimiser removes it.
    """
    taken = {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}
    nodes: list[Node] = []
    for node in model.nodes:
        if _is_wide(model, node):
            hidden = Variable(fresh_name(f"{node.inputs[0].name}.fp32", taken))
            nodes.append(Node("Sum", hidden.name, {}, [node.inputs[0]], [hidden]))
            node = _reading(node, {node.inputs[0].name: hidden})
        nodes.append(node)
    return refreshed(replace(model, graph=replace(model.graph, nodes=nodes)))


def read_before(model: Model) -> Model:
    """Let every layer that stays fp32 read what was there before the Q/DQ pair that another layer asked for."""
    nodes = [
        _reading(node, {node.inputs[0].name: _source(model, node.inputs[0])}) if _is_wide(model, node) else node
        for node in model.nodes
    ]
    return replace(model, graph=replace(model.graph, nodes=nodes))


def fuse_sums(model: Model) -> Model:
    """Take the pair off the term of each Add that a layer has just made, for TensorRT to add within that layer.

    Of two such terms the one made last: the other is the shortcut, and is read in integers.
    """
    nodes = []
    for node in model.nodes:
        sources = {t.name: _source(model, t) for t in node.inputs} if node.op == "Add" else {}
        made = {name: model.producers.get(tensor.name, -1) for name, tensor in sources.items()}
        fresh = [name for name, at in made.items() if at >= 0 and model.nodes[at].op in LAYERS]
        last = max(fresh, key=made.__getitem__, default=None)
        nodes.append(node if last is None else _reading(node, {last: sources[last]}))
    return _without_dead(replace(model, graph=replace(model.graph, nodes=nodes)))


def _is_wide(model: Model, node: Node) -> bool:
    """Whether a layer reads integers but has fp32 weights."""
    return (
        node.op in _WEIGHTED and _is_made_by(model, node.inputs[0], _DQ) and not _is_made_by(model, node.inputs[1], _DQ)
    )


def _source(model: Model, tensor: Tensor) -> Tensor:
    """What a Q/DQ pair gives as ``tensor``; the tensor itself if none does."""
    found = tensor
    for op in (_DQ, _Q):
        if not _is_made_by(model, found, op):
            return tensor
        found = model.nodes[model.producers[found.name]].inputs[0]
    return found


def _is_made_by(model: Model, tensor: Tensor, op: str) -> bool:
    at = model.producers.get(tensor.name)
    return at is not None and model.nodes[at].op == op


def _reading(node: Node, others: Mapping[str, Tensor]) -> Node:
    inputs = [others.get(tensor.name, tensor) for tensor in node.inputs]
    return Node(node.op, node.name, node.attrs, inputs, node.outputs, node.domain, like=node)


def _without_dead(model: Model) -> Model:
    """The model without nodes that nothing reads."""
    needed = {tensor.name for tensor in model.graph.outputs}
    kept: list[Node] = []
    for node in reversed(model.nodes):
        if any(tensor.name in needed for tensor in node.outputs):
            kept.append(node)
            needed |= {tensor.name for tensor in node.inputs}
    return refreshed(replace(model, graph=replace(model.graph, nodes=kept[::-1])))
