"""The ladder feeds controls: the defaults, and numbers no two classes share, so that none can take another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import branched
import controlled
import numpy as np
import onnx
import pytest
from branched import Case, node, put, rewire, weight
from networks import Net
from onnx import helper

from expertc.card import CARD_KEY, Card, Control
from expertc.graph import read_model, to_bytes
from expertc.surgery.fold import Fold
from expertc.surgery.prune import prune
from expertc.verify import ladder
from expertc.verify.process import verify
from expertc.verify.settings import control_settings
from expertc.verify.structure import trace
from expertc.verify.views import views

Proto = onnx.ModelProto


def case(full: bytes, card: Card, indices: tuple[int, ...]) -> Case:
    full = branched.altered(full, lambda proto: helper.set_model_props(proto, {CARD_KEY: card.to_json()}))
    cut = to_bytes(prune(read_model(full), card, indices).model)
    return Case(full, card, indices, cut, to_bytes(Fold().run(read_model(cut))[0]))


def made(name: str, indices: tuple[int, ...] = (1, 3, 4)) -> Case:
    return case(controlled.FORMS[name]().bytes(), controlled.controlled(), indices)


DEFAULT = (1.0, 2.0, 3.0, 0.5, 4.0, 1.5)
FILLED = case(controlled.opaque().bytes(), controlled.controlled(default=DEFAULT), (1, 3))


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("indices", [(1, 3, 4), (2,), tuple(range(controlled.CLASSES))])
@pytest.mark.parametrize("name", controlled.FORMS)
def test_an_expert_with_gains_is_verified(name: str, indices: tuple[int, ...], level: str) -> None:
    certificate = made(name, indices).climb(level)
    assert certificate.failure is None
    assert certificate.verdict == "verified"
    assert certificate.steps[1].numbers["control_settings"] == 2


@pytest.mark.parametrize("level", ["fast", "full"])
def test_one_that_is_filled_with_defaults_too(level: str) -> None:
    assert FILLED.climb(level).verdict == "verified"
    again = case(FILLED.cut, FILLED.card.restrict(FILLED.indices), (1,))
    assert again.climb(level).verdict == "verified"


def test_a_threshold_is_fed_its_default() -> None:
    net = Net(17)
    x = net.node("Relu", net.conv(net.image(), 3, 5, name="wide"))
    x = net.node("Sub", x, controlled.gain_input(net, 1, "threshold"))
    net.node("Flatten", net.node("GlobalAveragePool", x), out="scores")
    net.result("scores", 5)
    card = replace(controlled.card(5), controls=(Control("threshold", (0.25,), False),))
    certificate = case(net.bytes(), card, (0, 2)).climb()
    assert certificate.verdict == "verified"
    assert certificate.steps[1].numbers["control_settings"] == 1


def test_in_the_child_process() -> None:
    found = made("nested")
    certificate = verify(found.full, found.cut, found.final, card_full=found.card, indices=found.indices)
    assert certificate.verdict == "verified"


def test_the_settings_are_the_defaults_and_seeded_numbers() -> None:
    card = controlled.controlled(6, Control("threshold", (0.25,), False), default=DEFAULT)
    plain, drawn = control_settings(card, (1, 4), 0)
    assert plain.full == {"gain": DEFAULT, "threshold": (0.25,)}
    assert plain.expert == {"gain": (2.0, 4.0), "threshold": (0.25,)}
    assert drawn.full["gain"][0] == 1.0
    assert (drawn.full["gain"][1], drawn.full["gain"][4]) == drawn.expert["gain"]
    assert drawn.full["threshold"] == (0.25,)
    assert len({*drawn.expert["gain"], *DEFAULT}) == 8
    assert min(drawn.expert["gain"]) > 0
    assert control_settings(card, (1, 4), 0)[1] == drawn
    assert control_settings(card, (1, 4), 1)[1] != drawn
    assert control_settings(controlled.card(3), (0,), 0)[0].full == {}


def test_a_score_that_only_its_gain_moves_is_uninformative() -> None:
    found = made("grouped, Gather", (1, 3))

    def dead(proto: Proto) -> None:
        for name in ("second.w", "heads.w"):
            values = weight(proto, name)
            values[:] = 0
            put(proto, name, values)

    assert case(branched.altered(found.full, dead), found.card, (1, 3)).climb().verdict == "uninformative"


# -- what must be rejected ---------------------------------------------------------------------------------------------


def permute_index(name: str) -> Callable[[Proto], Any]:
    """Gains repeated onto the channels of another class."""
    return lambda proto: put(proto, name, weight(proto, name)[::-1])


def read_the_next(proto: Proto) -> None:
    """A branch takes its neighbour's gain."""
    put(proto, "own1", np.array(1, np.int64))


