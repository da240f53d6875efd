"""Each rule of fold: what is gone, what stays where it would not be exact, and types that are kept."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from networks import Array, Net, feeds, operators, reference, run, weights
from onnx import TensorProto, external_data_helper

from expertc.errors import ModelError
from expertc.graph import read_model, to_bytes
from expertc.surgery.fold import Fold

FULL = 1e-5  # of the largest magnitude, in float32


def folded(net: Net, *, judged: bool = True, within: float = FULL) -> bytes:
    """The folded file: the same numbers in ONNX Runtime and in ONNX's reference, and what fold leaves alone."""
    data = net.bytes()
    model, _ = Fold().run(read_model(data))
    result = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
    inputs = feeds(data)
    for engine in (run, reference) if judged else (run,):
        before, after = engine(data, inputs), engine(result, inputs)
        for name, wanted in before.items():
            scale = float(np.abs(wanted.astype(np.float64)).max())
            assert after[name].dtype == wanted.dtype
            np.testing.assert_allclose(after[name], wanted, rtol=0, atol=within * scale, err_msg=name)
    again, more = Fold().run(read_model(result))
    assert not more
    assert to_bytes(again) == result
    return result


Layer = Callable[[Net, str], str]
"""Adds a layer that makes 6 channels of 4."""


def conv(net: Net, x: str, **attributes: object) -> str:
    return str(net.node("Conv", x, net.weight(6, 4, 3, 3), net.weight(6), **attributes))


def grouped(net: Net, x: str) -> str:
    return str(net.node("Conv", x, net.weight(6, 2, 1, 1), group=2))


def turned(net: Net, x: str) -> str:
    return str(net.node("ConvTranspose", x, net.weight(4, 6, 2, 2), strides=[2, 2]))


def turned_groups(net: Net, x: str) -> str:
    return str(net.node("ConvTranspose", x, net.weight(4, 3, 2, 2), net.weight(6), group=2, strides=[2, 2]))


def gemm(net: Net, x: str) -> str:
    return str(net.node("Gemm", x, net.weight(6, 4), net.weight(6), transB=1, alpha=0.5, beta=2.0))


def gemm_plain(net: Net, x: str) -> str:
    return str(net.node("Gemm", x, net.weight(4, 6)))


def product(net: Net, x: str) -> str:
    return str(net.node("MatMul", x, net.weight(4, 6)))


def product_and_bias(net: Net, x: str) -> str:
    return str(net.node("Add", net.weight(6), product(net, x)))


PICTURES = {"conv": conv, "grouped": grouped, "turned": turned, "turned groups": turned_groups}
ROWS = {"gemm": gemm, "gemm plain": gemm_plain, "product": product, "product and bias": product_and_bias}
LAYERS: dict[str, Layer] = PICTURES | ROWS


def start(net: Net, layer: str) -> str:
    """A nonlinear tensor that the layer can read."""
    return str(net.node("Tanh", net.image(4, 5, 5) if layer in PICTURES else net.image(4)))


def finish(net: Net, x: str, layer: str) -> Net:
    net.result(net.node("Tanh", x, out="y"), *([6, None, None] if layer in PICTURES else [6]))
    return net


def vector(net: Net, layer: str, channels: int) -> str:
    return net.constant(net.random.uniform(0.5, 2, (channels, 1, 1) if layer in PICTURES else channels).astype("f"))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("operator", ["Mul", "Div", "Add", "Sub", "from", "BatchNormalization"])
def test_behind_a_layer(layer: str, operator: str) -> None:
    net = Net()
    x = LAYERS[layer](net, start(net, layer))
    if operator == "BatchNormalization":
        y = net.norm(x, 6)
    elif operator == "from":
        y = net.node("Sub", vector(net, layer, 6), x)
    else:
        y = net.node(operator, x, vector(net, layer, 6))
    kept = operators(folded(finish(net, y, layer), judged=layer != "turned groups"))
    bias = {"product and bias": ["Add"], "product": [{"Mul": "", "Div": "", "Sub": "Sub"}.get(operator, "Add")]}
    wanted = ["Tanh", net.nodes[1].op_type, *bias.get(layer, []), "Tanh"]
    assert kept == [op for op in wanted if op]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("operator", ["Mul", "Div", "Add", "Sub", "BatchNormalization"])
