"""Small branched networks on images of 8 x 8 pixels, cut to an expert: what the tests of the ladder work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
from networks import Net, card
from onnx import helper, numpy_helper

from expertc.backends.cpu import open_session
from expertc.card import CARD_KEY, Card, Output
from expertc.graph import read_model, to_bytes
from expertc.preprocessing import Preprocess
from expertc.surgery.fold import Fold
from expertc.surgery.prune import prune
from expertc.verify import Certificate
from expertc.verify.inputs import prepare
from expertc.verify.ladder import climb

PREPROCESS = Preprocess((8, 8), 8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
quiet_session = partial(open_session, threads=1)

Change = Callable[[onnx.ModelProto], Any]


@dataclass(frozen=True)
class Case:
    """A full model and an expert of it: as it was cut, and folded."""

    full: bytes
    card: Card
    indices: tuple[int, ...]
    cut: bytes
    final: bytes

    def climb(self, level: str = "fast", images: np.ndarray[Any, Any] | None = None) -> Certificate:
        """The certificate of this expert."""
        model = read_model(self.full)
        inputs = prepare(images, self.card.preprocess, model.inputs[self.card.input], images=images is not None)
        return climb(
            quiet_session, model, self.cut, self.final, card=self.card, indices=self.indices, inputs=inputs, level=level
        )

    def changed(self, change: Change, *, canonical: bool = True) -> Case:
        """The case with the cut expert changed, and shipped like that."""
        cut = altered(self.cut, change)
        cut = to_bytes(read_model(cut)) if canonical else cut
        return replace(self, cut=cut, final=cut)

    def finally_changed(self, change: Change, *, canonical: bool = True) -> Case:
        """The case with only the folded expert changed."""
        final = altered(self.final, change)
        return replace(self, final=to_bytes(read_model(final)) if canonical else final)


def altered(model: bytes, change: Change) -> bytes:
    """``model`` with ``change`` applied to its protobuf."""
    proto = onnx.load_from_string(model)
    change(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def case(full: bytes, card: Card, indices: tuple[int, ...]) -> Case:
    """Cut ``full`` to ``indices``."""
    card = replace(card, preprocess=PREPROCESS)
    full = altered(full, lambda proto: helper.set_model_props(proto, {CARD_KEY: card.to_json()}))
    cut = to_bytes(prune(read_model(full), card, indices).model)
    return Case(full, card, indices, cut, to_bytes(Fold().run(read_model(cut))[0]))


# -- networks ------------------------------------------------------------------------------------------------------


def _trunk(net: Net, name: str = "trunk") -> str:
    x = net.image(3, 8, 8)
    return str(net.node("Relu", net.norm(net.conv(x, 3, 8, kernel=3, name=f"{name}.conv"), 8, name=f"{name}.bn")))


def _branch(net: Net, x: str, channels: int, name: str, classes: int = 1) -> str:
    x = net.norm(net.conv(x, channels, 4, kernel=3, bias=False, name=f"{name}.conv"), 4, name=f"{name}.bn")
    return net.head(net.node("Relu", x, out=f"{name}.relu"), 4, classes, name=f"{name}.head")


@cache
def separate(indices: tuple[int, ...] = (1, 3), batch: int | str = "batch") -> Case:
    """Five classes, each a branch of its own on the trunk."""
    net = Net(17, batch=batch)
    x = _trunk(net)
    net.node("Concat", *(_branch(net, x, 8, f"b{i}") for i in range(5)), out="scores", axis=1)
    net.result("scores", 5)
    return case(net.bytes(), card(5), indices)


@cache
def grouped(indices: tuple[int, ...] = (1, 3)) -> Case:
    """The same as one wide convolution with a group per class."""
    net = Net(17, seed=1)
    x = net.conv(_trunk(net), 8, 20, name="wide")
    x = net.norm(net.conv(x, 20, 20, kernel=3, group=5, name="groups"), 20, name="bn")
    x = net.node("GlobalAveragePool", net.node("Relu", x))
    net.node("Flatten", net.conv(x, 20, 5, group=5, name="heads"), out="scores", axis=1)
    net.result("scores", 5)
    return case(net.bytes(), card(5), indices)


@cache
def nested(indices: tuple[int, ...] = (0, 3, 4)) -> Case:
    """Two categories with two and three classes; a category is a convolution that its classes share."""
    net = Net(17, seed=2)
    x = _trunk(net)
    made = []
    for name, classes in (("left", (0, 1)), ("right", (2, 3, 4))):
        inner = net.node("Relu", net.conv(x, 8, 6, kernel=3, name=f"{name}.conv"), out=f"{name}.relu")
        made.append(net.node("Concat", *(_branch(net, inner, 6, f"c{i}") for i in classes), out=name, axis=1))
    net.node("Concat", *made, out="scores", axis=1)
    net.result("scores", 5)
    return case(net.bytes(), card(5), indices)


@cache
def softmax(indices: tuple[int, ...] = (0, 2), end: str = "Softmax") -> Case:
    """A plain network that ends in a softmax over six classes."""
    net = Net(17, seed=3)
    logits = net.head(_trunk(net), 8, 6, name="fc")
    if end == "Softmax":
        net.node("Softmax", logits, out="scores", axis=1)
    elif end == "LogSoftmax":
        net.node("LogSoftmax", logits, out="scores", axis=-1)
    else:
        net.node("Log", net.node("Softmax", logits, axis=-1), out="scores")
    net.result("scores", 6)
    kind = "probabilities" if end == "Softmax" else "logits"
    return case(net.bytes(), card(6, Output("scores", kind)), indices)


@cache
def normalised(indices: tuple[int, ...] = (1, 2)) -> Case:
    """Scores that are normalised over all classes: the expert keeps them all inside and takes its rows at the end."""
    net = Net(17, seed=4)
    logits = net.head(_trunk(net), 8, 5, name="fc")
    vectors = (net.weight(5, name="ln.g"), net.weight(5, name="ln.b"))
    net.node("LayerNormalization", logits, *vectors, out="scores", axis=-1)
    net.result("scores", 5)
    return case(net.bytes(), card(5), indices)


@cache
def indexed(indices: tuple[int, ...] = (0, 3)) -> Case:
    """The output is the index of the best of four classes."""
    net = Net(17, seed=5)
    logits = net.head(_trunk(net), 8, 4, name="fc")
    best = net.node("ArgMax", logits, out="scores", axis=1, keepdims=0)
    net.outputs.append(helper.make_tensor_value_info(best, onnx.TensorProto.INT64, ["batch"]))
    return case(net.bytes(), card(4), indices)


@cache
def shuffled(indices: tuple[int, ...] = (0, 1)) -> Case:
    """Branches that are split off one tensor, so that Split and Concat disappear in an expert; axes from opset 11."""
    net = Net(11, seed=6)
    parts = net.node("Split", _trunk(net), out=["p0", "p1", "p2", "p3"], axis=1, split=[2, 2, 2, 2])
    pairs = [net.node("Concat", parts[i], parts[(i + 1) % 4], out=f"pair{i}", axis=1) for i in range(4)]
    net.node("Concat", *(_branch(net, pair, 4, f"s{i}") for i, pair in enumerate(pairs)), out="scores", axis=1)
    net.result("scores", 4)
    return case(net.bytes(), card(4), indices)


@cache
def several(indices: tuple[int, ...] = (1, 4)) -> Case:
    """Logits, their softmax, the index of the best, and a picture that has nothing to do with classes."""
    net = Net(17, seed=10)
    x = _trunk(net)
    logits = net.head(x, 8, 5, name="fc")
    net.result(net.node("Softmax", logits, out="likely", axis=1), 5)
    net.result(logits, 5)
    best = net.node("ArgMax", logits, out="best", axis=1, keepdims=1)
    net.outputs.append(helper.make_tensor_value_info(best, onnx.TensorProto.INT64, ["batch", 1]))
    net.result(net.node("ReduceMean", x, axes=[1], out="picture"), 1, 8, 8)
    outputs = (Output("likely", "probabilities"), Output("fc"), Output("best"))
    return case(net.bytes(), card(5, *outputs), indices)


@cache
def captured(indices: tuple[int, ...] = (0,)) -> Case:
    """Two branches; an If node reads the first one's part of a Split by its name, from inside."""
    net = Net(17, seed=7)
    parts = net.node("Split", _trunk(net), out=["p0", "p1"], axis=1)
    inner = [
        helper.make_graph(
            [helper.make_node(op, [parts[0]], [f"inner {op}"])], op, [],
            [helper.make_tensor_value_info(f"inner {op}", onnx.TensorProto.FLOAT, ["batch", 4, 8, 8])],
        )
        for op in ("Relu", "Neg")
    ]  # fmt: skip
    total = net.node("ReduceSum", parts[0], keepdims=0)
    positive = net.node("Greater", total, net.constant(1.0))
    first = net.node("If", positive, out="first", then_branch=inner[0], else_branch=inner[1])
    net.node("Concat", _branch(net, first, 4, "b0"), _branch(net, parts[1], 4, "b1"), out="scores", axis=1)
    net.result("scores", 2)
    return case(net.bytes(), card(2), indices)


