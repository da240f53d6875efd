"""Parameters and MACs: against numbers computed by hand, and against what has been published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import Net
from onnx import TensorProto, helper

from expertc.graph import read_model
from expertc.graph.cost import Cost, cost


def of(net: Net) -> Cost:
    return cost(read_model(net.bytes()))


class Zeros(Net):
    """Weights of zeros: only their number matters, and random ones take time."""

    def weight(self, *shape: int, name: str = "w", dtype: Any = np.float32, positive: bool = False) -> str:
        return self.constant(np.zeros(shape, np.float16), name)

    def layer(self, x: str, cin: int, cout: int, kernel: int, stride: int, *, relu: bool = True) -> str:
        """Convolution without bias, batch norm, ReLU."""
        name = self.fresh("conv")
        y = self.node(
            "Conv", x, self.weight(cout, cin, kernel, kernel, name=f"{name}.w"),
            strides=[stride] * 2, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2,
        )  # fmt: skip
        y = self.norm(y, cout)
        return str(self.node("Relu", y)) if relu else y


def resnet(blocks: tuple[int, ...], bottleneck: bool, classes: int = 1000) -> Net:
    """ResNet as published (He et al., 2015, table 1), stride in the 3x3 of a bottleneck as everybody builds it."""
    net = Zeros(17)
    x = net.layer(net.image(3, 224, 224, dtype=TensorProto.FLOAT16), 3, 64, 7, 2)
    x, cin = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            stride, cout = (2 if stage and not block else 1), width * (4 if bottleneck else 1)
            if bottleneck:
                y = net.layer(net.layer(x, cin, width, 1, 1), width, width, 3, stride)
                y = net.layer(y, width, cout, 1, 1, relu=False)
            else:
                y = net.layer(net.layer(x, cin, width, 3, stride), width, cout, 3, 1, relu=False)
            short = x if (cin, stride) == (cout, 1) else net.layer(x, cin, cout, 1, stride, relu=False)
            x, cin = net.node("Relu", net.node("Add", y, short)), cout
    net.result(net.head(x, cin, classes, name="scores"), classes, dtype=TensorProto.FLOAT16)
    return net


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "parameters", "macs"),
    [
        # torchvision's model table prints 11689512 and 25557032 parameters, 1.81 and 4.09 GFLOPS
        ((2, 2, 2, 2), False, 11_689_512, 1_814_073_344),
        ((3, 4, 6, 3), True, 25_557_032, 4_089_184_256),
    ],
)
def test_resnets_have_the_published_size(blocks: tuple[int, ...], bottleneck: bool, parameters: int, macs: int) -> None:
    net = resnet(blocks, bottleneck)
    found = of(net)
    assert (found.parameters, found.macs) == (parameters, macs)
    # In float16; running statistics are stored though they are not parameters.
    statistics = sum(values.size for name, values in net.initializers.items() if name.endswith((".mean", ".var")))
    assert found.weight_bytes == 2 * (parameters + statistics)


def test_a_convolution_by_hand() -> None:
    net = Net()
    net.result(net.conv(net.image(4, 8, 8), 4, 6, kernel=3, name="c"), 6, 8, 8)
    assert of(net) == Cost(6 * 4 * 9 + 6, 8 * 8 * 6 * 4 * 9, 4 * (6 * 4 * 9 + 6))


def test_grouped_strided_and_dilated_convolutions() -> None:
    net = Net()
    strided = net.node("Conv", net.image(4, 8, 8), net.weight(8, 2, 3, 3), group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    net.result(strided, 8, 4, 4)
    assert of(net) == Cost(144, 4 * 4 * 8 * 2 * 9, 576)
    net = Net()
    dilated = net.node("Conv", net.image(8, 9, 9), net.weight(8, 1, 3, 3), group=8, dilations=[2, 2])
    net.result(dilated, 8, 5, 5)
    assert of(net) == Cost(72, 5 * 5 * 8 * 9, 288)


def test_a_transposed_convolution_counts_every_input_with_every_weight_of_its_channel() -> None:
    net = Net()
    up = net.node("ConvTranspose", net.image(8, 4, 4), net.weight(8, 4, 3, 3), strides=[2, 2])
    net.result(up, 4, 9, 9)
    assert of(net).macs == 8 * 4 * 4 * 4 * 9


@pytest.mark.parametrize("trans_a", [0, 1])
def test_matrix_products(trans_a: int) -> None:
    net = Net(batch=1)
    x = net.node("Flatten", net.image(5, 1, 1))
    if trans_a:
        x = net.node("Transpose", x, perm=[1, 0])
    net.result(net.node("Gemm", x, net.weight(5, 7, name="w"), net.weight(7, name="b"), transA=trans_a), 7)
    assert of(net) == Cost(42, 35, 168)


def test_a_batched_product_and_one_of_two_activations() -> None:
    net = Net()
    tokens = net.node("Reshape", net.image(8, 4, 4), net.constant([0, 2, 4, 16]))  # heads, channels, positions
    turned = net.node("Transpose", tokens, perm=[0, 1, 3, 2])
    scores = net.node("MatMul", turned, tokens)  # 2 x 16 x 16, inner 4
    net.result(net.node("MatMul", scores, net.weight(2, 16, 3, name="heads")), 2, 16, 3)
    assert of(net).macs == 2 * 16 * 16 * 4 + 2 * 16 * 3 * 16
    assert of(net).parameters == 2 * 16 * 3


def test_tokens_of_one_image_are_counted_where_the_batch_is_folded_into_them() -> None:
    """[N, 16, 8] to [16 N, 8] and back, as exporters write a linear layer on tokens."""
    net = Net()
    tokens = net.node("Transpose", net.image(8, 4, 4), perm=[0, 2, 3, 1])
    rows = net.node("Gemm", net.node("Reshape", tokens, net.constant([-1, 8])), net.weight(8, 5))
    net.result(net.node("Reshape", rows, net.constant([-1, 16, 5])), 16, 5)
    assert of(net).macs == 16 * 8 * 5


def test_an_einsum() -> None:
    net = Net()
    tokens = net.node("Reshape", net.image(8, 4, 4), net.constant([0, 2, 4, 16]))
    net.result(net.node("Einsum", tokens, net.weight(2, 4, 3), equation="nhcp, hck -> nhpk"), 2, 16, 3)
    assert of(net).macs == 2 * 16 * 3 * 4


def test_the_batch_does_not_count() -> None:
    for batch in ("batch", 1):
        net = Net(batch=batch)
        net.result(net.head(net.image(), 3, 4), 4)
        assert of(net).macs == 12


def test_roles_of_what_is_trained() -> None:
    net = Net()
    x = net.norm(net.image(), 3)  # scale and bias, not the statistics
    x = net.node("Mul", x, net.weight(3, 1, 1, name="gain"))
    x = net.node("Add", x, net.constant(0.5, "arithmetic"))
    x = net.node("PRelu", x, net.weight(3, 1, 1, name="slope"))
    x = net.node("LayerNormalization", x, net.weight(4, name="g"), net.weight(4, name="b"), axis=-1)
    x = net.node("Reshape", x, net.constant([0, 3, 16], "shape"))
    net.result(x, 3, 16)
    found = of(net)
    assert found.parameters == 2 * 3 + 3 + 3 + 2 * 4
    assert found.weight_bytes == 4 * (4 * 3 + 3 + 1 + 3 + 8) + 3 * 8
    assert found.macs == 0


def test_a_weight_counts_once_per_consumer_and_its_bytes_once() -> None:
    net = Net()
    shared = net.weight(3, 3, 1, 1, name="shared")
    net.result(net.node("Conv", net.node("Conv", net.image(), shared), shared), 3, 4, 4)
    assert of(net) == Cost(18, 2 * 9 * 16, 36)


def test_costs_add() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)


@pytest.mark.parametrize(
    ("mixed", "other", "ways"), [(False, "Identity", 1), (True, "Identity", 2), (False, "Conv", 2)]
)
def test_branches_of_different_columns_exclude_each_other(mixed: bool, other: str, ways: int) -> None:
    """But not where the columns were mixed on the way: both may be the same one then, as they are here; nor where a
    branch that is not taken computes something else.
    """
    net = Net()
    image = net.image()
    hot = net.node("Hardmax", net.node("Flatten", net.node("GlobalAveragePool", image)), axis=1)
    weight = net.weight(3, 3, 1, 1, name="shared")
    for column in (0, 1):
        seen = net.node("Gather", hot, net.constant([1 - column, column]), axis=1) if mixed else hot
        own = net.node("Slice", seen, *(net.constant([value]) for value in (column, column + 1, 1)))
        go = net.node("Cast", net.node("Squeeze", own), to=TensorProto.BOOL)
        made = helper.make_tensor_value_info(f"made{column}", TensorProto.FLOAT, (1, 3, 4, 4))
        taken, left = (
            helper.make_graph([helper.make_node(op, inputs, [made.name])], f"{op}{column}", [], [made])
            for op, inputs in (("Conv", [image, weight]), (other, [image, weight] if other == "Conv" else [image]))
        )
        net.result(net.node("If", go, then_branch=taken, else_branch=left, out=f"out{column}"), 3, 4, 4)
    assert of(net).macs == ways * 4 * 4 * 3 * 3
