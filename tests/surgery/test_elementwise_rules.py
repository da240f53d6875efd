"""Unary and broadcasting operators: which axis of a constant is the class axis, and what is cut with it."""

from __future__ import annotations

import numpy as np
import pytest
from laws import check
from networks import Net, card, cut, feeds, reference, weights
from onnx import TensorProto

from expertc.card import Card, Output


def branches(opset: int = 20, channels: int = 5) -> tuple[Net, str]:
    """A net and a tensor ``[N, channels, 4, 4]`` whose channel c only class c needs."""
    net = Net(opset)
    return net, net.conv(net.image(), 3, channels, name="c")


def pooled(net: Net, tensor: str, name: str = "scores", channels: int = 5) -> Net:
    """Channel c, averaged over space, is the score of class c."""
    flat = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.result(net.node("Identity", flat, out=name), channels)
    return net


def all_outputs(net: Net) -> Card:
    """A card that calls every output logits."""
    return card(5, *(Output(value.name) for value in net.outputs))


UNARY = [
    "Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Dropout",
]  # fmt: skip
OF_A_RANGE = {"Acos": "Tanh", "Acosh": "Exp", "Asin": "Tanh", "Atanh": "Tanh", "Log": "Exp", "Sqrt": "Abs"}


def test_unary() -> None:
    net, tensor = branches()
    for op in UNARY:
        pooled(net, net.node(op, tensor), f"scores of {op}")
    for op, inner in OF_A_RANGE.items():
        shifted = net.node(inner, tensor)
        shifted = net.node("Add", shifted, net.constant(1.0, "one")) if op == "Acosh" else shifted
        pooled(net, net.node(op, shifted), f"scores of {op}")
    expert = check(net, all_outputs(net), [1, 4])
    assert expert.shapes == {"c.w": (2, 3, 1, 1), "c.b": (2,), "one": ()}
    assert expert.stopped == []


def test_swish() -> None:
    """New in opset 24, where ONNX Runtime has no kernel yet: the reference alone judges."""
    net, tensor = branches(opset=24)
    data = pooled(net, net.node("Swish", tensor, alpha=0.5)).bytes()
    expert, done = cut(data, card(5), [1, 4])
    inputs = feeds(data)
    whole, part = reference(data, inputs)["scores"], reference(expert, inputs)["scores"]
    np.testing.assert_allclose(part, whole[:, [1, 4]], rtol=1e-6)
    assert weights(expert)["c.w"].shape == (2, 3, 1, 1)
    assert not done.stopped


def test_tests_of_floats_and_bits() -> None:
    net, tensor = branches()
    bits = net.node("Cast", net.node("Mul", tensor, net.constant(8.0)), to=TensorProto.UINT8)
    signed = net.node("Cast", net.node("Mul", tensor, net.constant(8.0)), to=TensorProto.INT32)
    five = net.constant(np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1), "bits")
    number = net.constant(np.arange(1, 6, dtype=np.int32).reshape(5, 1, 1), "numbers")
    made = {
        "IsNaN": net.node(
            "IsNaN",
            net.node(
                "Where",
                net.node("Not", net.node("Cast", signed, to=TensorProto.BOOL)),
                net.constant(float("nan")),
                tensor,
            ),
        ),
        "IsInf": net.node(
            "IsInf",
            net.node(
                "Where",
                net.node("Not", net.node("Cast", bits, to=TensorProto.BOOL)),
                net.constant(float("inf")),
                tensor,
            ),
        ),
        "BitwiseNot": net.node("BitwiseNot", bits),
        "BitwiseAnd": net.node("BitwiseAnd", bits, five),
        "BitwiseOr": net.node("BitwiseOr", bits, five),
        "BitwiseXor": net.node("BitwiseXor", bits, five),
        "BitShift": net.node("BitShift", bits, five, direction="RIGHT"),
        "Mod": net.node("Mod", signed, number),
        "Or": net.node("Or", net.node("Equal", signed, number), net.node("GreaterOrEqual", signed, number)),
        "Xor": net.node("Xor", net.node("LessOrEqual", signed, number), net.node("Greater", signed, number)),
    }
    for op, result in made.items():
        pooled(net, net.node("Cast", result, to=TensorProto.FLOAT), f"scores of {op}")
    like = net.node("CastLike", bits, net.constant(np.zeros(1, np.float32)))
    pooled(net, like, "scores of CastLike")
    expert = check(net, all_outputs(net), [0, 3], alive=False)
    assert (expert.shapes["c.w"], expert.shapes["bits"]) == ((2, 3, 1, 1), (2, 1, 1))
    assert expert.stopped == []


