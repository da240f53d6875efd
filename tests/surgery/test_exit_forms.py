"""Networks with exits: what a cut leaves of them, and the forms with the rule in the graph, or in stages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import exiting
import numpy as np
import onnx
import onnxruntime
import pytest
from exitnets import KINDS, TREE, card, forcing, image, network, plain_outputs
from networks import Array, cut, operators, poisoned, reference, run, weights
from onnx import TensorProto, helper

from expertc.card import CARD_KEY, Card
from expertc.errors import CardError, UnsupportedError
from expertc.exit_rule import decide
from expertc.exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE
from expertc.graph import read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.exits import flatten, joined, nested, staged

SELECTIONS = [(0, 1), (0, 3), (1, 2, 4), (3,), (0, 1, 2, 3, 4)]


def columns(kind: str, indices: tuple[int, ...], name: str) -> list[int]:
    """What of an output the selection keeps, by the taxonomy alone."""
    if name == "granularity.logits":
        return [0, 1]
    if name.endswith("fine"):
        return [*indices]
    exits = card(kind).exits
    assert exits is not None
    return [i for i, c in enumerate(exits.categories) if set(TREE.by_name[c].leaves) & set(indices)]


# -- the cut -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("indices", SELECTIONS)
def test_an_expert_is_the_network_that_was_made_for_its_classes(kind: str, indices: tuple[int, ...]) -> None:
    full = network(kind)
    expert, done = cut(full, card(kind), indices)
    # Minimal: the same weights, outputs and work as the network that is built with these alone.
    built = network(kind, keep=indices)
    made = read_model(built)
    names = set(weights(expert))
    assert sorted(v.tobytes() for v in weights(expert).values()) == sorted(
        v.tobytes() for n, v in weights(built).items() if n in names or (n in made.constants and _needed(built, n))
    )
    assert set(done.model.outputs) == set(made.outputs)
    assert cost(done.model).macs == cost(read_model(_stripped(built))).macs
    # Exact: what is left is bit-equal, nothing else matters.
    x = image()
    before, after = plain_outputs(full, x), plain_outputs(expert, x)
    for name, values in after.items():
        assert np.array_equal(values, before[name][:, columns(kind, indices, name)])
    for name, values in run(poisoned(full, expert), {"image": x}).items():
        if name in after:
            assert np.array_equal(after[name], values[:, columns(kind, indices, name)])
    assert done.card == Card.from_json(made.metadata[CARD_KEY])


def _stripped(model: bytes) -> bytes:
    """The model without nodes that lead nowhere."""
    proto = onnx.load_from_string(model)
    wanted = {output.name for output in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if wanted & set(node.output):
            wanted |= set(node.input)
        else:
            proto.graph.node.remove(node)
    for tensor in [t for t in proto.graph.initializer if t.name not in wanted]:
        proto.graph.initializer.remove(tensor)
    return bytes(proto.SerializeToString())


def _needed(model: bytes, name: str) -> bool:
    return name in weights(_stripped(model))


@pytest.mark.parametrize("kind", KINDS)
def test_cuts_compose_as_bytes(kind: str) -> None:
    full = network(kind)
    once, _ = cut(full, card(kind), (1, 2))
    larger, done = cut(full, card(kind), (1, 2, 4))
    assert cut(larger, done.card, (0, 1))[0] == once
    assert cut(full, card(kind), (1, 2))[0] == once


def test_frozen_thresholds_take_out_the_exits_that_never_answer() -> None:
    own = card("gran")
    assert own.exits is not None
    frozen = own.with_exits(replace(own.exits, thresholds=(0.0, 9.0), frozen=True))
    expert, done = cut(network("gran"), frozen, (0, 1))
    assert done.card.exits is not None
    assert [one.fine for one in done.card.exits.exits] == ["exit2.fine"]
    assert set(done.model.outputs) == {"exit2.fine", "exit2.coarse"}
    assert not [name for name in weights(expert) if "3" in name or "neck1" in name]


# -- the driven forms --------------------------------------------------------------------------------------------------


def feeds(x: Array, driven: Card, thresholds: tuple[float, ...], tolerance: float) -> dict[str, Array]:
    given = {THRESHOLD: thresholds, TOLERANCE: (tolerance,)}
    return {"image": x} | {c.name: np.asarray(given[c.name], np.float32) for c in driven.controls}


def check(plain: bytes, own: Card, evaluator: Any, x: Array) -> set[tuple[int, bool]]:
    """Compare the nested form with the rule over the plain one's outputs; returns what was answered."""
    made, driven = nested(read_model(plain), own)
    data = to_bytes(made)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    exits, logits = own.exits, plain_outputs(plain, x)
    assert exits is not None
    seen = set()
    for thresholds, tolerance in forcing(exits):
        want = decide(exits, lambda _: logits, thresholds, tolerance)
        got = evaluator(data, feeds(x, driven, thresholds, tolerance))
        assert list(got) == [SCORES, *([COARSE] if exits.categories else []), GRANULARITY, EXIT]
        assert got[EXIT].tolist() == [want.exit] * len(x)
        assert got[GRANULARITY].tolist() == [int(want.fine)] * len(x)
        assert np.allclose(got[SCORES], want.scores, rtol=1e-5, atol=1e-5)
        if want.coarse is not None:
            assert np.allclose(got[COARSE], want.coarse, rtol=1e-5, atol=1e-5)
        seen.add((want.exit, want.fine))
    return seen


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("kind", KINDS)
def test_nested_answers_as_the_rule_does_on_the_plain_outputs(kind: str, batch: int | str) -> None:
    seen = check(network(kind, batch), card(kind), run, image())
    assert {number for number, _ in seen} == {1, 2, 3}
    if kind in ("gran", "strict"):
        assert len(seen) == 6