@cache
def deciding(indices: tuple[int, ...] = (1, 4)) -> Case:
    """Bright images are judged by one linear layer, dark ones by another; their weights have the same names."""
    net = Net(17, seed=8)
    flat = net.node("Flatten", net.node("GlobalAveragePool", _trunk(net)))
    random = np.random.default_rng(8)
    layers = []
    for name in ("bright", "dark"):
        values = {"w": random.standard_normal((5, 8)), "b": random.standard_normal(5)}
        layers.append(
            helper.make_graph(
                [helper.make_node("Gemm", [flat, "w", "b"], ["judged"], transB=1)], name, [],
                [helper.make_tensor_value_info("judged", onnx.TensorProto.FLOAT, ["batch", 5])],
                [numpy_helper.from_array(array.astype(np.float32), key) for key, array in values.items()],
            )
        )  # fmt: skip
    bright = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    net.node("If", bright, out="scores", then_branch=layers[0], else_branch=layers[1])
    net.result("scores", 5)
    return case(net.bytes(), card(5), indices)


# -- editing -------------------------------------------------------------------------------------------------------


def node(proto: onnx.ModelProto, output: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    return next(item for item in proto.graph.node if output in item.output)


def weight(proto: onnx.ModelProto, name: str) -> np.ndarray[Any, Any]:
    """A copy of an initializer's values."""
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name)).copy()


