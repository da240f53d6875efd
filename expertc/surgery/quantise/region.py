"""Which nodes of an expert compute in integers: the layers asked for, and what lies between them."""

from __future__ import annotations

from collections.abc import Collection

from onnx import TensorProto

from ...graph import Constant, Model, Node, volume
from .flavours import LAYERS, Flavour

_REMOVED = frozenset({"Clip", "Relu"})  # as the quantisation clips anyway
_OF_TWO = frozenset({"Add", "Mul"})


def layers(model: Model, flavour: Flavour) -> tuple[str, ...]:
    """The layers that can be quantised, each by the name of its result, in order.

    A layer is a Conv, Gemm or MatMul with constant fp32 weights. Where the flavour gives its result in 256 steps, one
    that ends in a single pixel with no layer behind it is none: those are class scores that nothing averages any more,
    and their cost is next to nothing.
    """
    behind = _behind(model)
    return tuple(
        node.outputs[0].name
        for node in model.nodes
        if _is_layer(node) and (node.op in flavour.wide or node.outputs[0].name in behind or not _is_pixel(model, node))
    )


def region(model: Model, flavour: Flavour, chosen: Collection[str]) -> list[int]:
    """Positions of the nodes that compute in integers if the layers ``chosen`` do.

    A follower does if all that it reads is held in integers already, and a layer comes behind it, chosen or not: what
    is done to the scores themselves keeps its precision. A Relu or Clip does in any case, as it vanishes.
    """
    at_work = {at for at, node in enumerate(model.nodes) if _is_layer(node) and node.outputs[0].name in chosen}
    behind = _behind(model)
    held = {model.nodes[at].inputs[0].name for at in at_work}
    found = []
    for at, node in enumerate(model.nodes):
        if at not in at_work and not _follows(node, flavour, held, behind):
            continue
        found.append(at)
        if at not in at_work or node.op not in flavour.wide or flavour.paired:
            held |= {tensor.name for tensor in node.outputs}
    return found


def _follows(node: Node, flavour: Flavour, held: Collection[str], behind: Collection[str]) -> bool:
    read = [tensor.name for tensor in node.inputs if tensor.name and not isinstance(tensor, Constant)]
    if node.op not in flavour.followers or node.domain or not read or not all(name in held for name in read):
        return False
    if node.op in _OF_TWO and len(set(read)) < 2:  # a gain or bias per channel, or a square: too uneven for one scale
        return False
    return node.op in _REMOVED or any(tensor.name in behind for tensor in node.outputs)


def _is_layer(node: Node) -> bool:
    """A Conv, Gemm or MatMul whose weights, and bias if any, are constants of the form that integer kernels take."""
    if node.op not in LAYERS or node.domain or isinstance(node.inputs[0], Constant):
        return False
    weights, *bias = (tensor for tensor in node.inputs[1:] if tensor.name)
    if not all(isinstance(tensor, Constant) and tensor.kind == TensorProto.FLOAT for tensor in (weights, *bias)):
        return False
    shape, *terms = (tensor.shape for tensor in (weights, *bias) if isinstance(tensor, Constant))
    if node.op == "Conv":
        return True
    made = shape[0 if node.attrs.get("transB") else -1]
    plain = not node.attrs.get("transA") and node.attrs.get("beta", 1.0) == 1.0
    return len(shape) == 2 and plain and all(term == (made,) for term in terms)


def _is_pixel(model: Model, node: Node) -> bool:
    shape = model.shapes.get(node.outputs[0].name, ())
    return volume(shape[2:]) == 1 and all(isinstance(dim, int) for dim in shape[2:])


def _behind(model: Model) -> set[str]:
    """Names of the tensors from which a layer can be reached."""
    found: set[str] = set()
    for node in reversed(model.nodes):
        if _is_layer(node) or any(tensor.name in found for tensor in node.outputs):
            found |= {tensor.name for tensor in node.inputs}
    return found
