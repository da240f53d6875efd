"""fold: fewer nodes, the same numbers within rounding, and nothing folded that something else reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from laws import close
from networks import Net, card, feeds, operators, run, weights
from onnx import TensorProto, helper

from expertc.graph import read_model, to_bytes
from expertc.surgery.fold import Fold
from expertc.surgery.passes import run_all
from expertc.surgery.prune import prune


def folded(net: Net) -> bytes:
    """The folded file, checked: same outputs within 1e-4 of the largest, nothing left to fold."""
    data = net.bytes()
    model, changed = Fold().run(read_model(data))
    result = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
    inputs = feeds(data)
    before, after = run(data, inputs), run(result, inputs)
    assert list(after) == list(before)
    for name in before:
        scale = float(np.abs(before[name]).max())
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-4 * scale)
    again, more = Fold().run(read_model(result))
    assert not more
    assert to_bytes(again) == result
    assert changed == (operators(result) != operators(data))
    return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_a_batch_norm_goes_into_the_convolution_before_it(bias: bool, group: int) -> None:
    net = Net()
    hidden = net.conv(net.image(), 3, 4, name="first")
    tensor = net.norm(net.conv(hidden, 4, 6, kernel=3, group=group, bias=bias, name="c"), 6, name="n")
    net.result(net.head(tensor, 6, 4, name="scores"), 4)
    result = folded(net)
    assert "BatchNormalization" not in operators(result)
    old, new = net.initializers, weights(result)
    scale = old["n.g"].astype(np.float64) / np.sqrt(old["n.var"].astype(np.float64) + 1e-5)
    weight = next(values for values in new.values() if values.shape == (6, 4 // group, 3, 3))
    np.testing.assert_allclose(weight, old["c.w"] * scale.reshape(-1, 1, 1, 1), rtol=1e-6)


def test_a_batch_norm_behind_a_convolution_that_something_else_reads_stays() -> None:
    for other in ("a node", "an output"):
        net = Net()
        conv = net.conv(net.image(), 3, 4, name="c")
        normed = net.norm(conv, 4, name="n")
        net.result(net.head(net.node("Add", normed, conv) if other == "a node" else normed, 4, 4, name="scores"), 4)
        if other == "an output":
            net.result(conv, 4, 4, 4)
        assert "BatchNormalization" in operators(folded(net))


def test_a_batch_norm_without_a_convolution_or_with_computed_vectors_stays() -> None:
    net = Net()
    net.result(net.head(net.norm(net.image(), 3, name="n"), 3, 4, name="scores"), 4)
    assert "BatchNormalization" in operators(folded(net))
    net = Net()
    conv = net.conv(net.image(), 3, 4, name="c")
    computed = net.node(
        "ReduceMean", net.node("Conv", "image", net.weight(4, 3, 1, 1)), net.constant([0, 2, 3]), keepdims=0
    )
    vectors = [computed, *(net.weight(4, positive=True) for _ in range(3))]
    net.result(net.head(net.node("BatchNormalization", conv, *vectors), 4, 4, name="scores"), 4)
    assert "BatchNormalization" in operators(folded(net))


def test_a_batch_norm_that_makes_an_output_keeps_the_outputs_name() -> None:
    net = Net()
    net.result(net.norm(net.conv(net.image(), 3, 4, name="c"), 4, name="scores"), 4, 4, 4)
    assert operators(folded(net)) == ["Conv"]


def test_one_weight_in_two_convolutions_of_which_one_has_a_batch_norm() -> None:
    net = Net()
    shared = net.weight(4, 3, 1, 1, name="shared")
    first = net.norm(net.node("Conv", net.image(), shared), 4, name="n")
    second = net.node("Conv", net.node("Tanh", "image"), shared)
    net.result(net.head(net.node("Add", first, second), 4, 4, name="scores"), 4)
    result = folded(net)
    assert operators(result).count("Conv") == 2
    assert "BatchNormalization" not in operators(result)


def test_new_weights_never_take_the_name_of_others() -> None:
    """The batch norm makes "y"; the network has an initializer "y.weight" of its own."""
    net = Net()
    first = net.node("Conv", net.image(), net.weight(3, 3, 1, 1, name="y.weight"), net.weight(3, name="y.bias"))
    second = net.norm(net.conv(first, 3, 3, bias=False, name="c"), 3, name="y")
    net.result(net.head(second, 3, 4, name="scores"), 4)
    folded(net)


def test_identities_dropout_and_casts_that_change_nothing_vanish() -> None:
    net = Net()
    x = net.node("Identity", net.node("Cast", net.node("Dropout", net.image()), to=TensorProto.FLOAT))
    scores = net.head(x, 3, 4, name="h")
    net.result(net.node("Identity", scores, out="scores"), 4)
    result = folded(net)
    assert operators(result) == ["GlobalAveragePool", "Flatten", "Gemm"]


def test_a_cast_that_changes_the_type_stays() -> None:
    net = Net()
    there = net.node("Cast", net.image(), to=TensorProto.FLOAT16)
    net.result(net.head(net.node("Cast", there, to=TensorProto.FLOAT), 3, 4, name="scores"), 4)
    assert operators(folded(net)).count("Cast") == 2


def test_a_dropout_whose_mask_is_read_stays() -> None:
    net = Net()
    kept, mask = net.node("Dropout", net.image(), out=["kept", "mask"])
    both = net.node("Where", mask, kept, net.node("Neg", kept))
    net.result(net.head(both, 3, 4, name="scores"), 4)
    assert "Dropout" in operators(folded(net))


def test_constant_expressions_are_evaluated() -> None:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    turned = net.node("Transpose", net.node("Mul", net.weight(4, 3, name="w"), net.constant(2.0, "two")), perm=[1, 0])
    net.result(net.node("MatMul", x, turned, out="scores"), 4)
    result = folded(net)
    assert operators(result) == ["GlobalAveragePool", "Flatten", "MatMul"]
    assert np.array_equal(next(iter(weights(result).values())), (net.initializers["w"] * np.float32(2)).T)


@pytest.mark.parametrize("op", ["Identity", "Cast"])
def test_constants_behind_a_node_that_vanishes(op: str) -> None:
    """Exporters share weights through Identity."""
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    same = net.node(op, net.weight(4, 3, name="w"), **({"to": TensorProto.FLOAT} if op == "Cast" else {}))
    net.result(net.node("MatMul", x, net.node("Transpose", same, perm=[1, 0]), out="scores"), 4)
    assert operators(folded(net)) == ["GlobalAveragePool", "Flatten", "MatMul"]


def test_a_constant_with_optional_inputs_left_out() -> None:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    part = net.node("Slice", net.weight(5, 4, name="w"), net.constant([1]), net.constant([4]), "", net.constant([1]))
    net.result(net.node("MatMul", x, part, out="scores"), 4)
    assert operators(folded(net)) == ["GlobalAveragePool", "Flatten", "MatMul"]


def test_a_constant_that_would_be_huge_is_left_to_the_runtime() -> None:
    net = Net()
    zeros = net.node("ConstantOfShape", net.constant([2**20, 2**10]))
    total = net.node("ReduceSum", zeros, net.constant([0, 1]), keepdims=0)
    net.result(net.node("Add", net.head(net.image(), 3, 4, name="h"), total, out="scores"), 4)
    model, _ = Fold().run(read_model(net.bytes()))
    assert "ConstantOfShape" in operators(to_bytes(model))


def test_what_a_subgraph_reads_stays() -> None:
    net = Net()
    same = net.node("Identity", net.image(), out="same")
    constant = net.node("Neg", net.weight(3, 1, 1, name="captured"), out="negative")
    normed = net.norm(net.conv("image", 3, 3, name="c"), 3, name="n")
    branches = [
        helper.make_graph(
            [helper.make_node(op, [same, constant], [f"{op}1"]), helper.make_node(op, [f"{op}1", "c"], [f"{op}2"])],
            op, [], [helper.make_tensor_value_info(f"{op}2", TensorProto.FLOAT, None)],
        )
        for op in ("Mul", "Add")
    ]  # fmt: skip
    condition = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    chosen = net.node("If", condition, then_branch=branches[0], else_branch=branches[1], out="chosen")
    net.result(net.head(net.node("Add", chosen, normed), 3, 4, name="scores"), 4)
    data = net.bytes()
    model, _ = Fold().run(read_model(data))
    result = to_bytes(model)
    for seed in (0, 1, 2, 3):
        inputs = feeds(data, seed=seed)
        close(run(result, inputs)["scores"], run(data, inputs)["scores"], "scores", exact=False)


def test_a_product_with_ones_goes_unless_it_does_something_else_too() -> None:
    net = Net()
    x = net.conv(net.image(), 3, 4, name="c")
    x = net.node("Mul", x, net.constant(np.ones((4, 1, 1), np.float32)))
    x = net.node("Mul", net.constant(1.0), x)
    x = net.node("Mul", x, net.constant(np.array([1, 1, 2, 1], np.float32).reshape(4, 1, 1)))  # not ones
    pooled = net.node("GlobalAveragePool", x)
    wide = net.node("Mul", pooled, net.constant(np.ones((1, 1, 2, 2), np.float32)))  # broadcasts
    total = net.node("ReduceSum", wide, net.constant([1, 2, 3]), keepdims=1)
    net.node("Mul", total, net.constant(1.0), out="total")  # an output
    net.result("total", 1, 1, 1)
    data = net.bytes()
    model, changed = Fold().run(read_model(data))
    assert changed
    assert operators(data).count("Mul") == 5
    assert operators(to_bytes(model)) == ["Conv", "GlobalAveragePool", "Mul", "ReduceSum"]
    close(run(to_bytes(model), feeds(data))["total"], run(data)["total"], "total", exact=False)


def test_nothing_to_do_is_the_model_itself() -> None:
    net = Net()
    net.result(net.head(net.image(), 3, 4, name="scores"), 4)
    model = read_model(net.bytes())
    assert Fold().run(model) == (model, False)


def test_the_model_that_is_folded_does_not_change_and_metadata_stays() -> None:
    net = Net()
    net.metadata["kept"] = "yes"
    net.result(net.head(net.norm(net.conv(net.image(), 3, 4), 4), 4, 4, name="scores"), 4)
    proto = net.model()
    for node in proto.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = "op", node.op_type
    model = read_model(proto.SerializeToString())
    before = to_bytes(model)
    after, _ = Fold().run(model)
    assert to_bytes(model) == before
    assert after.metadata == {"kept": "yes"}
    assert [n.metadata_props[0].value for n in onnx.load_from_string(to_bytes(after)).graph.node] == operators(
        to_bytes(after)
    )


def test_folding_and_cutting_in_either_order_give_the_same_numbers() -> None:
    net = Net()
    trunk = net.node("Tanh", net.norm(net.conv(net.image(), 3, 4, kernel=3), 4))
    heads = [net.head(net.norm(net.conv(trunk, 4, 3), 3), 3, 2) for _ in range(3)]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 6)
    data = net.bytes()
    model = read_model(data)
    first, names = run_all(prune(model, card(6), [1, 2, 5]).model, (Fold(),))
    second = prune(Fold().run(model)[0], card(6), [1, 2, 5]).model
    inputs = feeds(data)
    wanted = run(data, inputs)["scores"][:, [1, 2, 5]]
    assert names == ("fold",)
    for result in (to_bytes(first), to_bytes(second)):
        assert "BatchNormalization" not in operators(result)
        close(run(result, inputs)["scores"], wanted, "scores", exact=False)
