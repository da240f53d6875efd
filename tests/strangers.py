"""Small files of two classes that ask for much when they run."""

from __future__ import annotations

import onnx
from networks import Net
from onnx import helper


def bomb() -> bytes:
    """A small file that asks for six gigabytes, by a size that is only known when it runs."""
    net = Net(17, seed=8)
    x = net.image(3, 8, 8)
    total = net.node("Cast", net.node("Abs", net.node("ReduceMax", x, keepdims=0)), to=onnx.TensorProto.INT64)
    size = net.node("Add", net.node("Mul", total, net.constant(0)), net.constant(6 * 2**28))
    many = net.node("ConstantOfShape", net.node("Unsqueeze", size, net.constant([0])))
    nothing = net.node("Mul", net.node("ReduceMax", many, keepdims=0), net.constant(0.0))
    net.node("Add", net.head(x, 3, 2, name="fc"), nothing, out="scores")
    net.result("scores", 2)
    return net.bytes()


def endless() -> bytes:
    """A loop of 2**62 turns."""
    net = Net(17, seed=9)
    x = net.image(3, 8, 8)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go on"]), helper.make_node("Neg", ["held"], ["held on"])],
        "turn",
        [value("turn", onnx.TensorProto.INT64, []), value("go", onnx.TensorProto.BOOL, []),
         value("held", onnx.TensorProto.FLOAT, [])],
        [value("go on", onnx.TensorProto.BOOL, []), value("held on", onnx.TensorProto.FLOAT, [])],
    )  # fmt: skip
    zero = net.node("Loop", net.constant(2**62), net.constant(True), net.constant(0.0), out="zero", body=body)
    net.node("Add", net.head(x, 3, 2, name="fc"), zero, out="scores")
    net.result("scores", 2)
    return net.bytes()