@pytest.mark.parametrize(("kind", "opset"), [("gran", 9), ("sem", 13), ("ag", 17), ("sem", 20), ("branchy", 20)])
def test_nested_answers_so_for_onnx_itself_in_every_opset(kind: str, opset: int) -> None:
    check(network(kind, opset=opset), card(kind), reference, image(seed=3))


@pytest.mark.parametrize("seed", range(6))
def test_a_semantic_branch_decides_for_the_batch(seed: int) -> None:
    """The seeds give batches of one, of ties and of both majorities."""
    check(network("ag", seed=seed % 2), card("ag"), run, image(1 + seed % 4, seed))


@pytest.mark.parametrize("indices", [(0, 3), (3,), (0, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_driven_too(kind: str, indices: tuple[int, ...]) -> None:
    expert, done = cut(network(kind), card(kind), indices)
    check(expert, done.card, run, image())


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_settings_are_in_the_graph(kind: str) -> None:
    own = card(kind)
    assert own.exits is not None
    own = own.with_exits(replace(own.exits, thresholds=(1.3, 0.9), tolerance=0.2, frozen=True))
    data = to_bytes(nested(read_model(network(kind)), own)[0])
    logits = plain_outputs(network(kind), image())
    assert own.exits is not None
    want = decide(own.exits, lambda _: logits, (1.3, 0.9), 0.2)
    got = run(data, {"image": image()})
    assert (got[EXIT][0], got[GRANULARITY][0]) == (want.exit, want.fine)
    assert [value.name for value in onnx.load_from_string(data).graph.input] == ["image"]


@pytest.mark.parametrize("kind", ["gran", "ag"])
def test_later_stages_are_not_run(kind: str, tmp_path: Path) -> None:
    """By ONNX Runtime's own account of the kernels that it launched."""
    made, driven = nested(read_model(network(kind)), card(kind))
    for last in (1, 2, 3):
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / f"run{last}")
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(to_bytes(made), options, providers=["CPUExecutionProvider"])
        thresholds = tuple(1e9 if u >= last else 0.0 for u in (1, 2))
        session.run(None, feeds(image(), driven, thresholds, 0.5))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time")]
        convolutions = [event for event in kernels if "Conv" in event["args"]["op_name"]]
        assert len(convolutions) == 2 * last, [event["name"] for event in convolutions]  # a stage has two


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("kind", KINDS)
def test_stages_answer_as_the_whole(kind: str, batch: int | str) -> None:
    plain, x = network(kind, batch), image()
    parts = [to_bytes(part) for part in staged(read_model(plain), card(kind))]
    whole, known = plain_outputs(plain, x), {"image": x}
    assert len(parts) == 3
    for number, part in enumerate(parts, 1):
        onnx.checker.check_model(onnx.load_from_string(part), full_check=True)
        proto = onnx.load_from_string(part)
        assert operators(part).count("Conv") == 2
        given = {value.name: known[value.name] for value in proto.graph.input}
        assert ("image" in given) == (number == 1)
        known |= run(part, given)
    for name, values in whole.items():
        assert np.array_equal(known[name], values)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_driven_is_taken_apart_again(kind: str) -> None:
    model, own = read_model(network(kind)), card(kind)
    made, _driven = nested(model, own)
    flat, again = flatten(read_model(to_bytes(made)), Card.from_json(made.metadata[CARD_KEY]))
    assert again == own
    assert {node.outputs[0].name for node in flat.nodes} == {node.outputs[0].name for node in model.nodes}
    x = image()
    for name, values in plain_outputs(to_bytes(flat), x).items():
        assert np.array_equal(values, plain_outputs(network(kind), x)[name])
    assert to_bytes(nested(flat, again)[0]) == to_bytes(made)
    one = joined([read_model(to_bytes(part)) for part in staged(model, own)], own)
    assert to_bytes(one) == to_bytes(flat)
    assert flatten(model, own) == (model, own)
    # A nested model is cut like a plain one, but for the order of what is independent.
    mine, theirs = cut(to_bytes(flat), again, (0, 1))[0], cut(network(kind), own, (0, 1))[0]
    assert weights(mine).keys() == weights(theirs).keys()
    assert sorted(operators(mine)) == sorted(operators(theirs))


def test_somebody_elses_nested_graph_is_taken_apart() -> None:
    model = read_model(exiting.nested(2))
    flat, own = flatten(model, Card.from_json(model.metadata[CARD_KEY]))
    assert own == exiting.card()
    x = np.random.default_rng(0).random((2, 3, exiting.SIDE, exiting.SIDE), np.float32)
    want = run(exiting.plain(2), {"image": x})
    got = run(to_bytes(flat), {"image": x})
    assert got.keys() == want.keys()
    assert all(np.array_equal(got[name], want[name]) for name in want)


def renamed(model: bytes, old: str, new: str) -> bytes:
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        for side in (node.input, node.output):
            for at, name in enumerate(side):
                side[at] = new if name == old else name
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("name", [SCORES, COARSE, EXIT, THRESHOLD, "@batch", "scores@after1"])
def test_a_tensor_inside_may_be_called_like_something_that_is_added(name: str) -> None:
    check(renamed(network("gran"), "stage2.relu", name), card("gran"), run, image())


def test_what_cannot_be_driven_is_refused() -> None:
    proto = onnx.load_from_string(network("gran"))
    proto.graph.output.append(helper.make_tensor_value_info("stage3.relu", TensorProto.FLOAT, ["batch", 4, 8, 8]))
    with pytest.raises(UnsupportedError, match=r"at which exit the output 'stage3.relu'"):
        nested(read_model(proto.SerializeToString()), card("gran"))
    own = card("branchy")
    assert own.exits is not None
    backwards = own.with_exits(replace(own.exits, exits=own.exits.exits[::-1]))
    with pytest.raises(UnsupportedError, match="nothing of its own"):
        nested(read_model(_chained()), backwards)
    with pytest.raises(UnsupportedError, match="plain form"):
        nested(*nested(read_model(network("gran")), card("gran")))


def _chained() -> bytes:
    """A network whose first exit reads the second's answer, and so on."""
    proto = onnx.load_from_string(network("branchy"))
    for node in list(proto.graph.node):  # it grows
        if node.output[0] in ("exit2.fine", "exit3.fine"):
            before = f"exit{int(node.output[0][4]) - 1}.fine"
            node.output[0] += ".own"
            proto.graph.node.append(
                helper.make_node("Add", [node.output[0], before], [node.output[0].removesuffix(".own")])
            )
    return bytes(proto.SerializeToString())


def test_a_nested_graph_that_does_not_hold_its_exits_is_refused() -> None:
    made, driven = nested(read_model(network("gran")), card("gran"))
    assert driven.exits is not None
    hostile = "[red]\x1b[31m"
    other = replace(driven.exits.exits[0], fine=hostile)
    wrong = replace(driven, exits=replace(driven.exits, exits=(other, *driven.exits.exits[1:])))
    with pytest.raises(CardError, match="has no tensor") as caught:
        flatten(read_model(to_bytes(made)), wrong)
    assert caught.value.message.isprintable()
    proto = onnx.load_from_string(network("gran"))
    stages = [read_model(to_bytes(part)) for part in staged(read_model(proto.SerializeToString()), card("gran"))]
    with pytest.raises(CardError, match=r"no tensor 'exit1.fine'"):
        joined(stages[1:], card("gran"))
    with pytest.raises(CardError, match="Two stages"):
        joined([*stages, stages[1]], card("gran"))


@pytest.mark.parametrize("kind", ["sem", "ag"])
def test_logits_in_half_precision(kind: str) -> None:
    """Every exit's logits are float16, and so is what follows from them."""
    proto = onnx.load_from_string(network(kind))
    for output in proto.graph.output:
        proto = onnx.load_from_string(renamed(proto.SerializeToString(), output.name, f"{output.name}.single"))
    for output in proto.graph.output:
        proto.graph.node.append(
            helper.make_node("Cast", [f"{output.name}.single"], [output.name], to=TensorProto.FLOAT16)
        )
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    own, x = card(kind), image()
    assert own.exits is not None
    made, driven = nested(read_model(proto.SerializeToString()), own)
    logits = plain_outputs(proto.SerializeToString(), x)
    for thresholds, tolerance in ((9.0, 9.0), 9.0), ((0.0, 9.0), -9.0), ((0.0, 0.0), 9.0):
        found = run(to_bytes(made), feeds(x, driven, thresholds, tolerance))
        wanted = decide(own.exits, lambda _: logits, thresholds, tolerance)
        assert found[EXIT].tolist() == [wanted.exit] * len(x)
        for name, values in ((SCORES, wanted.scores), (COARSE, wanted.coarse)):
            assert found[name].dtype == np.float16
            assert np.allclose(found[name], values, rtol=1e-2, atol=1e-2)
