"""Which outputs are class scores, of what kind, and what the expert shows in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from laws import check
from networks import Net, card, cut, feeds, rows, run
from onnx import TensorProto

from expertc.card import Output
from expertc.errors import CardError, ModelError, UsageError
from expertc.graph import read_model
from expertc.surgery.outputs import class_softmax, find_outputs, kind_of, plan_outputs, score_source
from expertc.surgery.prune import prune

INT64 = TensorProto.INT64


def linear(opset: int = 20, classes: int = 5) -> tuple[Net, str]:
    net = Net(opset)
    return net, net.head(net.image(), 3, classes, name="h")


# -- the class softmax -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_softmax_over_the_classes_is_cut_through(opset: int, axis: int) -> None:
    net, logits = linear(opset)
    net.result(net.node("Softmax", logits, axis=axis, out="scores"), 5)
    expert = check(net, card(5, Output("scores", "probabilities")), [1, 3], judge=opset >= 13)
    assert expert.shapes == {"h.w": (2, 3), "h.b": (2,)}
    assert expert.cut.renormalised


def test_a_softmax_with_other_rows_between_it_and_the_output() -> None:
    net, logits = linear()
    half = net.node("Cast", net.node("Softmax", logits, axis=1), to=TensorProto.FLOAT16)
    net.result(net.node("Identity", net.node("Cast", half, to=TensorProto.FLOAT), out="scores"), 5)
    data = net.bytes()
    expert, done = cut(data, card(5, Output("scores", "probabilities")), [0, 2])
    got, whole = run(expert)["scores"], rows(run(data)["scores"], [0, 2])
    np.testing.assert_allclose(got, whole / whole.sum(1, keepdims=True), atol=2e-3)  # float16 between
    assert done.renormalised


def test_log_softmax_and_log_of_softmax_are_conditioned_too() -> None:
    for form in ("LogSoftmax", "Log"):
        net, logits = linear()
        inner = (
            net.node("LogSoftmax", logits, axis=1)
            if form == "LogSoftmax"
            else net.node("Log", net.node("Softmax", logits))
        )
        net.result(net.node("Identity", inner, out="scores"), 5)
        data = net.bytes()
        expert, done = cut(data, card(5), [1, 4])
        got, whole = run(expert)["scores"], np.exp(rows(run(data)["scores"], [1, 4]))
        np.testing.assert_allclose(np.exp(got), whole / whole.sum(1, keepdims=True), rtol=1e-5)
        assert done.renormalised


def test_one_class_has_probability_one() -> None:
    net, logits = linear()
    net.result(net.node("Softmax", logits, out="scores"), 5)
    expert, _ = cut(net.bytes(), card(5, Output("scores", "probabilities")), [3])
    assert np.array_equal(run(expert)["scores"], np.ones((2, 1), np.float32))


def test_a_softmax_followed_by_a_product_is_not_the_class_softmax() -> None:
    """A joint probability: full normaliser, rows cut after it."""
    net, logits = linear()
    net.result(net.node("Mul", net.node("Softmax", logits, axis=1), net.weight(5, name="k"), out="scores"), 5)
    expert = check(net, card(5, Output("scores", "joint")), [1, 3])
    assert (expert.shapes["h.w"], expert.shapes["k"]) == ((5, 3), (2,))
    assert not expert.cut.renormalised


@pytest.mark.parametrize("other", ["inside", "an output of its own"])
def test_a_softmax_that_something_else_reads_keeps_its_numbers(other: str) -> None:
    """Were it cut through, the product would be computed from conditioned probabilities."""
    net, logits = linear()
    shares = net.node("Softmax", logits, axis=1, out="shares")
    net.result(net.node("Mul", shares, net.weight(5, name="k"), out="joint"), 5)
    outputs = [Output("joint", "joint")]
    if other == "inside":
        net.result(net.node("Identity", shares, out="scores"), 5)
        outputs.append(Output("scores", "joint"))
    else:
        net.result(shares, 5)
        outputs.append(Output("shares", "joint"))
    data = net.bytes()
    expert, done = cut(data, card(5, *outputs), [1, 3])
    inputs = feeds(data)
    before, after = run(data, inputs), run(expert, inputs)
    np.testing.assert_allclose(after["joint"], rows(before["joint"], [1, 3]), rtol=1e-6)
    for name in {output.name for output in outputs} - {"joint"}:
        np.testing.assert_allclose(after[name], rows(before[name], [1, 3]), rtol=1e-6)
    assert not done.renormalised


def test_a_softmax_over_another_axis_or_before_opset_13_over_more_than_the_classes_is_an_inner_one() -> None:
    net = Net(11)
    tensor = net.conv(net.image(), 3, 5, name="c")
    net.result(net.node("Softmax", tensor, axis=1, out="scores"), 5, 4, 4)
    assert class_softmax(read_model(net.bytes()), "scores", 1) is None
    net = Net()
    tensor = net.conv(net.image(), 3, 5, name="c")
    net.result(net.node("Softmax", tensor, axis=3, out="space"), 5, 4, 4)
    net.result(net.node("Softmax", tensor, axis=1, out="scores"), 5, 4, 4)
    model = read_model(net.bytes())
    assert class_softmax(model, "space", 1) is None
    assert class_softmax(model, "scores", 1) is not None


def test_the_logits_below_a_class_softmax_may_be_an_output_too() -> None:
    """They are read by two, but the softmax is still over the classes that are kept."""
    net, logits = linear()
    net.result(logits, 5)
    net.result(net.node("Softmax", logits, axis=1, out="scores"), 5)
    expert = check(net, card(5, Output("scores", "probabilities"), Output("h")), [0, 4])
    assert expert.shapes["h.w"] == (2, 3)


def test_a_card_that_calls_a_softmax_independent_scores_is_wrong() -> None:
    net, logits = linear()
    net.result(net.node("Softmax", logits, out="scores"), 5)
    with pytest.raises(CardError):
        cut(net.bytes(), card(5, Output("scores", "scores")), [0])


def test_sigmoid_scores_are_plain_rows() -> None:
    net, logits = linear()
    net.result(net.node("Sigmoid", logits, out="scores"), 5)
    expert = check(net, card(5, Output("scores", "scores")), [1, 2])
    assert expert.shapes["h.w"] == (2, 3)


# -- indices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["ArgMax", "ArgMax, squeezed and cast", "TopK"])
def test_an_index_at_the_end_becomes_the_scores_below_it(op: str) -> None:
    net, logits = linear()
    if op == "ArgMax":
        net.result(net.node("ArgMax", logits, axis=1, keepdims=0, out="label"), dtype=INT64)
    elif op == "TopK":
        net.node("TopK", logits, net.constant([2]), out=["value", "label"])
        net.result("label", 2, dtype=INT64)
    else:
        index = net.node("Squeeze", net.node("ArgMax", logits, axis=1, keepdims=1), net.constant([1]))
        net.result(net.node("Cast", index, to=TensorProto.INT32, out="label"), dtype=TensorProto.INT32)
    data = net.bytes()
    expert, done = cut(data, card(5, Output("label")), [1, 4])
    net.outputs.clear()
    net.result(logits, 5)
    scores = run(net.bytes())["h"]
    assert np.array_equal(run(expert)["label"], rows(scores, [1, 4]))
    assert any("index" in note for note in done.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scores_in_place_of_an_index_have_the_type_of_the_scores(dtype: Any) -> None:
    net = Net()
    tensor_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    logits = net.node("MatMul", net.image(3, dtype=tensor_type), net.weight(3, 5, dtype=dtype))
    net.result(net.node("ArgMax", logits, axis=1, keepdims=0, out="label"), dtype=INT64)
    expert, _ = cut(net.bytes(), card(5, Output("label")), [0, 2])
    assert run(expert)["label"].dtype == dtype


def test_both_outputs_of_a_top_k() -> None:
    """Values and places show the same scores under two names."""
    net, logits = linear()
    net.node("TopK", logits, net.constant([2]), out=["value", "label"])
    net.result("value", 2)
    net.result("label", 2, dtype=INT64)
    expert, _ = cut(net.bytes(), card(5, Output("value"), Output("label")), [0, 3])
    got = run(expert)
    assert got["value"].shape == got["label"].shape == (2, 2)
    assert np.array_equal(got["value"], got["label"])


def test_scores_and_their_index_side_by_side() -> None:
    net, logits = linear()
    net.result(logits, 5)
    net.result(net.node("ArgMax", logits, axis=1, keepdims=0, out="label"), dtype=INT64)
    data = net.bytes()
    expert, _ = cut(data, card(5, Output("h"), Output("label")), [0, 3])
    inputs = feeds(data)
    got = run(expert, inputs)
    assert np.array_equal(got["h"], rows(run(data, inputs)["h"], [0, 3]))
    assert np.array_equal(got["h"], got["label"])


@pytest.mark.parametrize("first", ["scores", "index"])
def test_an_output_that_is_kept_whole_and_the_index_of_it_that_is_cut(first: str) -> None:
    """Only the index is a class score to the card: the other output must not lose rows."""
    net, logits = linear()
    net.node("ArgMax", logits, axis=1, keepdims=0, out="label")
    for name in ("h", "label") if first == "scores" else ("label", "h"):
        net.result(name, *((5,) if name == "h" else ()), dtype=TensorProto.FLOAT if name == "h" else INT64)
    data = net.bytes()
    expert, done = cut(data, card(5, Output("label")), [0, 3])
    inputs = feeds(data)
    before, after = run(data, inputs), run(expert, inputs)
    assert np.array_equal(after["h"], before["h"])
    assert np.array_equal(after["label"], rows(before["h"], [0, 3]))
    assert any("kept whole" in note for note in done.notes)


# -- several outputs, and outputs that are used inside -----------------------------------------------------------------


def test_several_score_outputs_are_cut_alike_and_others_kept() -> None:
    net = Net()
    first = net.head(net.image(), 3, 5, name="early")
    second = net.head(net.node("Tanh", net.conv("image", 3, 4, name="c")), 4, 5, name="late")
    feature = net.node("Flatten", net.node("GlobalAveragePool", "c"), out="feature")
    net.result(first, 5)
    net.result(second, 5)
    net.result(feature, 4)
    expert = check(net, card(5, Output("late"), Output("early")), [1, 3])
    assert (expert.shapes["early.w"], expert.shapes["late.w"], expert.shapes["c.w"]) == ((2, 3), (2, 4), (4, 3, 1, 1))
    assert [value.name for value in onnx.load_from_string(expert.data).graph.output] == ["early", "late", "feature"]
    assert len(expert.cut.notes) == 1


def test_an_output_that_is_used_inside_as_a_whole() -> None:
    """Selection for the output, everything for the consumer inside: the inner tensor takes another name."""
    net, logits = linear()
    net.result(logits, 5)
    gate = net.node("ReduceSum", net.node("Tanh", logits), net.constant([1]), keepdims=1)
    net.result(net.node("Mul", logits, gate, out="gated"), 5)
    expert = check(net, card(5, Output("h"), Output("gated")), [1, 4])
    assert expert.shapes["h.w"] == (5, 3)
    assert [value.name for value in onnx.load_from_string(expert.data).graph.output] == ["h", "gated"]


def test_an_output_that_is_used_inside_by_other_classes_only() -> None:
    net, logits = linear()
    net.result(logits, 5)
    net.result(net.node("Gather", logits, net.constant([4, 3, 2, 1, 0]), axis=1, out="turned"), 5)
    expert = check(net, card(5, Output("h"), Output("turned")), [0, 1])
    assert expert.shapes["h.w"] == (4, 3)


def test_an_input_that_is_an_output() -> None:
    net = Net()
    net.result(net.head(net.image(), 3, 5, name="scores"), 5)
    net.result("image", 3, 4, 4)
    expert = check(net, card(5), [2, 3])
    assert expert.shapes["scores.w"] == (2, 3)


def test_scores_that_are_the_input() -> None:
    """Nothing to cut but the rows themselves."""
    net = Net()
    net.result(net.node("Identity", net.image(5), out="scores"), 5)
    expert = check(net, card(5), [0, 3])
    assert expert.shapes == {"image@1.indices": (2,)} or list(expert.shapes.values()) == [(2,)]
    assert [dim.dim_value for dim in onnx.load_from_string(expert.data).graph.input[0].type.tensor_type.shape.dim][
        1
    ] == 5


def test_scores_on_axis_0() -> None:
    """One image, scores ``[classes, 1]``: the card says which axis."""
    net = Net(batch=1)
    pooled = net.node("Reshape", net.node("GlobalAveragePool", net.image()), net.constant([3, 1]))
    product = net.node("MatMul", net.weight(5, 3, name="w"), pooled, out="scores")
    net.outputs.append(onnx.helper.make_tensor_value_info(product, TensorProto.FLOAT, [5, 1]))
    assert check(net, card(5, Output("scores", axis=0)), [1, 4], exact=False).shapes["w"] == (2, 3)


# -- finding outputs without a card ------------------------------------------------------------------------------------


def test_the_output_with_as_many_columns_as_labels_is_found() -> None:
    net, logits = linear()
    net.result(net.node("Softmax", logits, out="scores"), 5)
    net.result(net.node("Flatten", net.node("GlobalAveragePool", "image"), out="feature"), 3)
    model = read_model(net.bytes())
    assert find_outputs(model, 5) == (Output("scores", "probabilities", 1),)
    assert find_outputs(model, 3) == (Output("feature", "logits", 1),)


def test_kinds_are_told_by_the_graph() -> None:
    net, logits = linear()
    for op, name in (("Softmax", "probabilities"), ("LogSoftmax", "log"), ("Sigmoid", "scores"), ("Tanh", "logits")):
        net.result(net.node(op, logits, out=name), 5)
    pair = [net.node("Softmax", net.head("image", 3, 2), axis=1) for _ in range(2)]
    net.result(net.node("Concat", *pair, axis=1, out="joint"), 4)
    model = read_model(net.bytes())
    for name, kind in {
        "probabilities": "probabilities",
        "log": "logits",
        "scores": "scores",
        "logits": "logits",
        "joint": "joint",
    }.items():
        assert kind_of(model, name, 1) == kind, name


def test_two_outputs_that_fit_need_a_choice() -> None:
    net, logits = linear()
    net.result(logits, 5)
    net.result(net.node("Tanh", logits, out="other\x1b[31m"), 5)
    model = read_model(net.bytes())
    with pytest.raises(UsageError, match="More than one output") as caught:
        find_outputs(model, 5)
    assert " h:1" in caught.value.hint
    assert "\x1b" not in caught.value.hint
    assert find_outputs(model, 5, {"h": 1}) == (Output("h", "logits", 1),)


@pytest.mark.parametrize("chosen", [{"nothing": 1}, {"h": 5}, {"map": 1}])
def test_a_choice_that_cannot_be(chosen: dict[str, int]) -> None:
    net, logits = linear()
    net.result(logits, 5)
    net.result(net.conv("image", 3, 5, name="map"), 5, 4, 4)
    with pytest.raises(UsageError):
        find_outputs(read_model(net.bytes()), 5, chosen)


def test_scores_per_pixel_are_no_classification() -> None:
    net = Net()
    net.result(net.conv(net.image(), 3, 5, name="map"), 5, 4, 4)
    with pytest.raises(ModelError, match="scores of 5 classes") as caught:
        find_outputs(read_model(net.bytes()), 5)
    assert "map [batch, 5, 4, 4]" in caught.value.hint


def test_an_index_output_is_found_by_the_scores_below_it() -> None:
    net, logits = linear()
    net.result(net.node("ArgMax", logits, axis=1, keepdims=0, out="label"), dtype=INT64)
    model = read_model(net.bytes())
    assert score_source(model, "label") == "h"
    assert find_outputs(model, 5) == (Output("label", "logits", 1),)


def test_as_many_classes_as_images_in_a_batch_is_no_ambiguity() -> None:
    net = Net(batch=5)
    net.result(net.head(net.image(), 3, 5, name="scores"), 5)
    assert find_outputs(read_model(net.bytes()), 5) == (Output("scores", "logits", 1),)


# -- the card against the graph, the selection against the card --------------------------------------------------------


def test_a_card_that_contradicts_the_graph() -> None:
    net, logits = linear()
    net.result(logits, 5)
    model = read_model(net.bytes())
    for wrong in (
        card(4, Output("h")),
        card(5, Output("scores")),
        card(5, Output("h"), image="picture"),
        card(5, Output("h", axis=2)),
    ):
        with pytest.raises(CardError):
            plan_outputs(model, wrong, [0])


@pytest.mark.parametrize("indices", [[], [5], [-1], [0, 99]])
def test_a_selection_that_the_card_does_not_have(indices: list[int]) -> None:
    net, logits = linear()
    net.result(logits, 5)
    with pytest.raises(UsageError):
        prune(read_model(net.bytes()), card(5, Output("h")), indices)


def test_order_and_repetition_of_the_selection_do_not_matter() -> None:
    net, logits = linear()
    net.result(logits, 5)
    data, full = net.bytes(), card(5, Output("h"))
    assert cut(data, full, [3, 0, 3])[0] == cut(data, full, (0, 3))[0]
    assert cut(data, full, np.array([0, 3]))[0] == cut(data, full, (0, 3))[0]
