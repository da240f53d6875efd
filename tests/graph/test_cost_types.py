"""What weights of other types and products of other kinds cost."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from networks import Net
from onnx import TensorProto

from expertc.graph import read_model
from expertc.graph.cost import Cost, cost


def of(net: Net, tensor: str, *shape: int) -> Cost:
    """The cost of a network of which ``tensor`` is the result."""
    net.result(tensor, *shape, name="scores")
    return cost(read_model(net.bytes()))


@pytest.mark.parametrize("equation", ["nk,kc->nc", " nk, kc", "...k,kc->...c"])
def test_einsum(equation: str) -> None:
    net = Net()
    net.image(3)
    tensor = net.node("Einsum", "image", net.weight(3, 5), equation=equation)
    if "->" not in equation:
        tensor = net.node("Transpose", tensor, perm=[1, 0])
    assert of(net, tensor, 5) == Cost(15, 15, 60)


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float16, 30), (ml_dtypes.bfloat16, 30), (ml_dtypes.float8_e5m2, 15), (ml_dtypes.int4, 8)]
)
def test_bytes(dtype: Any, size: int) -> None:
    net = Net(22)
    stored = net.constant(np.arange(15).reshape(3, 5).astype(dtype), "w")
    product = net.node("MatMul", net.image(3), net.node("Cast", stored, to=TensorProto.FLOAT))
    assert of(net, product, 5) == Cost(0, 15, size)


def test_a_product_in_bfloat16() -> None:
    net = Net(22)
    x = net.node("Cast", net.image(3), to=TensorProto.BFLOAT16)
    product = net.node("MatMul", x, net.weight(3, 5, dtype=ml_dtypes.bfloat16))
    assert of(net, net.node("Cast", product, to=TensorProto.FLOAT), 5) == Cost(15, 15, 30)


def test_integer_products() -> None:
    net = Net()
    x = net.node("QuantizeLinear", net.image(3), net.constant(0.02))
    product = net.node("MatMulInteger", x, net.constant(np.arange(15).reshape(3, 5).astype(np.int8), "w"))
    assert of(net, net.node("Cast", product, to=TensorProto.FLOAT), 5) == Cost(15, 15, 15 + 4)
