"""Healthy models with cards that the attacks damage, and the classes an expert of each is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from networks import Net, card

from expertc.card import CARD_KEY, Output

KEEP = (1, 3)
"""The classes of every expert."""


def everything() -> Net:
    """One of each operator that reads small integers or attributes."""
    net = Net()
    x = net.conv(net.image(), 3, 6, kernel=3, group=3, name="c")
    x = net.node("ConvTranspose", x, net.weight(6, 2, 2, 2, name="t"), group=3, strides=[2, 2])
    x = net.node("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 1, 1], "pads"))
    x = net.node("Resize", x, "", net.constant([1.0, 1.0, 0.5, 0.5], "scales"), mode="nearest")
    x = net.norm(net.node("MaxPool", x, kernel_shape=[2, 2]), 6)
    a, b = net.node("Split", x, net.constant([2, 4], "sizes"), out=["a", "b"], axis=1)
    x = net.node("Concat", b, a, axis=1)
    x = net.node(
        "Slice", x, *(net.constant(v, n) for v, n in (([0], "start"), ([6], "end"), ([1], "axes"), ([1], "step")))
    )
    x = net.node("Gather", x, net.constant([0, 2, 1, 5, 4, 3], "index"), axis=1)
    x = net.node("Transpose", net.node("LayerNormalization", net.node("Transpose", x, perm=[0, 2, 3, 1]),
                                       net.weight(6, name="ln"), axis=-1), perm=[0, 3, 1, 2])  # fmt: skip
    x = net.node("ReduceMean", x, net.constant([2, 3], "space"), keepdims=1)
    x = net.node("Squeeze", net.node("Unsqueeze", x, net.constant([4], "new")), net.constant([3, 4], "old"))
    x = net.node("Reshape", net.node("Flatten", x), net.constant([-1, 3, 1, 2], "target"))
    x = net.node("MatMul", x, net.weight(3, 2, 2, name="heads"))
    x = net.node("Reshape", net.node("Expand", x, net.constant([1, 3, 1, 2], "wide")), net.constant([-1, 6], "flat"))
    x = net.node("Gemm", x, net.weight(6, 6, name="fc"), net.weight(6, name="bias"), transB=1)
    net.result(net.node("Softmax", net.node("Clip", x, net.constant(-3.0, "low")), axis=1, out="scores"), 6)
    return net


def branches() -> Net:
    """A trunk with a norm and branches of three forms (separate, grouped, batched), put in another order."""
    net = Net(seed=1)
    trunk = net.node("Relu", net.norm(net.conv(net.image(), 3, 6, kernel=3, name="trunk"), 6, name="norm"))
    apart = [net.head(net.conv(trunk, 6, 4, name=f"own{k}"), 4, 1, name=f"class{k}") for k in range(2)]
    grouped = net.conv(net.conv(trunk, 6, 6, name="spread"), 6, 4, kernel=3, group=2, name="grouped")
    halves = net.node("Split", grouped, out=["left", "right"], axis=1, num_outputs=2)
    heads = [net.head(half, 2, 1, name=f"half{k}") for k, half in enumerate(halves)]
    pooled = net.node("Reshape", net.node("GlobalAveragePool", trunk), net.constant([0, 2, 1, 3], "folded"))
    batched = net.node("MatMul", pooled, net.weight(2, 3, 1, name="stack"))
    rest = net.node("Squeeze", batched, net.constant([2, 3], "thin"))
    together = net.node("Concat", *apart, rest, *heads, axis=1)
    net.result(net.node("Gather", together, net.constant([4, 0, 2, 5, 1, 3], "order"), axis=1, out="scores"), 6)
    return net


def described(net: Net, kind: str, *, check: bool = True) -> onnx.ModelProto:
    """The network with its card."""
    net.metadata = {CARD_KEY: card(6, Output("scores", kind)).to_json()}
    return net.model(check)


VICTIMS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "branches": lambda: described(branches(), "logits"),
    "everything": lambda: described(everything(), "probabilities"),
}