def test_before_a_layer(layer: str, operator: str) -> None:
    """A shift cannot go into a transposed convolution, whose borders have fewer taps, nor where there is no bias."""
    net = Net()
    x = start(net, layer)
    x = net.norm(x, 4) if operator == "BatchNormalization" else net.node(operator, x, vector(net, layer, 4))
    kept = operators(folded(finish(net, LAYERS[layer](net, x), layer), judged=layer != "turned groups"))
    stays = operator not in ("Mul", "Div") and layer in ("turned", "turned groups", "product")
    assert (operator in kept[1:2]) == stays
    assert len(kept) == 3 + stays + (layer == "product and bias")


@pytest.mark.parametrize("padding", [{"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 1, 0]}, {"auto_pad": "SAME_UPPER"}])
def test_before_a_padded_convolution_a_scale_goes_and_a_shift_stays(padding: dict[str, object]) -> None:
    net = Net()
    x = net.node("Mul", net.node("Sub", start(net, "conv"), vector(net, "conv", 4)), vector(net, "conv", 4))
    assert operators(folded(finish(net, conv(net, x, **padding), "conv"))) == ["Tanh", "Sub", "Conv", "Tanh"]
    net = Net()
    x = net.norm(start(net, "conv"), 4)
    assert "BatchNormalization" in operators(folded(finish(net, conv(net, x, **padding), "conv")))


def test_before_an_explicitly_unpadded_convolution_both_go() -> None:
    net = Net()
    x = net.node("Mul", net.node("Sub", start(net, "conv"), vector(net, "conv", 4)), vector(net, "conv", 4))
    assert operators(folded(finish(net, conv(net, x, auto_pad="VALID"), "conv"))) == ["Tanh", "Conv", "Tanh"]


def test_a_mean_far_from_zero_is_not_subtracted_behind_the_products() -> None:
    net = Net()
    vectors = [net.constant(np.full(4, value, np.float32)) for value in (1.0, 0.0, 500.0, 1.0)]
    x = net.node("BatchNormalization", start(net, "conv"), *vectors)
    assert "BatchNormalization" in operators(folded(finish(net, conv(net, x), "conv")))


def test_a_variance_below_zero_is_left_to_the_runtime() -> None:
    net = Net()
    vectors = [net.constant(np.full(6, value, np.float32)) for value in (1.0, 0.0, 0.0, -1.0)]
    y = net.node("BatchNormalization", conv(net, start(net, "conv")), *vectors)
    model, changed = Fold().run(read_model(finish(net, y, "conv").bytes()))
    assert (changed, [node.op for node in model.nodes][2]) == (False, "BatchNormalization")


@pytest.mark.parametrize("attributes", [{"group": 0}, {"group": 4}])
def test_a_malformed_layer_is_named(attributes: dict[str, object]) -> None:
    net = Net()
    y = net.node("Mul", conv(net, start(net, "conv"), **attributes), vector(net, "conv", 6))
    data = finish(net, y, "conv").model(check=False).SerializeToString()
    with pytest.raises(ModelError, match="malformed"):
        Fold().run(read_model(data))


def test_a_scale_along_another_axis_stays() -> None:
    for shape in ((1, 5), (5, 1), (1, 1, 5, 5), (4, 1, 1, 1)):
        net = Net(batch=4)
        x = net.node("Conv", start(net, "conv"), net.weight(5, 4, 1, 1))
        y = net.node("Mul", x, net.constant(net.random.uniform(0.5, 2, shape).astype("f")))
        net.result(net.node("Tanh", y, out="y"), 5, 5, 5)
        assert "Mul" in operators(folded(net))


def test_a_shift_along_another_axis_stays_before_a_convolution() -> None:
    net = Net()
    x = net.node("Add", start(net, "conv"), net.constant(net.random.normal(size=(4, 1, 5)).astype("f")))
    assert operators(folded(finish(net, conv(net, x), "conv"))) == ["Tanh", "Add", "Conv", "Tanh"]


def test_batched_products_take_a_scale_per_batch_and_column() -> None:
    net = Net()
    x = net.node("MatMul", net.node("Tanh", net.image(3, 2, 4)), net.weight(3, 4, 6))
    x = net.node("Add", x, net.constant(net.random.normal(size=(3, 1, 6)).astype("f")))
    x = net.node("Mul", x, net.constant(net.random.normal(size=(3, 1, 6)).astype("f")))
    x = net.node("Add", x, net.constant(net.random.normal(size=(1, 2, 6)).astype("f")))  # would make the bias larger
    net.result(net.node("Tanh", x, out="y"), 3, 2, 6)
    assert operators(folded(net)) == ["Tanh", "MatMul", "Add", "Add", "Tanh"]


def test_a_whole_chain_becomes_one_layer() -> None:
    net = Net()
    x = net.norm(net.node("Mul", start(net, "conv"), net.constant(2.0)), 4)
    x = net.norm(conv(net, net.node("Identity", x)), 6)
    for operator in ("Mul", "Sub", "Div", "Add"):
        x = net.node(operator, x, vector(net, "conv", 6))
    assert operators(folded(finish(net, x, "conv"))) == ["Tanh", "Conv", "Tanh"]


def test_scales_and_shifts_in_a_row_become_one() -> None:
    net = Net()
    x = start(net, "conv")
    for operator in ("Mul", "Div", "Mul", "Add", "Sub"):
        x = net.node(operator, x, vector(net, "conv", 4))
    net.result(net.node("Tanh", x, out="y"), 4, 5, 5)
    assert operators(folded(net)) == ["Tanh", "Mul", "Add", "Tanh"]


@pytest.mark.parametrize("reader", ["node", "output"])
def test_what_somebody_else_reads_is_not_changed(reader: str) -> None:
    for place in ("behind", "before"):
        net = Net()
        x = start(net, "conv")
        scaled = net.node("Mul", x, vector(net, "conv", 4)) if place == "before" else x
        made = conv(net, scaled)
        y = net.node("Mul", made, vector(net, "conv", 6)) if place == "behind" else made
        other = made if place == "behind" else scaled
        finish(net, y, "conv")
        net.result(net.node("Relu", other) if reader == "node" else other, None, None, None)
        assert "Mul" in operators(folded(net))


def test_reading_a_shape_keeps_nothing_alive() -> None:
    net = Net()
    x = start(net, "conv")
    scaled = net.node("Mul", net.node("Cast", x, to=TensorProto.FLOAT), vector(net, "conv", 4))
    y = conv(net, scaled)
    rows = net.node("Slice", net.node("Shape", scaled), net.constant([0]), net.constant([1]))
    net.result(rows, name="rows", dtype=TensorProto.INT64)
    net.outputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    kept = operators(folded(finish(net, y, "conv")))
    assert sorted(kept) == ["Conv", "Shape", "Slice", "Tanh", "Tanh"]


def test_a_shared_weight_is_not_changed_for_the_others() -> None:
    net = Net()
    x, shared = start(net, "conv"), net.weight(6, 4, 1, 1, name="shared")
    one = net.node("Mul", net.node("Conv", x, shared), vector(net, "conv", 6))
    net.result(net.node("Sub", one, net.node("Conv", x, shared), out="y"), 6, 5, 5)
    result = folded(net)
    assert operators(result) == ["Tanh", "Conv", "Conv", "Sub"]
    assert np.array_equal(weights(result)["shared"], net.initializers["shared"])


@pytest.mark.parametrize("type_", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_types_are_kept(type_: type) -> None:
    net = Net()
    kind = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type_)))
    x = net.node("Mul", net.node("Cast", net.image(4), to=kind), net.weight(4, dtype=type_))
    x = net.node("Gemm", x, net.weight(4, 6, dtype=type_), net.weight(6, dtype=type_))
    x = net.node("Add", net.node("Mul", x, net.weight(6, dtype=type_)), net.weight(6, dtype=type_))
    net.result(net.node("Cast", x, to=TensorProto.FLOAT, out="y"), 6)
    data = net.bytes()
    result = to_bytes(Fold().run(read_model(data))[0])
    assert operators(result) == ["Cast", "Gemm", "Cast"]
    assert all(values.dtype == np.dtype(type_) for values in weights(result).values())
    onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
    before, after = reference(data, feeds(data))["y"], reference(result, feeds(data))["y"]
    within = 20 * float(ml_dtypes.finfo(type_).eps)
    np.testing.assert_allclose(after, before, rtol=0, atol=within * float(np.abs(before).max()))


def test_a_weight_that_would_overflow_its_type_stays() -> None:
    net = Net()
    x = net.node("Gemm", net.node("Cast", net.image(4), to=TensorProto.FLOAT16), net.weight(4, 6, dtype=np.float16))
    x = net.node("Mul", x, net.constant(np.full(6, 60000, np.float16)))
    x = net.node("Mul", net.node("Tanh", x), net.constant(np.full(6, 2, np.float16)))
    net.result(net.node("Cast", x, to=TensorProto.FLOAT, out="y"), 6)
    net.initializers["w"] = np.full((4, 6), 2, np.float16)
    assert operators(to_bytes(Fold().run(read_model(net.bytes()))[0])).count("Mul") == 2


def one_input(*nodes: Callable[[Net, str], str]) -> Net:
    net = Net()
    x = net.node("Tanh", net.image(4, 5, 6))
    for node in nodes:
        x = node(net, x)
    net.result(net.node("Tanh", x, out="y"), *[None] * 3)
    return net


def moved(*perm: int) -> Callable[[Net, str], str]:
    return lambda net, x: str(net.node("Transpose", x, perm=list(perm)))


def shaped(*shape: int) -> Callable[[Net, str], str]:
    return lambda net, x: str(net.node("Reshape", x, net.constant(list(shape))))


def on_axes(op: str, *axes: int) -> Callable[[Net, str], str]:
    return lambda net, x: str(net.node(op, x, net.constant(list(axes))))


def flat(axis: int) -> Callable[[Net, str], str]:
    return lambda net, x: str(net.node("Flatten", x, axis=axis))


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ([moved(0, 2, 3, 1), moved(0, 3, 1, 2)], []),
        ([moved(0, 1, 2, 3)], []),
        ([moved(0, 2, 3, 1), moved(0, 2, 3, 1)], ["Transpose"]),
        ([moved(0, 2, 3, 1), moved(0, 2, 1, 3), moved(0, 1, 3, 2)], ["Transpose"]),
        ([shaped(0, 20, 6), shaped(0, 4, 5, 6)], []),
        ([shaped(-1, 4, 5, 6)], []),
        ([on_axes("Unsqueeze", 1), on_axes("Squeeze", 1)], []),
        ([on_axes("Unsqueeze", 4), shaped(0, 4, 30), on_axes("Unsqueeze", 1), shaped(-1, 20, 2, 3)], ["Reshape"]),
        ([flat(1), shaped(0, 4, 5, 6)], []),
        ([shaped(0, 20, 6, 1), flat(1), on_axes("Unsqueeze", 1, 2)], ["Reshape"]),
        ([flat(1), moved(1, 0), moved(1, 0), shaped(0, 4, 5, 6)], []),
        ([shaped(0, 20, 6), moved(0, 2, 1), shaped(0, 4, 5, 6)], ["Reshape", "Transpose", "Reshape"]),
    ],
)  # fmt: skip
def test_moves_of_data(nodes: list[Callable[[Net, str], str]], left: list[str]) -> None:
    assert operators(folded(one_input(*nodes))) == ["Tanh", *left, "Tanh"]