def test_the_mask_of_a_dropout_is_cut_like_its_output() -> None:
    net, tensor = branches()
    kept, mask = net.node("Dropout", tensor, out=["kept", "mask"])
    both = net.node("Mul", kept, net.node("Cast", mask, to=TensorProto.FLOAT))
    expert = check(pooled(net, both), card(5), [1, 2])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_clip_has_its_bounds_as_inputs_and_before_opset_11_as_attributes() -> None:
    net, tensor = branches()
    bounded = net.node("Clip", tensor, net.constant(-0.5, "low"), net.constant(0.5, "high"))
    assert check(pooled(net, bounded), card(5), [0, 2], alive=False).shapes == {
        "c.w": (2, 3, 1, 1), "c.b": (2,), "low": (), "high": ()
    }  # fmt: skip
    net, tensor = branches()
    only_above = net.node("Clip", tensor, "", net.constant(0.5, "high"))
    assert check(pooled(net, only_above), card(5), [0, 4], alive=False).shapes["c.w"] == (2, 3, 1, 1)
    net, tensor = branches(opset=10)
    attributes = net.node("Clip", tensor, min=0.0, max=6.0)
    assert check(pooled(net, attributes), card(5), [1, 3], alive=False).shapes["c.b"] == (2,)


def test_cast_there_and_back() -> None:
    net, tensor = branches()
    half = net.node("Cast", tensor, to=TensorProto.FLOAT16)
    assert check(pooled(net, net.node("Cast", half, to=TensorProto.FLOAT)), card(5), [2, 3]).shapes["c.w"][0] == 2


def test_broadcast_of_a_bias_per_channel() -> None:
    net, tensor = branches()
    positive = net.node("Exp", tensor)
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"):
        pooled(net, net.node(op, positive, net.weight(5, 1, 1, name=op, positive=True)), f"scores of {op}")
    expert = check(net, all_outputs(net), [0, 3], alive=False)
    assert {shape for name, shape in expert.shapes.items() if "." not in name} == {(2, 1, 1)}
    assert expert.shapes["c.w"] == (2, 3, 1, 1)


BIASES = {
    (1, 5, 1, 1): (1, 2, 1, 1),
    (5, 1, 1): (2, 1, 1),
    (5, 4, 4): (2, 4, 4),
    (4,): (4,),  # along the width
    (4, 1): (4, 1),  # along the height
    (1, 1, 1): (1, 1, 1),
    (): (),
    (1,): (1,),
}


@pytest.mark.parametrize("first", [True, False])
def test_which_axis_of_a_bias_is_the_channel(first: bool) -> None:
    net, tensor = branches()
    for shape in BIASES:
        operands = (net.weight(*shape, name=f"k{shape}"), tensor)
        pooled(net, net.node("Mul", *(operands if first else operands[::-1])), f"scores of {shape}")
    expert = check(net, all_outputs(net), [1, 2])
    assert {shape: expert.shapes[f"k{shape}"] for shape in BIASES} == BIASES


def test_a_vector_is_the_channel_where_the_channel_is_last() -> None:
    net, tensor = branches()
    last = net.node("Transpose", tensor, perm=[0, 2, 3, 1])
    shifted = net.node("Add", last, net.weight(5, name="k"))
    expert = check(pooled(net, net.node("Transpose", shifted, perm=[0, 3, 1, 2])), card(5), [1, 2, 4])
    assert expert.shapes["k"] == (3,)


def test_a_constant_of_higher_rank_than_the_tensor() -> None:
    net, _ = branches()
    flat = net.node("Flatten", net.node("GlobalAveragePool", "c"))
    net.result(
        net.node(
            "ReduceSum",
            net.node("Mul", flat, net.weight(2, 1, 5, name="k")),
            net.constant([0]),
            keepdims=0,
            out="scores",
        ),
        5,
    )
    assert check(net, card(5), [0, 4]).shapes["k"] == (2, 1, 2)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
