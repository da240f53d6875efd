"""fold's laws over generated graphs: never another result beyond rounding, and nothing left for a second time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from networks import Net, feeds, operators, reference, run

from expertc.graph import read_model, to_bytes
from expertc.surgery.fold import Fold

ROUNDING = 1e-5  # of the largest magnitude
CHANNELS, SIDE = 4, 6

Draw = Callable[[int], int]
"""Draws a number below the one given."""


def constant(net: Net, draw: Draw, rank: int) -> str:
    """A factor or a summand per channel, of another axis, of all, in any of the ways to write it."""
    shapes = [(CHANNELS, *(1,) * (rank - 2)), (1, CHANNELS, *(1,) * (rank - 2)), (), (1,) * rank]
    shapes += [(SIDE,), (CHANNELS, 1, SIDE)] if rank == 4 else [(CHANNELS,)]
    shape = shapes[draw(len(shapes))]
    signs = net.random.choice((-1, 1), shape)
    return net.constant((net.random.uniform(0.5, 1.5, shape) * signs).astype("f"))


def affine(net: Net, draw: Draw, x: str, rank: int) -> str:
    """A batch norm, scale or shift; the constant on either side."""
    kind = draw(6)
    if kind == 0:
        return net.norm(x, CHANNELS)
    pair = [x, constant(net, draw, rank)]
    if kind == 1:
        return str(net.node("Div", *pair))
    if draw(2):
        pair.reverse()
    return str(net.node(("Add", "Sub", "Mul", "Mul")[kind - 2], *pair))


def weight(net: Net, *shape: int, fan_in: int) -> str:
    """Weights that keep numbers as large as they are: the law is about rounding, not about a tanh of thousands."""
    return net.constant((net.random.uniform(-2, 2, shape) / fan_in**0.5).astype("f"), "w")


def layer(net: Net, draw: Draw, x: str, rank: int) -> str:
    """A layer that keeps the number of channels, and the size of a picture."""
    bias = [net.weight(CHANNELS)] * draw(2)
    if rank == 4:
        kernel, group = (1, 3, 3)[draw(3)], (1, 2, CHANNELS)[draw(3)]
        if draw(4) == 0:
            return str(net.node("ConvTranspose", x, weight(net, 4, 4, 3, 3, fan_in=36), *bias, pads=[1] * 4))
        each = CHANNELS // group
        made = weight(net, CHANNELS, each, kernel, kernel, fan_in=each * kernel**2)
        if kernel == 3 and draw(2):  # without padding, which fold may then see through
            x = str(net.node("Conv", x, made, *bias, group=group))
            return str(net.node("Pad", x, net.constant([0, 0, 1, 1] * 2), mode="reflect"))
        return str(net.node("Conv", x, made, *bias, group=group, pads=[kernel // 2] * 4))
    made, kind = weight(net, CHANNELS, CHANNELS, fan_in=CHANNELS), draw(4)
    if kind == 0:
        return str(net.node("Gemm", x, made, *bias, transB=draw(2), alpha=0.5, beta=1.5))
    if kind == 1:
        return str(net.node("Gemm", x, made, *bias, transB=draw(2)))
    product = str(net.node("MatMul", x, made))
    return product if kind == 2 else str(net.node("Add", product, *(bias or [constant(net, draw, 2)])))


def move(net: Net, draw: Draw, x: str, rank: int) -> str:
    """A step there, and mostly back, that leaves the shape as it was."""
    kind = draw(5)
    if kind == 0:
        there = "Unsqueeze"
        return str(net.node("Squeeze", net.node(there, x, net.constant([rank])), net.constant([rank])))
    if kind == 1:
        perm = (0, 2, 3, 1) if rank == 4 else (1, 0)
        x = net.node("Transpose", x, perm=list(perm))
        x = x if draw(2) else net.node("Abs", x)
        return str(net.node("Transpose", x, perm=[perm.index(axis) for axis in range(rank)]))
    if kind == 2:
        x = net.node("Flatten", x, axis=1)
        x = x if draw(2) else net.node("Abs", x)
        return str(net.node("Reshape", x, net.constant([0, CHANNELS, *[SIDE] * (rank - 2)])))
    if kind == 3:
        return str(net.node("Cast", net.node("Cast", x, to=onnx.TensorProto.DOUBLE), to=onnx.TensorProto.FLOAT))
    return str(net.node("Identity", x))


def build(draw: Draw) -> Net:
    net = Net(seed=draw(1000))
    rank = (4, 2)[draw(2)]
    shape = (CHANNELS, SIDE, SIDE) if rank == 4 else (CHANNELS,)
    made = [net.image(*shape)]
    for _ in range(3 + draw(8)):
        x = made[-1] if draw(4) else made[draw(len(made))]
        kind = draw(8)
        if kind < 3:
            made.append(affine(net, draw, x, rank))
        elif kind < 6:
            made.append(layer(net, draw, x, rank))
        else:
            made.append(move(net, draw, x, rank) if kind == 6 else net.node("Tanh", x))
    net.result(net.node("Identity", made[-1], out="last"), *shape)
    if draw(3) == 0 and made[-2] not in ("image", made[-1]):
        net.result(made[-2], *shape)
    return net


@given(st.data())
def test_a_folded_graph_gives_the_same_numbers(data: st.DataObject) -> None:
    net = build(lambda below: data.draw(st.integers(0, below - 1)))
    given_ = net.bytes()
    model, changed = Fold().run(read_model(given_))
    result = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
    assert changed
    assert len(operators(result)) <= len(operators(given_))
    inputs = feeds(given_)
    for engine in (run, reference):
        before, after = engine(given_, inputs), engine(result, inputs)
        for name, wanted in before.items():
            scale = float(np.abs(wanted).max())
            np.testing.assert_allclose(after[name], wanted, rtol=0, atol=ROUNDING * scale, err_msg=name)
    assert to_bytes(Fold().run(model)[0]) == result
    assert to_bytes(Fold().run(read_model(result))[0]) == result
    assert to_bytes(Fold().run(read_model(given_))[0]) == result
