"""The graph as DeepStream's nvinfer needs it: scaled frames in, probabilities out, and nothing else.

From the documentation of Gst-nvinfer and what its parser of classifiers does (``nvdsinfer``, which comes with its
source): the network is fed ``net-scale-factor * (x - offset)``, float32, channels first, x from 0 to 255, with one
offset per channel but one scale for all. Every output is taken for a classifier of its own whose float32 values are
probabilities; the best that is above a threshold is attached to the frame.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from ..card import CARD_KEY, Card, Output
from ..errors import CardError, ModelError, UnsupportedError
from ..graph import Constant, Model, Node, Tensor, Variable, captured, fresh_name, refreshed
from ..preprocessing import BYTES, Preprocess
from ..runtime.reject import Reject
from ..runtime.scores import ENERGY, MAX_PROBABILITY
from ..surgery.exits import needed
from ..text import shown
from .whole import Whole

FRAME, PROBABILITIES = "frame", "probabilities"
"""What input and output are called."""

Array = np.ndarray[Any, Any]

_AXES_READ = {"ReduceSum": 13, "ReduceMax": 18, "ReduceLogSumExp": 18}
"""The opset from which on the axes of a reduction are an input and no attribute (ONNX, changelog of operators)."""


def for_frames(graph: Whole, reject: Reject | None) -> Whole:
    """The graph that reads frames as its new card's preprocessing makes them, with one deviation for all channels.

    Where ``reject`` says that a frame shows none of the classes, every probability is 0: no threshold is below that.
    One on the largest probability is left to nvinfer. Raises ``CardError`` if nothing says how a picture becomes the
    input, ``UnsupportedError`` for what nvinfer cannot be given.
    """
    card, model = graph.card, graph.model
    if card.preprocess is None:
        raise CardError(
            "The bundle does not say how a picture becomes its input, so nvinfer cannot be told.",
            "Build it with --preprocess.",
        )
    if card.exits is not None and card.exits.driven:
        raise UnsupportedError(
            "nvinfer runs one graph from its start to its end, and this expert decides among early exits.",
            "Build it with --exits plain: its last exit answers.",
        )
    if len(card.classes) == 1 and card.outputs[0].kind != "scores":
        raise UnsupportedError(
            "A single class cannot be told from others: its probability would be 1 for every frame.",
            "Build an expert for two or more classes.",
        )
    spec = evenly(card.preprocess)
    writer = _Writer(model)
    frame = _front(model, card, spec, writer)
    front = len(writer.nodes)
    last = _back(model, card.outputs[0], reject, writer)
    nodes = [*writer.nodes[:front], *model.nodes, *writer.nodes[front:]]
    rows = model.outputs[card.outputs[0].name][0]
    written = replace(
        model.graph,
        nodes=[nodes[at] for at in sorted(needed(nodes, [last.name]))],
        inputs=[frame],
        outputs=[Variable(last.name, TensorProto.FLOAT, [rows, len(card.classes)])],
    )
    about = replace(
        card, input=frame.name, preprocess=spec, outputs=(Output(last.name, "probabilities"),), routes=None, exits=None
    )
    made = replace(model, graph=written, metadata={**model.metadata, CARD_KEY: about.to_json()})
    return Whole(refreshed(made), about, False)


def evenly(spec: Preprocess) -> Preprocess:
    """The preprocessing that nvinfer can do: channels first, float32, the same deviation for every channel.

    Bytes from 0 to 255 are what a network is given that scales them itself.
    """
    if spec.dtype == BYTES:
        return replace(spec, std=(1 / 255,) * 3, layout="NCHW", dtype="float32")
    return replace(spec, std=(sum(spec.std) / 3,) * 3, layout="NCHW", dtype="float32")


class _Writer:
    """Nodes as they are written: whatever is added reads tensors, or arrays, which become constants."""

    def __init__(self, model: Model) -> None:
        self.nodes: list[Node] = []
        self.taken = {t.name for node in model.nodes for t in (*node.inputs, *node.outputs)} | model.inputs.keys()

    def name(self, base: str) -> str:
        return fresh_name(base, self.taken)

    def add(self, op: str, *read: Tensor | Array, **attrs: Any) -> Tensor:
        made = self.name(f"{FRAME}.{op.lower()}")
        inputs = [t if isinstance(t, Tensor) else Constant(self.name(f"{made}.by"), t) for t in read]
        self.nodes.append(Node(op, made, attrs, inputs, [Variable(made)]))
        return self.nodes[-1].outputs[0]

    def reduce(self, op: str, scores: Tensor, opset: int) -> Tensor:
        """A reduction over the classes, which stay an axis of length 1."""
        if opset < _AXES_READ[op]:
            return self.add(op, scores, axes=[1], keepdims=1)
        return self.add(op, scores, np.array([1], np.int64), keepdims=1)

    def call(self, name: str) -> Tensor:
        """Let the last node make the tensor ``name``."""
        self.nodes[-1].outputs[:] = [Variable(name)]
        return self.nodes[-1].outputs[0]


def _front(model: Model, card: Card, spec: Preprocess, writer: _Writer) -> Variable:
    """Write what makes the input out of a new one, which is returned; whoever reads the old one reads it by name."""
    given, kind = card.preprocess, model.types.get(card.input)
    assert given is not None
    if given.dtype == BYTES:
        _require_casts(model, card.input)  # which read the same whole numbers as floats
    elif kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise ModelError(f"The input {shown(card.input)} is no tensor of floats.", "Build the bundle again.")
    frame = Variable(writer.name(FRAME), TensorProto.FLOAT, [model.inputs[card.input][0], 3, *spec.size])
    last: Tensor = frame
    if given.dtype != BYTES and len(set(given.std)) > 1:
        factor = np.array(spec.std) / np.array(given.std)
        last = writer.add("Mul", last, factor.astype(np.float32).reshape(3, 1, 1))
    if given.layout == "NHWC":
        last = writer.add("Transpose", last, perm=[0, 2, 3, 1])
    if kind == TensorProto.FLOAT16:
        last = writer.add("Cast", last, to=TensorProto.FLOAT16)
    if last is frame:
        frame.name = card.input
    else:
        writer.call(card.input)
    return frame


def _require_casts(model: Model, name: str) -> None:
    """Raise ``UnsupportedError`` if anything but a Cast reads the bytes ``name``, which become floats."""
    for node in model.nodes:
        if (node.op != "Cast" and name in [t.name for t in node.inputs]) or name in captured(node):
            raise UnsupportedError(
                f"The network takes bytes, which nvinfer does not feed, and its {shown(node.op)} needs them.",
                "Use a network that takes floats.",
            )


def _back(model: Model, output: Output, reject: Reject | None, writer: _Writer) -> Tensor:
    """Write what makes float32 probabilities out of the class scores."""
    scores: Tensor = Variable(output.name)
    if model.types.get(output.name) != TensorProto.FLOAT:
        scores = writer.add("Cast", scores, to=TensorProto.FLOAT)
    if output.kind == "logits":
        found = writer.add("Softmax", scores, axis=1)
    elif output.kind == "joint":
        found = writer.add("Div", scores, writer.reduce("ReduceSum", scores, model.opset))
    else:
        found = writer.add("Identity", scores)
    if reject is not None and reject.score != MAX_PROBABILITY:
        how = "ReduceLogSumExp" if reject.score == ENERGY else "ReduceMax"
        level = writer.reduce(how, scores, model.opset)
        none = writer.add("Less", level, np.array(reject.threshold, np.float32))
        writer.add("Where", none, np.zeros((), np.float32), found)
    return writer.call(writer.name(PROBABILITIES))
