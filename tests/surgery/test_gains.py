"""Cutting networks with a gain per class: exact for every gain, and only the kept classes' gains are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import controlled
import networks
import numpy as np
import onnx
import pytest
from controlled import CLASSES, FORMS, fed, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, cut, reference
from onnx import TensorProto, helper

from expertc.card import Card, Control
from expertc.errors import CardError, UnsupportedError

FULL = {name: (form().bytes(), controlled.controlled()) for name, form in FORMS.items()}


def gain_shape(data: bytes) -> list[int]:
    [found] = [value for value in onnx.load_from_string(data).graph.input if value.name == "gain"]
    return [dim.dim_value for dim in found.type.tensor_type.shape.dim]


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
@settings(deadline=None, max_examples=12)
def test_the_expert_with_its_gains_is_the_full_model_with_all(name: str, data: st.DataObject) -> None:
    full, card = FULL[name]
    keep = sorted(data.draw(st.sets(st.integers(0, CLASSES - 1), min_size=1)))
    gain = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(-1, 4, CLASSES)
    expert, done = cut(full, card, keep)
    assert gain_shape(expert) == [len(keep)]
    assert not done.stopped
    close(scores(expert, gain[keep]), scores(full, gain)[:, keep])


@pytest.mark.parametrize("name", FORMS)
def test_by_the_reference_evaluator_too(name: str) -> None:
    full, card = FULL[name]
    gain = np.linspace(0.3, 2, CLASSES)
    expert, _ = cut(full, card, [1, 2, 4])
    wanted = reference(full, fed(gain))["scores"][:, [1, 2, 4]]
    close(reference(expert, fed(gain[[1, 2, 4]]))["scores"], wanted)


@pytest.mark.parametrize("name", FORMS)
def test_every_gain_that_is_left_matters_for_its_class_alone(name: str) -> None:
    full, card = FULL[name]
    expert, _ = cut(full, card, [0, 3, 5])
    before = scores(expert, np.ones(3))
    for row in range(3):
        changed = scores(expert, np.where(np.arange(3) == row, 1.5, 1.0)) != before
        assert changed.any(axis=0).tolist() == [column == row for column in range(3)]


@pytest.mark.parametrize("name", FORMS)
def test_cutting_twice_is_cutting_once(name: str) -> None:
    full, card = FULL[name]
    once, _ = cut(full, card, [1, 4])
    step, done = cut(full, card, [1, 2, 4, 5])
    assert cut(step, done.card, [0, 2])[0] == once
    assert cut(once, done.card.restrict([0, 2]), [0, 1])[0] == once


def test_defaults_go_with_their_classes() -> None:
    card = controlled.controlled(default=(1, 2, 3, 4, 5, 6))
    _, done = cut(controlled.grouped().bytes(), card, [5, 1])
    assert done.card.controls == (Control("gain", (2.0, 6.0), True),)
    assert Card.from_json(done.card.to_json()) == done.card


def test_slices_of_the_gains_vanish_with_what_they_took() -> None:
    expert, _ = cut(controlled.separate("split").bytes(), controlled.controlled(), [2])
    assert "Split" not in networks.operators(expert)
    expert, _ = cut(controlled.separate("slice").bytes(), controlled.controlled(), [2, 3])
    assert networks.operators(expert).count("Slice") == 2


# -- where more or less than the kept classes' gains is read -----------------------------------------------------------


def test_what_an_operator_reads_as_a_whole_is_filled_with_the_defaults() -> None:
    full, default = controlled.opaque().bytes(), np.array([1, 2, 3, 0.5, 4, 1.5])
    card = controlled.controlled(default=default.tolist())
    for keep in ([0, 1], [1, 4], [5], [2, 3, 4]):
        expert, _ = cut(full, card, keep)
        assert gain_shape(expert) == [len(keep)]
        gain = default.copy()
        gain[keep] = np.linspace(0.2, 3, len(keep))
        close(scores(expert, gain[keep]), scores(full, gain)[:, keep])


def test_a_cut_of_a_filled_expert_is_right_too() -> None:
    full, default = controlled.opaque().bytes(), np.array([1, 2, 3, 0.5, 4, 1.5])
    card = controlled.controlled(default=default.tolist())
    step, done = cut(full, card, [1, 3, 4])
    expert, _ = cut(step, done.card, [0, 2])
    gain = default.copy()
    gain[[1, 4]] = 0.7, 2.5
    close(scores(expert, gain[[1, 4]]), scores(full, gain)[:, [1, 4]])


def test_a_gain_nobody_reads_still_has_the_kept_classes() -> None:
    net = Net(17)
    controlled.gain_input(net)
    net.node("Identity", net.head(net.node("Relu", net.image()), 3, CLASSES, name="fc"), out="scores")
    net.result("scores", CLASSES)
    full = net.bytes()
    expert, done = cut(full, controlled.controlled(), [0, 2, 3])
    assert gain_shape(expert) == [3]
    assert len(done.card.controls[0].default) == 3
    np.testing.assert_array_equal(scores(expert, np.ones(3)), scores(full, np.ones(CLASSES))[:, [0, 2, 3]])


def test_a_gain_that_some_kept_classes_do_not_read() -> None:
    net = Net(17)
    gain, x = controlled.gain_input(net), net.node("Relu", net.conv(net.image(), 3, 4, name="trunk"))
    heads = []
    for i in range(CLASSES):
        own = net.node("Gather", gain, net.constant(i, f"own{i}"), axis=0)
        heads.append(net.head(net.node("Mul", x, own) if i % 2 else x, 4, 1, name=f"b{i}"))
    net.node("Concat", *heads, out="scores", axis=1)
    net.result("scores", CLASSES)
    full, values = net.bytes(), np.linspace(0.5, 3, CLASSES)
    for keep in ([0, 2], [1, 2, 4], [3, 5]):
        expert, _ = cut(full, controlled.controlled(), keep)
        assert gain_shape(expert) == [len(keep)]
        close(scores(expert, values[keep]), scores(full, values)[:, keep])


def test_a_gain_of_more_axes() -> None:
    net = Net(17)
    gain = controlled.gain_input(net, CLASSES, "gain", 1, 1)
    x = net.node("Mul", net.node("Relu", net.conv(net.image(), 3, CLASSES, name="wide")), gain)
    net.node("Flatten", net.node("GlobalAveragePool", x), out="scores")
    net.result("scores", CLASSES)
    full, values = net.bytes(), np.linspace(0.5, 3, CLASSES).reshape(-1, 1, 1)
    expert, _ = cut(full, controlled.controlled(), [0, 4])
    assert gain_shape(expert) == [2, 1, 1]
    np.testing.assert_array_equal(scores(expert, values[[0, 4]]), scores(full, values)[:, [0, 4]])


@pytest.mark.parametrize("kind", ["a threshold", "read by nobody"])
def test_a_control_that_is_not_per_class_stays(kind: str) -> None:
    net = Net(17)
    x = net.node("Relu", net.conv(net.image(), 3, CLASSES, name="wide"))
    threshold = controlled.gain_input(net, 1, "threshold")
    x = net.node("Sub", x, threshold) if kind == "a threshold" else x
    net.node("Flatten", net.node("GlobalAveragePool", x), out="scores")
    net.result("scores", CLASSES)
    card = replace(networks.card(CLASSES), controls=(Control("threshold", (0.25,), False),))
    expert, done = cut(net.bytes(), card, [1, 2])
    assert done.card.controls == card.controls
    given_ = networks.feeds(net.bytes()) | {"threshold": np.array([0.7], np.float32)}
    wanted = networks.run(net.bytes(), given_)["scores"][:, [1, 2]]
    np.testing.assert_array_equal(networks.run(expert, given_)["scores"], wanted)


def subgraph_reading(gain: str, op: str) -> Any:
    """A body that multiplies what it is given by the gains."""
    value = helper.make_tensor_value_info
    unknown = [None] * 2
    if op == "If":
        return helper.make_graph(
            [helper.make_node("Mul", ["pooled", gain], ["inner"])], "then", [],
            [value("inner", TensorProto.FLOAT, unknown)],
        )  # fmt: skip
    return helper.make_graph(
        [helper.make_node("Mul", ["x_in", gain], ["x_out"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("x_in", TensorProto.FLOAT, ["batch", CLASSES])],
        [value("go_on", TensorProto.BOOL, []), value("x_out", TensorProto.FLOAT, ["batch", CLASSES])],
    )  # fmt: skip


def with_subgraph(op: str) -> bytes:
    net = Net(17)
    gain = controlled.gain_input(net)
    x = net.conv(net.image(), 3, CLASSES, name="wide")
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x), out="pooled")
    if op == "If":
        other = subgraph_reading(gain, op)
        other.node[0].op_type, other.node[0].output[0], other.output[0].name = "Add", "other", "other"
        positive = net.node("Greater", net.node("ReduceSum", pooled, keepdims=0), net.constant(0.0))
        net.node("If", positive, out="scores", then_branch=subgraph_reading(gain, op), else_branch=other)
    else:
        net.node("Loop", net.constant(2), net.constant(True), pooled, out="scores", body=subgraph_reading(gain, op))
    net.result("scores", CLASSES)
    return net.bytes()


def test_an_if_that_reads_the_gains_is_cut_inside() -> None:
    full, gain = with_subgraph("If"), np.linspace(0.5, 3, CLASSES)
    expert, _ = cut(full, controlled.controlled(), [1, 4])
    assert gain_shape(expert) == [2]
    np.testing.assert_array_equal(scores(expert, gain[[1, 4]]), scores(full, gain)[:, [1, 4]])


def test_a_loop_that_reads_the_gains_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="read inside a 'Loop'"):
        cut(with_subgraph("Loop"), controlled.controlled(), [1, 4])
    cut(with_subgraph("Loop"), controlled.controlled(), range(CLASSES))


# -- cards that contradict the graph -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: replace(c, controls=(Control("gian", (1.0,) * CLASSES, True),)), "no input 'gian'"),
        (lambda c: replace(c, controls=(Control("gain", (1.0,), False),)), "has 1 values"),
    ],
)
def test_a_card_that_does_not_fit(change: Callable[[Card], Card], says: str) -> None:
    with pytest.raises(CardError, match=says):
        cut(controlled.grouped().bytes(), change(controlled.controlled()), [0])


def test_a_control_of_integers() -> None:
    proto = controlled.separate().model()
    [found] = [value for value in proto.graph.input if value.name == "gain"]
    found.type.tensor_type.elem_type = TensorProto.INT64
    for node in proto.graph.node:
        if node.op_type == "Mul":
            node.op_type, node.input[:] = "Relu", node.input[:1]
    with pytest.raises(CardError, match="floating point"):
        cut(proto.SerializeToString(), controlled.controlled(), [0])