def to(*types: int) -> Net:
    net = Net()
    x = net.node("Tanh", net.image(4))
    for kind in types:
        x = net.node("Cast", x, to=kind)
    net.result(x, 4, name="y", dtype=types[-1])
    return net


@pytest.mark.parametrize(
    ("types", "left"),
    [
        ([TensorProto.DOUBLE, TensorProto.FLOAT], 0),
        ([TensorProto.DOUBLE, TensorProto.FLOAT16], 1),
        ([TensorProto.FLOAT16, TensorProto.FLOAT], 2),
        ([TensorProto.INT64, TensorProto.INT64], 1),
        ([TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT32], 2),
        ([TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT], 3),
    ],
)
def test_casts(types: list[int], left: int) -> None:
    assert operators(folded(to(*types), judged=False)).count("Cast") == left


def test_one_cast_is_enough() -> None:
    net = Net()
    x = net.node("Tanh", net.image(4))
    halves = [net.node("Cast", x, to=TensorProto.DOUBLE) for _ in range(3)]
    net.result(net.node("Sum", *halves, out="y"), 4, dtype=TensorProto.DOUBLE)
    assert operators(folded(net)) == ["Tanh", "Cast", "Sum"]


def test_weights_in_a_file_are_read_only_where_something_is_folded_into_them(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    from expertc.graph.external import External

    net = Net()
    x = net.node("Conv", net.image(), net.weight(40, 3, 5, 5, name="folded"), pads=[2, 2, 2, 2])
    x = net.node("Mul", x, net.constant(net.random.uniform(1, 2, (40, 1, 1)).astype("f"), "factor"))
    x = net.node("Conv", net.node("Relu", x), net.weight(30, 40, 1, 1, name="left"))
    net.result(net.node("Tanh", x, out="y"), 30, 4, 4)
    path = Path(str(tmp_path)) / "m.onnx"
    onnx.save(net.model(), path, save_as_external_data=True, location="m.data", size_threshold=2048)
    assert external_data_helper.uses_external_data(onnx.load(path, load_external_data=False).graph.initializer[0])
    read: list[tuple[int, ...]] = []
    values = External.values

    def noted(self: External) -> Array:
        read.append(self.shape)
        return values(self)

    monkeypatch.setattr(External, "values", noted)
    model, changed = Fold().run(read_model(path))
    assert changed
    assert set(read) == {(40, 3, 5, 5)}
    assert [node.op for node in model.nodes] == ["Conv", "Relu", "Conv", "Tanh"]