def gains_permuted(proto: Proto) -> None:
    """A Gather in front of everything that reads the gains."""
    readers = [item for item in proto.graph.node if "gain" in item.input]
    for item in readers:
        item.input[list(item.input).index("gain")] = "gain@0.9"
    put(proto, "gain@0.9.indices", np.array([1, 0, 2], np.int64))
    turn = helper.make_node("Gather", ["gain", "gain@0.9.indices"], ["gain@0.9"], name="gain@0.9", axis=0)
    proto.graph.node.insert(0, turn)


def gains_ignored(proto: Proto) -> None:
    """The multiplication is gone: the same scores for the defaults."""
    mul = next(item for item in proto.graph.node if item.op_type == "Mul")
    for item in proto.graph.node:
        for at, name in enumerate(item.input):
            item.input[at] = mul.input[0] if name == mul.output[0] else name
    proto.graph.node.remove(mul)


def gains_frozen(proto: Proto) -> None:
    """The default as a constant in place of the input."""
    put(proto, "frozen", np.ones(3, np.float32))
    for item in proto.graph.node:
        for at, name in enumerate(item.input):
            item.input[at] = "frozen" if name == "gain" else name


def fill(values: list[float]) -> Callable[[Proto], Any]:
    return lambda proto: put(proto, "gain@filled.defaults", np.array(values, np.float32))


def other_default(proto: Proto) -> None:
    [entry] = proto.metadata_props
    card = Card.from_json(entry.value)
    entry.value = card.with_defaults({"gain": (2.0,) * len(card.classes)}).to_json()


MUTANTS: dict[str, tuple[Case, Callable[[Proto], Any], str]] = {
    "the gains permuted": (made("grouped, broadcast"), gains_permuted, "raw scores"),
    "the gains of branches permuted": (made("separate, Gather"), gains_permuted, "raw scores"),
    "the index of the channels reversed": (made("grouped, Gather"), permute_index("owner"), "raw scores"),
    "a branch reads its neighbour's gain": (made("separate, Gather"), read_the_next, "raw scores"),
    "the gains ignored": (made("grouped, broadcast"), gains_ignored, "structure"),
    "the gains frozen": (made("grouped, broadcast"), gains_frozen, "structure"),
    "another default on the card": (made("nested"), other_default, "structure"),
    "filled with other numbers": (FILLED, fill([1, 3, 4, 7]), "structure"),
    "filled with a kept class's default": (FILLED, fill([1, 2, 4, 1.5]), "structure"),
    "filled in another order": (FILLED, fill([3, 1, 4, 1.5]), "structure"),
    "the order of what is filled": (FILLED, permute_index("gain@filled.order"), "raw scores"),
    "the unfilled gains read": (
        FILLED,
        lambda p: rewire(p, node(p, "gain@filled@0").output[0], 0, "gain"),
        "raw scores",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_expert_is_rejected(name: str) -> None:
    found, change, step = MUTANTS[name]
    certificate = found.changed(change).climb()
    assert certificate.failure is not None
    assert certificate.failure.name == step, certificate.failure.detail


# In which order the mean of all gains is taken, and what the card says, no score can tell.
SILENT = ("filled in another order", "another default on the card")
SEEN = [name for name, (_, _, step) in MUTANTS.items() if step == "structure" and name not in SILENT]


@pytest.mark.parametrize("name", SEEN)
def test_the_scores_alone_reject_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, change, _ = MUTANTS[name]
    full, cut = read_model(found.full), read_model(found.cut)
    sound = trace(full, cut, views(full, found.card), found.card, found.indices)
    monkeypatch.setattr(ladder, "trace", lambda *_: sound)
    failure = found.changed(change).climb("full").failure
    assert failure is not None
    assert failure.name == "raw scores", failure.detail


def test_the_defaults_alone_would_not_have_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made("grouped, broadcast").changed(gains_permuted)
    monkeypatch.setattr(ladder, "control_settings", lambda *given: control_settings(*given)[:1])
    assert found.climb().verdict == "verified"


@pytest.mark.parametrize("change", [gains_permuted, gains_ignored], ids=["permuted", "ignored"])
def test_a_final_model_with_other_gains_is_rejected(change: Callable[[Proto], Any]) -> None:
    failure = made("grouped, broadcast").finally_changed(change).climb().failure
    assert failure is not None
    assert failure.name == "optimised", failure.detail


def test_an_input_that_is_wider_than_the_selection_is_rejected() -> None:
    found = made("separate, Gather")
    whole = prune(read_model(found.full), found.card, range(controlled.CLASSES)).model
    wider = branched.altered(
        to_bytes(whole),
        lambda p: helper.set_model_props(p, {CARD_KEY: found.card.restrict(found.indices).to_json()}),
    )
    failure = replace(found, cut=wider, final=wider).climb().failure
    assert failure is not None
    assert failure.name == "structure"
