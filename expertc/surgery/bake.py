"""bake: the scaling of pixels becomes a part of the graph, for engines that take an image as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from ..card import CARD_KEY, Card
from ..errors import CardError, ModelError
from ..graph import Constant, Model, Node, Tensor, Variable, fresh_name, refreshed
from ..graph.tensors import Array
from ..preprocessing import BYTES, Preprocess
from ..text import shown

PIXELS = "pixels"
"""What the input is called then, if no other tensor is."""


@dataclass(frozen=True)
class Bake:
    """The bake pass: the model of ``card`` reads RGB bytes [N, H, W, 3]; the card in its metadata says so.

    The mean is subtracted before anything else, because a convolution pads with zeros what is normalised: a mean that
    were folded into its bias would show at the borders. The scale can go into its weights, and ``fold`` does that; both
    can where nothing is padded. Bytes are cast first: TensorRT reads them, but calculates with none.

    ``run`` raises ``CardError`` if the card does not say how an image becomes the input.
    """

    card: Card
    name: str = "bake"
    requires: str = "the card's preprocessing makes the image input"
    ensures: str = "the image input is RGB bytes, channels last; scores are the same within rounding"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Let nodes make what was the input, out of bytes: whoever reads it, subgraphs too, reads it by name."""
        spec, name = self.card.preprocess, self.card.input
        if spec is None:
            raise CardError(
                "The model does not say how an image becomes its input, so that cannot become a part of it.",
                "Describe its preprocessing, or build without --embed-preprocess.",
            )
        if spec.dtype == BYTES:
            return model, False
        kind = model.types.get(name)
        if kind is None or kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            raise ModelError(f"The input {shown(name)} is no tensor of floats.", "Build without --embed-preprocess.")
        taken = {t.name for node in model.nodes for t in (*node.inputs, *node.outputs)} | model.inputs.keys()
        pixels = Variable(fresh_name(PIXELS, taken), TensorProto.UINT8, [model.inputs[name][0], *spec.size, 3])
        nodes = _normalisation(spec, pixels, name, kind, taken)
        inputs = [pixels if given.name == name else given for given in model.graph.inputs]
        written = replace(model.graph, nodes=[*nodes, *model.graph.nodes], inputs=inputs)
        card = replace(self.card, input=pixels.name, preprocess=spec.as_bytes())
        return refreshed(replace(model, graph=written, metadata={**model.metadata, CARD_KEY: card.to_json()})), True


def _normalisation(spec: Preprocess, pixels: Tensor, name: str, kind: int, taken: set[str]) -> list[Node]:
    """From RGB bytes [N, H, W, 3] to the tensor ``name`` as ``runtime.preprocess`` makes it, in float32 to the end."""
    axis, along = (1, (3, 1, 1)) if spec.layout == "NCHW" else (3, (3,))
    mean, deviation = (255 * np.array(values, np.float64).reshape(along) for values in (spec.mean, spec.std))
    order, mean, scale = np.array([2, 1, 0], np.int64), mean.astype(np.float32), (1 / deviation).astype(np.float32)
    steps: list[tuple[bool, str, Mapping[str, Any], Array | None]] = [
        (True, "Cast", {"to": TensorProto.FLOAT}, None),
        (spec.layout == "NCHW", "Transpose", {"perm": [0, 3, 1, 2]}, None),
        (spec.colour == "BGR", "Gather", {"axis": axis}, order),
        (True, "Sub", {}, mean),
        (True, "Mul", {}, scale),
        (kind != TensorProto.FLOAT, "Cast", {"to": kind}, None),
    ]
    nodes: list[Node] = []
    last = pixels
    for op, attrs, values in [step[1:] for step in steps if step[0]]:
        made = fresh_name(f"{PIXELS}.{op.lower()}", taken)
        read = [last] if values is None else [last, Constant(fresh_name(f"{made}.by", taken), values)]
        last = Variable(made)
        nodes.append(Node(op, made, attrs, read, [last]))
    nodes[-1].outputs[:] = [Variable(name)]
    return nodes