def put(proto: onnx.ModelProto, name: str, values: np.ndarray[Any, Any]) -> None:
    """Replace an initializer, or add one."""
    found = next((t for t in proto.graph.initializer if t.name == name), None)
    made = numpy_helper.from_array(np.ascontiguousarray(values), name)
    if found is None:
        proto.graph.initializer.append(made)
    else:
        found.CopyFrom(made)


def attribute(proto: onnx.ModelProto, output: str, name: str, value: Any) -> None:
    """Set an attribute of the node that makes ``output``."""
    item = node(proto, output)
    kept = [a for a in item.attribute if a.name != name]
    del item.attribute[:]
    item.attribute.extend([*kept, helper.make_attribute(name, value)])


def rewire(proto: onnx.ModelProto, output: str, position: int, tensor: str) -> None:
    """Let the node that makes ``output`` read another tensor."""
    node(proto, output).input[position] = tensor


def insert_after(proto: onnx.ModelProto, tensor: str, op: str, *inputs: str, **attributes: Any) -> None:
    """Put a node behind ``tensor``, which keeps its name for whoever reads it; its maker's is the cut's for such."""
    maker = node(proto, tensor)
    maker.output[list(maker.output).index(tensor)] = f"{tensor}@whole"
    made = helper.make_node(op, [f"{tensor}@whole", *inputs], [tensor], name=f"extra {op}", **attributes)
    proto.graph.node.insert(list(proto.graph.node).index(maker) + 1, made)
