"""MACs as the HLFP and NHL papers print them: pytorch-OpCounter's rules (version 0.1.1), on an ONNX graph.

Convolutions and matrix products, plus four per element that enters a batch norm, plus what an average over all pixels
costs by those rules. Anything else is free, layer norms included.
"""

from __future__ import annotations

from .cost import for_one_image, macs
from .model import Model
from .nodes import Node, Shape
from .shapes import volume


def macs_thop(model: Model) -> int:
    """The count for a batch of one, before any batch norm is folded."""
    model = for_one_image(model)
    return sum(macs(model, node) + _extra(model, node) for node in model.nodes)


def _extra(model: Model, node: Node) -> int:
    read = model.shapes.get(node.inputs[0].name, ()) if node.inputs else ()
    if node.op == "BatchNormalization":
        return 4 * volume(read)
    made = model.shapes.get(node.outputs[0].name, ())
    if node.op == "GlobalAveragePool" or (node.op == "ReduceMean" and _all_pixels(read, made)):
        return (volume(read[2:]) + 1) * volume(made)
    return 0


def _all_pixels(read: Shape, made: Shape) -> bool:
    """Whether a mean is one over height and width alone."""
    return len(read) == 4 and volume(made) == volume(read[:2]) and volume(read[2:]) > 1
