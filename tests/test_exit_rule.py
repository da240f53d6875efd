"""Early exits: what a card may say of them, what a selection leaves, and which exit answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expertc.card import Card, Output
from expertc.errors import CardError, UsageError
from expertc.exit_rule import Decision, decide, entropy
from expertc.exits import DEFAULT_THRESHOLD, Exit, Exits, two_levels
from expertc.taxonomy import Taxonomy

Array = np.ndarray[Any, Any]
TREE = Taxonomy.parse(
    "tree: {fish: {eel: {index: 3}, ray: {index: 0}}, bird: {owl: {index: 1}}, bug: {ant: {index: 2}, fly: {index: 4}}}"
)
BOTH = tuple(Exit(f"fine{u}", f"coarse{u}") for u in (1, 2, 3))
GRAN = Exits(("fish", "bird", "bug"), BOTH)
SEM = Exits(("fish", "bird", "bug"), (Exit(coarse="coarse1"), Exit(coarse="coarse2"), Exit("fine3")))
BRANCHY = Exits((), tuple(Exit(f"fine{u}") for u in (1, 2, 3)))
AG = replace(GRAN, semantic="semantic")
KINDS = {"gran": GRAN, "sem": SEM, "branchy": BRANCHY, "ag": AG}


def card(exits: Exits, taxonomy: Taxonomy = TREE) -> Card:
    return Card("x", taxonomy, tuple(map(Output, exits.fine)), "image", exits=exits)


def sure(entropies: Mapping[str, float]) -> dict[str, Array]:
    """Logits of two possible labels, the others out of reach, whose entropy is the one that is wanted."""
    found = {}
    for name, wanted in entropies.items():
        low, high = 0.0, 60.0
        for _ in range(200):
            middle = (low + high) / 2
            p = 1 / (1 + math.exp(-middle))
            h = -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
            low, high = (middle, high) if h > wanted else (low, middle)
        found[name] = np.full((1, 5 if "fine" in name else 3), -1e4)
        found[name][0, :2] = low, 0.0
    return found


def run(exits: Exits, entropies: Mapping[str, float], thresholds: Any, tolerance: Any, **more: Array) -> Decision:
    tensors = sure(entropies) | more
    placed = card(exits).exits
    assert placed is not None
    asked: list[int] = []

    def logits_of(number: int) -> Mapping[str, Array]:
        asked.append(number)
        named = {*exits.exits[number - 1].names, *((exits.semantic,) if number == 1 else ())}
        return {name: tensors[name] for name in named if name is not None}

    found = decide(placed, logits_of, thresholds, tolerance)
    assert asked == list(range(1, found.exit + 1)), "an exit is asked for when the run gets there, not before"
    return found


# -- the rule ----------------------------------------------------------------------------------------------------------

SPREAD = {"fine1": 0.6, "coarse1": 0.3, "fine2": 0.4, "coarse2": 0.2, "fine3": 0.3, "coarse3": 0.1}


def test_entropy_is_that_of_the_softmax_in_nats_and_survives_large_logits() -> None:
    assert entropy(np.zeros((3, 8))) == pytest.approx(math.log(8))
    assert entropy(np.array([[1e4, 0.0], [0.0, 0.0]])) == pytest.approx(math.log(2) / 2)  # the mean over the batch
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert entropy(x) == pytest.approx(float(-(p * np.log(p)).sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("thresholds", "tolerance", "exit_", "fine"),
    [
        ((0.0, 0.0), 1e9, 3, True),  # no entropy is below 0: only the last is left
        ((0.0, 0.0), -1e9, 3, False),
        ((math.inf, 0.0), math.inf, 1, True),  # tau without limit: whatever is sure at all is fine
        ((math.inf, 0.0), -math.inf, 1, False),
        ((0.0, math.inf), 0.0, 2, False),
        ((0.5, 0.5), 0.0, 1, False),  # the fine entropy is too large
        ((0.5, 0.5), 0.25, 1, False),  # .6 - .25 is not below .3; the coarse one is below the threshold
        ((0.7, 0.5), 0.35, 1, True),
        ((0.25, 0.5), 0.25, 2, True),
        ((0.25, 0.3), 0.25, 2, False),  # fine is not sure, coarse is
        ((0.1, 0.1), 0.15, 3, False),
        ((0.1, 0.1), 0.25, 3, True),
    ],
)
def test_gran_takes_the_first_sure_exit_and_the_finer_answer_within_the_tolerance(
    thresholds: tuple[float, ...], tolerance: float, exit_: int, fine: bool
) -> None:
    found = run(GRAN, SPREAD, thresholds, tolerance)
    assert (found.exit, found.fine) == (exit_, fine)


def test_what_is_just_at_a_threshold_is_not_sure_and_a_tie_is_coarse() -> None:
    even = dict.fromkeys(SPREAD, 0.0)
    tensors = {name: np.zeros((1, 5 if "fine" in name else 3)) for name in even}
    at = entropy(tensors["coarse1"])
    assert run(GRAN, even, (at, at), -10.0, **tensors).exit == 3
    assert run(GRAN, even, (np.nextafter(at, 9), 0), -10.0, **tensors).exit == 1
    same = {name: np.zeros((1, 3)) for name in even}
    assert not run(GRAN, even, (9, 9), 0.0, **same).fine, "equal entropies: not below"


def test_the_condition_of_the_authors_code_lets_fewer_coarse_answers_out_early() -> None:
    mild = SPREAD | {"fine1": 0.6, "coarse1": 0.45}
    strict = replace(GRAN, strict_coarse=True)
    # .6 is not below .5, so it is not fine; .45 is below .5, but not below .6 - .2.
    assert (run(GRAN, mild, (0.5, 0.1), 0.2).exit, run(strict, mild, (0.5, 0.1), 0.2).exit) == (1, 3)
    assert run(strict, mild, (0.5, 0.1), 0.1).exit == 1


def test_an_exit_with_one_answer_gives_it_when_it_is_sure() -> None:
    found = run(SEM, SPREAD, (0.25, 0.25), 0.0)
    assert (found.exit, found.fine) == (2, False)
    assert (run(SEM, SPREAD, (0, 0), 0).exit, run(SEM, SPREAD, (0, 0), 0).fine) == (3, True)
    assert (run(BRANCHY, SPREAD, (0.5, 0.5), -9).exit, run(BRANCHY, SPREAD, (0.5, 0.5), -9).fine) == (2, True)


@pytest.mark.parametrize(
    ("votes", "fine"),
    [
        ([[0, 1]], True),
        ([[1, 0]], False),
        ([[2, 2]], False),
        ([[0, 1], [1, 0]], True),
        ([[0, 1], [1, 0], [3, 3]], False),
    ],
)
def test_ag_decides_the_granularity_once_by_the_share_of_the_batch(votes: list[list[float]], fine: bool) -> None:
    found = run(AG, SPREAD, (0.35, 0.35), -100.0, semantic=np.array(votes, float))
    # Fine: .6, .4, then the last. Coarse: .3 is sure at once. The tolerance has no say.
    assert (found.exit, found.fine) == ((3, True) if fine else (1, False))


def test_a_batch_is_decided_as_one_by_its_mean_entropy() -> None:
    one, other = (sure({"fine1": h, "fine2": 0.0, "fine3": 0.0}) for h in (0.1, 0.6))
    batch = {name: np.concatenate([one[name], other[name]]) for name in one}
    assert [run(BRANCHY, {}, (0.3, 0.3), 0, **each).exit for each in (one, other, batch)] == [1, 2, 2]
    assert run(BRANCHY, {}, (0.36, 0.3), 0, **batch).exit == 1


def test_both_granularities_are_answered_whatever_the_exit_has() -> None:
    rng = np.random.default_rng(1)
    logits = {name: rng.normal(size=(4, 5 if "fine" in name else 3)).astype(np.float32) for name in SPREAD}
    found = run(GRAN, {}, (9, 9), 9, **logits)
    assert np.array_equal(found.scores, logits["fine1"])
    assert np.array_equal(found.coarse, logits["coarse1"])
    coarse = run(SEM, {}, (9, 9), 0, **logits)
    p = np.exp(logits["coarse1"]) / np.exp(logits["coarse1"]).sum(1, keepdims=True)
    # ray, owl, ant, eel, fly: two fishes share, one bird has all, two bugs share.
    assert np.allclose(np.exp(coarse.scores), p[:, [0, 1, 2, 0, 2]] / [2, 1, 2, 2, 2], rtol=1e-5)
    fine = run(SEM, {}, (0, 0), 0, **logits)
    q = np.exp(logits["fine3"]) / np.exp(logits["fine3"]).sum(1, keepdims=True)
    assert fine.coarse is not None
    assert np.allclose(np.exp(fine.coarse), np.stack([q[:, 0] + q[:, 3], q[:, 1], q[:, 2] + q[:, 4]], 1), rtol=1e-5)
    assert run(BRANCHY, {}, (9, 9), 0, **logits).coarse is None


@pytest.mark.parametrize(
    ("thresholds", "tolerance"),
    [((math.nan, 1), 0), ((1, 1), math.nan), (("x", 1), 0), ((1,), 0), ((1, 1, 1), 0), ((None, 1), 0)],
)
def test_a_setting_that_is_no_number_is_refused(thresholds: Any, tolerance: Any) -> None:
    with pytest.raises(UsageError, match=r"no number|thresholds for 2 early exits"):
        run(GRAN, SPREAD, thresholds, tolerance)


# -- what is left ------------------------------------------------------------------------------------------------------


def test_a_selection_keeps_the_categories_that_have_one_of_its_classes() -> None:
    left = card(replace(GRAN, thresholds=(0.1, 0.2), tolerance=0.3)).restrict([2, 3])
    assert left.exits is not None
    assert (left.classes, left.exits.categories, left.exits.of) == (("ant", "eel"), ("fish", "bug"), (1, 0))
    assert (left.exits.exits, left.exits.thresholds, left.exits.tolerance) == (BOTH, (0.1, 0.2), 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_category_leaves_the_fine_answers_and_one_class_the_first_of_them(kind: str) -> None:
    exits = replace(KINDS[kind], thresholds=(0.1, 0.2))
    fish, eel = card(exits).restrict([0, 3]), card(exits).restrict([3])
    assert fish.exits is not None
    assert eel.exits is not None
    fine = [one.fine for one in exits.exits if one.fine]
    assert fish.exits.exits == tuple(map(Exit, fine))
    assert (fish.exits.categories, fish.exits.semantic, fish.exits.of) == ((), None, ())
    assert fish.exits.thresholds == ((0.1, 0.2) if kind != "sem" else ())
    assert eel.exits.exits == (Exit(fine[0]),)
    assert [output.name for output in eel.outputs] == [fine[0]]
    assert [output.name for output in fish.outputs] == [fine[-1], *fine[:-1]]
    assert fish.restrict([1]) == eel


def test_frozen_thresholds_leave_the_exits_that_may_answer() -> None:
    many = 1.02 * math.log(5)

    def reached(exits: Exits, *thresholds: float) -> list[tuple[str, ...]]:
        return [one.names for one in replace(exits, thresholds=thresholds).reachable(5).exits]  # fmt: skip

    assert reached(BRANCHY, 0.0, 0.3) == [("fine2",), ("fine3",)]
    assert reached(BRANCHY, 0.3, many) == [("fine1",), ("fine2",)]
    assert reached(BRANCHY, 0.3, math.log(5)) == [("fine1",), ("fine2",), ("fine3",)]
    assert reached(GRAN, -1.0, many) == [("fine2", "coarse2")]
    assert reached(replace(GRAN, strict_coarse=True), 0.0, many) == [("fine2", "coarse2"), ("fine3", "coarse3")]
    assert reached(SEM, 0.0, 0.0) == [("fine3",)]
    assert reached(SEM, many, 0.1) == [("coarse1",), ("coarse2",), ("fine3",)], "some exit knows classes"
    assert replace(SEM, thresholds=(0.0, 0.0)).reachable(5).categories == ()
    assert replace(AG, thresholds=(0.0, 0.1)).reachable(5).semantic == "semantic"


# -- the card ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_says_it_again(kind: str) -> None:
    made = card(replace(KINDS[kind], thresholds=(0.1, 0.2), strict_coarse=kind == "gran"))
    assert Card.from_json(made.to_json()) == made
    assert [control.name for control in made.settings] == ["threshold", *(["tolerance"] if kind == "gran" else [])]
    other = made.with_defaults({"threshold": (0.7, 0.8)})
    assert other.exits is not None
    assert other.exits.thresholds == (0.7, 0.8)
    assert card(KINDS[kind]).settings[0].default == (DEFAULT_THRESHOLD, DEFAULT_THRESHOLD)


HOSTILE = "[bold]\x1b[31mx\u202e"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d["exits"].update(categories=["fish", "bird"]), "right above the classes"),
        (lambda d: d["exits"].update(categories=["fish", "bird", "bug", "eel"]), "right above the classes"),
        (lambda d: d["exits"].update(categories=["fish", "bird", HOSTILE]), "right above the classes"),
        (lambda d: d["exits"].update(categories=["fish", "bird", ["bug"]]), "no name"),
        (lambda d: d["exits"].update(categories=["fish", "bird", "bird"]), "twice"),
        (lambda d: d["exits"].update(categories=[]), "need categories"),
        (lambda d: d["exits"].update(of=[0, 1, 2, 0, 1]), "two categories"),
        (lambda d: d["exits"].update(of=[0, 1]), "two categories"),
        (lambda d: d["exits"].update(of=["0"] * 5), "wrong type"),
        (lambda d: d["exits"].update(exits=[]), "no exits"),
        (lambda d: d["exits"].update(exits=[{"fine": f"f{i}", "coarse": None} for i in range(25)]), "too many"),
        (lambda d: d["exits"].update(exits=[{"fine": None, "coarse": "c"}]), "No exit answers with a class"),
        (lambda d: d["exits"]["exits"][0].update(fine=None, coarse=None), "one without logits"),
        (lambda d: d["exits"]["exits"][0].update(fine=3), "no name"),
        (lambda d: d["exits"]["exits"][0].update(fine=["x"]), "no name"),
        (lambda d: d["exits"]["exits"][0].update(fine="coarse1"), "twice"),
        (lambda d: d["exits"]["exits"][0].update(fine="scores"), "is called like one of"),
        (lambda d: d["exits"]["exits"][0].update(fine=HOSTILE), "outputs are not"),
        (lambda d: d["exits"]["exits"][0].update(softmax=True), "unknown key"),
        (lambda d: d["exits"]["exits"].append("x"), "not a JSON object"),
        (lambda d: d["exits"].update(exits=None), "no list"),
        (lambda d: d["exits"].update(semantic=1), "no name"),
        (lambda d: (d["exits"].update(semantic="s"), d["exits"]["exits"][0].update(coarse=None)), "be told"),
        (lambda d: d["exits"].update(driven="yes"), "wrong type"),
        (lambda d: d["exits"].update(driven=True), "outputs are not"),
        (lambda d: d["exits"].update(strict_coarse=0), "wrong type"),
        (lambda d: d["exits"].update(thresholds=[0.1]), "no sound thresholds"),
        (lambda d: d["exits"].update(thresholds=[0.1, "0.2"]), "no sound thresholds"),
        (lambda d: d["exits"].update(thresholds=[0.1, 1e31]), "no sound thresholds"),
        (lambda d: d["exits"].update(thresholds=[0.1, True]), "no sound thresholds"),
        (lambda d: d["exits"].update(tolerance=None), "no sound thresholds"),
        (lambda d: d["exits"].pop("tolerance"), "no 'tolerance'"),
        (lambda d: d.update(exits=[]), "not a JSON object"),
        (lambda d: d.update(outputs=d["outputs"][:2]), "outputs are not"),
        (lambda d: d["outputs"][0].update(kind="probabilities"), "outputs are not"),
        (lambda d: d["controls"].append({"name": "tolerance", "default": [1.0], "per_class": False}), "twice"),
        (lambda d: d.pop("exits"), "no 'exits'"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(edit: Callable[[dict[str, Any]], Any], says: str) -> None:
    data = json.loads(card(GRAN).to_json())
    edit(data)
    with pytest.raises(CardError, match=says) as caught:
        Card.from_json(json.dumps(data))
    assert caught.value.hint
    assert (caught.value.message + caught.value.hint).isprintable()


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"coarse2": None}, "no output 'coarse2'"),
        ({"coarse2": ("n", 4)}, "4 columns, the card 3"),
        ({"coarse2": ("n",)}, "1 axes"),
        ({"fine1": ("n", 4)}, "4 classes, the card 5"),
        ({"semantic": ("n", 3)}, "3 columns, the card 2"),
    ],
)
def test_a_card_whose_exits_contradict_the_graph_is_refused(outputs: dict[str, Any], says: str) -> None:
    graph = {name: ("n", 2 if name == "semantic" else 5 if "fine" in name else 3) for name in AG.tensors}
    inputs = {"image": ("n", 3, 8, 8)}
    card(AG).check_graph(inputs, graph)
    wrong = {name: shape for name, shape in (graph | outputs).items() if shape is not None}
    with pytest.raises(CardError, match=says):
        card(AG).check_graph(inputs, wrong)


@pytest.mark.parametrize(
    "tree", ["{a: {b: {c: {index: 0}}, d: {e: {index: 1}}}}", "{a: {index: 0}, b: {c: {index: 1}}}", "{a: {index: 0}}"]
)
def test_other_than_two_levels_are_refused(tree: str) -> None:
    with pytest.raises(UsageError, match="taxonomy of two levels") as caught:
        two_levels(Taxonomy.parse(f"tree: {tree}"))
    assert "--levels 2" in caught.value.hint
    deep = Taxonomy.parse(f"tree: {tree}")
    exits = Exits(tuple(node.name for node in deep.roots), (Exit("f1", "c1"),))
    with pytest.raises(CardError, match="two levels in all"):
        card(exits, deep)
    assert two_levels(TREE) == ("fish", "bird", "bug")
