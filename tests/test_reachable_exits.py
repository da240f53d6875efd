"""Frozen thresholds: which exits are left, against the rule written out and tried on a grid of entropies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from exitnets import TREE, card, exits_of, image, network, plain_outputs
from networks import cut, run
from onnx import numpy_helper

from expertc.exit_rule import decide
from expertc.exits import EXIT, GRANULARITY, THRESHOLD, TOLERANCE, Exits
from expertc.graph import read_model, to_bytes
from expertc.surgery.exits import nested

Array = np.ndarray[Any, Any]
CLASSES, CATEGORIES = 5, 3
KINDS = ("branchy", "sem", "gran", "ag", "strict")
LIMITS = (-1.0, 0.0, 0.3, 0.98 * math.log(3), 1.02 * math.log(3), 1.3, 0.98 * math.log(5), 1.02 * math.log(5), 9.0)
TOLERANCES = (-9.0, -0.4, 0.0, 0.2, 0.6, 9.0)
GRID = {size: (0.0, 0.05, 0.4, 0.9, 0.5 * math.log(size), math.log(size)) for size in (CLASSES, CATEGORIES)}


def logits_of(entropy: float, size: int) -> Array:
    """One label against ``size - 1`` that are alike, up to all alike."""
    low, high = 0.0, 60.0
    for _ in range(100 if 0 < entropy < math.log(size) else 0):
        middle = (low + high) / 2
        weights = np.array([math.exp(middle), *[1.0] * (size - 1)])
        p = weights / weights.sum()
        low, high = (middle, high) if -(p * np.log(p)).sum() > entropy else (low, middle)
    return np.array([[0.0 if entropy == math.log(size) else high, *[0.0] * (size - 1)]])


LOGITS = {(size, entropy): logits_of(entropy, size) for size, values in GRID.items() for entropy in values}


def outcome(
    kind: str, vote: str, fine: float | None, coarse: float | None, limit: float, tau: float, last: bool
) -> str | None:
    """What an exit answers, from the paper's Algorithm 1, AG-HBN's form of it, and the authors' extra condition."""
    if kind == "ag":
        own = fine if vote == "fine" else coarse
        assert own is not None
        return vote if last or own < limit else None
    if coarse is None or fine is None:
        known, said = (fine, "fine") if coarse is None else (coarse, "coarse")
        assert known is not None
        return said if last or known < limit else None
    if last:
        return "fine" if fine - tau < coarse else "coarse"
    if fine < limit and fine - tau < coarse:
        return "fine"
    return "coarse" if coarse < limit and (kind != "strict" or coarse < fine - tau) else None


def settings() -> list[tuple[tuple[float, float], float]]:
    return list(product(product(LIMITS, LIMITS), TOLERANCES))