def test_more_than_two_operands(op: str) -> None:
    net, tensor = branches()
    total = net.node(op, tensor, net.weight(5, 1, 1, name="k"), net.weight(1, name="s"), tensor)
    expert = check(pooled(net, total), card(5), [1, 3], alive=op in ("Sum", "Mean"))
    assert expert.shapes["k"] == (2, 1, 1)


def test_prelu_slope_per_channel_and_shared() -> None:
    net, tensor = branches()
    expert = check(
        pooled(net, net.node("PRelu", tensor, net.weight(5, 1, 1, name="slope"))), card(5), [0, 4], alive=False
    )
    assert expert.shapes["slope"] == (2, 1, 1)
    net, tensor = branches()
    expert = check(pooled(net, net.node("PRelu", tensor, net.weight(1, name="slope"))), card(5), [0, 4], alive=False)
    assert expert.shapes["slope"] == (1,)


def test_where_cuts_condition_and_both_sides() -> None:
    net, tensor = branches()
    condition = net.constant(np.array([True, False, True, False, True]).reshape(5, 1, 1), "mask")
    chosen = net.node("Where", condition, tensor, net.weight(1, 5, 1, 1, name="other"))
    expert = check(pooled(net, chosen), card(5), [0, 1], alive=False)
    assert (expert.shapes["mask"], expert.shapes["other"]) == ((2, 1, 1), (1, 2, 1, 1))


def test_comparison_and_logic() -> None:
    net, tensor = branches()
    high = net.node("Greater", tensor, net.weight(5, 1, 1, name="k"))
    both = net.node("And", high, net.node("Not", net.node("Less", tensor, net.constant(-2.0))))
    expert = check(pooled(net, net.node("Cast", both, to=TensorProto.FLOAT)), card(5), [2, 3], alive=False)
    assert expert.shapes["k"] == (2, 1, 1)


def test_two_tensors_that_keep_different_channels_are_brought_together() -> None:
    """One operand comes from a softmax, which keeps every class; the other keeps the selection."""
    net = Net()
    logits = net.head(net.image(), 3, 5, name="h")
    own = net.head(net.node("Tanh", "image"), 3, 5, name="own")
    net.result(net.node("Mul", net.node("Softmax", logits, axis=1), own, out="scores"), 5)
    expert = check(net, card(5), [1, 4])
    assert (expert.shapes["h.w"], expert.shapes["own.w"]) == ((5, 3), (2, 3))
    assert expert.operators.count("Gather") == 1


def test_a_contiguous_selection_is_a_slice() -> None:
    net = Net()
    logits = net.head(net.image(), 3, 5, name="h")
    net.result(net.node("Neg", net.node("Softmax", logits, axis=1), out="scores"), 5)
    expert = check(net, card(5), [2, 3])
    assert expert.operators[-2:] == ["Slice", "Neg"]


def test_a_channel_cut_down_to_one_is_no_broadcast() -> None:
    """a + b with one channel each: cut again, both go with the channel."""
    net, tensor = branches()
    other = net.conv("image", 3, 5, name="d")
    expert = check(pooled(net, net.node("Add", tensor, other)), card(5), [3], exact=False)
    assert (expert.shapes["c.w"], expert.shapes["d.w"]) == ((1, 3, 1, 1), (1, 3, 1, 1))


def test_expand_rewrites_its_target() -> None:
    net = Net(batch=2)
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c")))
    tall = net.node("Expand", net.node("Unsqueeze", flat, net.constant([2])), net.constant([2, 5, 4]))
    net.result(net.node("ReduceSum", tall, net.constant([2]), keepdims=0, out="scores"), 5)
    expert = check(net, card(5), [1, 3])
    assert expert.shapes["c.w"] == (2, 3, 1, 1)
    assert expert.stopped == []


def test_expand_of_a_constant_along_the_classes() -> None:
    """The class axis is made by Expand: its input has one row for all."""
    net = Net(batch=2)
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.conv(net.image(), 3, 1, name="c")))
    wide = net.node("Expand", flat, net.constant([2, 5]))
    net.result(net.node("Mul", wide, net.weight(5, name="k"), out="scores"), 5)
    expert = check(net, card(5), [0, 2])
    assert expert.shapes["k"] == (2,)
    assert expert.stopped == []
