"""What TensorRT's ONNX parser asks of a graph with Q/DQ nodes; held against its releases 8.5 and 8.6."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from ...errors import UnsupportedError
from ...graph import Constant, Model, Node, Tensor
from ...text import shown

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1}  # the axis of the weights' channels


def require_parser_rules(model: Model) -> None:
    """Raise ``UnsupportedError``, naming the node, unless TensorRT's parser takes the quantised graph.

    * Integers are told by QuantizeLinear and DequantizeLinear of the standard domain, not by integer operators.
    * Scales are positive constants. Zero points are absent, or int8 constants of zeros: uint8 and others are rejected.
    * What DequantizeLinear reads a QuantizeLinear makes ("only activation types allowed": no int8 weights, no int32
      biases), with as many scales.
    * A scale per channel is for weights alone: of a convolution along its output channels.
    * A convolution that reads a DequantizeLinear says its ``kernel_shape``, which the parser cannot take from weights
      that are computed.
    """
    for node, why in broken_rules(model):
        name = shown(node.name or node.outputs[0].name)
        raise UnsupportedError(
            f"TensorRT's parser rejects the node {name} ({shown(node.op)}): it {why}.",
            "Quantise for TensorRT: symmetric int8, with Q/DQ pairs.",
        )


def broken_rules(model: Model) -> Iterator[tuple[Node, str]]:
    """The nodes that break a rule of ``require_parser_rules``, and how: the end of a sentence that "it" begins."""
    for node in model.nodes:
        if node.op in _PAIR:
            yield from _broken_pair(model, node)
        elif node.op == "DynamicQuantizeLinear" or node.op.startswith("QLinear") or node.op.endswith("Integer"):
            yield node, "is an integer operator"
        elif node.op in _WEIGHTED and any(_made_by(model, tensor, _PAIR[1]) for tensor in node.inputs):
            if not node.attrs.get("kernel_shape"):
                yield node, "has no kernel_shape"
            weights = _made_by(model, node.inputs[1], _PAIR[1])
            if weights is not None and weights.attrs.get("axis", 1) != _WEIGHTED[node.op] and _scales(weights) > 1:
                yield weights, "has scales along another axis than the output channels"


def _broken_pair(model: Model, node: Node) -> Iterator[tuple[Node, str]]:
    scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else Tensor()
    if node.domain:
        yield node, f"is of the domain {shown(node.domain)}"
    if not isinstance(scale, Constant) or not bool((scale.values > 0).all()):
        yield node, "has a scale that is no positive constant"
    if zero.name and not (isinstance(zero, Constant) and zero.kind == TensorProto.INT8 and not zero.values.any()):
        yield node, "has a zero point that is not an int8 of 0"
    if _scales(node) > 1 and node.op == _PAIR[0] and not isinstance(node.inputs[0], Constant):
        yield node, "has a scale per channel of what is no weight"
    if node.op == _PAIR[1]:
        before = _made_by(model, node.inputs[0], _PAIR[0])
        if before is None or _scales(before) != _scales(node):
            yield node, "reads what no QuantizeLinear like it makes"


def _made_by(model: Model, tensor: Tensor, op: str) -> Node | None:
    at = model.producers.get(tensor.name)
    return model.nodes[at] if at is not None and model.nodes[at].op == op else None


def _scales(node: Node) -> int:
    scale = node.inputs[1]
    return int(scale.values.size) if isinstance(scale, Constant) else 0