def frozen(kind: str, limits: tuple[float, ...], tau: float) -> Exits:
    found = card(kind).exits
    assert found is not None
    return replace(found, thresholds=limits, tolerance=tau, frozen=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exits_that_are_left_are_those_that_some_entropies_lead_to(kind: str) -> None:
    for limits, tau in settings():
        full, wanted, reached = exits_of(kind), set(), True
        for at, one in enumerate(full.exits):
            fines, coarses = (
                GRID[size] if name else (None,) for name, size in ((one.fine, CLASSES), (one.coarse, CATEGORIES))
            )
            said = {
                outcome(kind, vote, fine, coarse, (*limits, 0.0)[at], tau, at == 2)
                for vote in ("fine", "coarse") for fine in fines for coarse in coarses
            }  # fmt: skip
            wanted |= {one.names} if reached and said != {None} else set()
            reached &= None in said
        found = {one.names for one in frozen(kind, limits, tau).reachable(CLASSES).exits}
        if kind == "strict":  # which may be sure of both answers and like neither: more may be left
            assert found >= wanted, (limits, tau)
        elif any(one.fine for one in full.exits if one.names in wanted):
            assert found == wanted, (limits, tau)
        else:
            assert found == {one.names for one in full.exits}, "some exit knows classes"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_decides_as_all_of_them(kind: str) -> None:
    rng = np.random.default_rng(0)
    full, bound = exits_of(kind), 0
    tried = settings()
    for at in rng.permutation(len(tried))[:200].tolist():
        limits, tau = tried[at]
        left = frozen(kind, limits, tau).reachable(CLASSES)
        bound += len(left.thresholds) == len(left.exits)
        for _ in range(12):
            vote = str(rng.choice(["fine", "coarse"]))
            heads = {name: CLASSES if name.endswith("fine") else CATEGORIES for one in full.exits for name in one.names}
            drawn = {name: float(rng.choice(GRID[size])) for name, size in heads.items()}
            tensors = {name: LOGITS[heads[name], entropy] for name, entropy in drawn.items()}
            tensors |= {"granularity.logits": np.array([[0.0, 1.0] if vote == "fine" else [1.0, 0.0]])}
            said = [
                outcome(kind, vote, *(drawn.get(str(name)) for name in (one.fine, one.coarse)),
                        (*limits, 0.0)[number], tau, number == 2)
                for number, one in enumerate(full.exits)
            ]  # fmt: skip
            first = next(number for number, answer in enumerate(said) if answer is not None)
            got = decide(left, lambda _, made=tensors: made, left.thresholds, left.tolerance)  # type: ignore[misc]
            # Where an entropy and what it is held against are the same number, float64 may round to either side.
            if all(abs(a - b) > 1e-6 for a, b in close(drawn, full, limits, tau)):
                assert left.exits[got.exit - 1] == full.exits[first], (limits, tau, drawn)
                assert ("fine" if got.fine else "coarse") == said[first], (limits, tau, drawn)
    assert (bound > 0) == (kind == "gran"), "a last exit with a threshold was among them"


def close(drawn: Mapping[str, float], full: Exits, limits: tuple[float, ...], tau: float) -> list[tuple[float, float]]:
    """The pairs of numbers that a decision compares."""
    pairs = [(entropy, limit) for entropy in drawn.values() for limit in limits]
    both = [one for one in full.exits if one.fine and one.coarse]
    return [*pairs, *((drawn[str(one.fine)] - tau, drawn[str(one.coarse)]) for one in both)]


def expert(limits: tuple[float, ...], tau: float, seed: int, indices: tuple[int, ...]) -> tuple[bytes, Any]:
    own = card("gran")
    assert own.exits is not None
    held = own.with_exits(replace(own.exits, thresholds=limits, tolerance=tau, frozen=True))
    return cut(network("gran", seed=seed), held, indices)


def test_an_exit_that_is_always_sure_of_its_category_ends_the_graph_and_its_threshold_stays() -> None:
    """Three classes of two categories: a coarse entropy is at most ln 2, a fine one may be ln 3."""
    indices, tau, told = (0, 1, 3), 0.5, set()
    full = card("gran").restrict(indices).exits
    assert full is not None
    columns = [TREE.classes.index(name) for name in card("gran").restrict(indices).classes]
    categories = [exits_of("gran").categories.index(name) for name in full.categories]
    for seed, limit in product(range(12), (0.72, 0.85, 1.0)):
        data, done = expert((limit, 0.3), tau, seed, indices)
        assert done.card.exits is not None
        assert [one.fine for one in done.card.exits.exits] == ["exit1.fine"]
        assert done.card.exits.thresholds == (limit,)
        assert set(done.model.outputs) == {"exit1.fine", "exit1.coarse"}
        x = image(1, seed)
        everything = plain_outputs(network("gran", seed=seed), x)
        logits = {n: v[:, columns if n.endswith("fine") else categories] for n, v in everything.items()}
        want = decide(full, lambda _, made=logits: made, (limit, 0.3), tau)  # type: ignore[misc]
        got = run(to_bytes(nested(read_model(data), done.card)[0]), {"image": x})
        assert want.exit == got[EXIT][0] == 1
        assert want.fine == got[GRANULARITY][0]
        without = decide(full, lambda _, made=logits: made, (9.0, 0.3), tau)  # type: ignore[misc]
        told.add((want.fine, without.fine))
    assert (False, True) in told, "the threshold made an answer coarse that would be fine without"


def test_a_threshold_that_binds_no_more_goes_and_cuts_go_on() -> None:
    once = expert((0.85, 0.3), 0.5, 0, (0, 1, 3))
    assert once[1].card.exits.thresholds == (0.85,)
    assert expert((1.25, 0.3), 0.5, 0, (0, 1, 3))[1].card.exits.thresholds == (), "more than any fine entropy"
    assert expert((0.85, 0.3), 0.1, 0, (0, 1, 3))[1].card.exits.thresholds == (), "the tolerance does not reach it"
    assert expert((0.85, 0.3), -9.0, 0, (0, 1, 3))[1].card.exits.thresholds == ()
    again = cut(once[0], once[1].card, (0, 1))
    assert again[1].card.exits.thresholds == (), "ln 2 is below it"
    assert again[0] == expert((0.85, 0.3), 0.5, 0, (0, 1))[0]
    own = replace(once[1].card.exits, frozen=True)
    assert Exits.from_mapping(own.to_mapping()) == own


def test_a_threshold_just_above_the_bound_is_not_reached_in_single_precision_either() -> None:
    """All labels alike: in float32 their entropy rounds to what the threshold does, and is not below it."""
    limit, alike = math.log(3) + 1e-8, np.zeros((1, 3), np.float32)
    three = {f"exit{u}.fine": alike for u in (1, 2, 3)}
    assert decide(exits_of("branchy"), lambda _: three, (limit, 0.0), 0.0).exit == 1, "in float64 it is"
    proto = onnx.load_from_string(network("gran"))
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("exit1."):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    driven = to_bytes(nested(read_model(proto.SerializeToString()), card("gran"))[0])
    given = {THRESHOLD: np.array([limit, 0], np.float32), TOLERANCE: np.zeros(1, np.float32)}
    assert run(driven, {"image": image(1), **given})[EXIT][0] == 3
    assert len(frozen("gran", (limit, 0.3), 0.0).reachable(CLASSES).exits) == 3
