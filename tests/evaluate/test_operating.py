"""The grid of operating points, against ``exit_rule.decide`` photo by photo, and what is chosen from it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expertc.errors import DataError
from expertc.evaluate.operating import MOST_POINTS, Point, Recorded, answers, choose, front, grid, points
from expertc.exit_rule import decide, entropy
from expertc.exits import Exit, Exits

CATEGORIES, OF = ("a", "b"), (0, 0, 1, 1, 1)
GRAN = Exits(CATEGORIES, tuple(Exit(f"f{u}", f"c{u}") for u in (1, 2, 3)), of=OF)
KINDS = {
    "gran": GRAN,
    "strict": replace(GRAN, strict_coarse=True),
    "ag": replace(GRAN, semantic="s"),
    "branchy": Exits((), tuple(Exit(f"f{u}") for u in (1, 2, 3))),
    "sem": Exits(CATEGORIES, (Exit(coarse="c1"), Exit(coarse="c2"), Exit("f3")), of=OF),
    "one": Exits(CATEGORIES, (Exit("f1", "c1"),), of=OF),
    "five": Exits((), tuple(Exit(f"f{u}") for u in range(1, 6))),
}
IMAGES = 60
SECONDS = (1e-3, 2e-3, 5e-3, 6e-3, 7e-3)


def made(exits: Exits, seed: int = 0) -> tuple[Recorded, list[dict[str, Any]], np.ndarray]:
    """Random logits of every head, later ones surer; what is recorded of them, by hand; the true classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(OF), IMAGES)
    photos: list[dict[str, Any]] = []
    for label in truth:
        tensors = {"s": random.standard_normal((1, 2))}
        for number, one in enumerate(exits.exits, 1):
            for name, width, right in ((one.fine, len(OF), label), (one.coarse, 2, OF[label])):
                if name is not None:
                    tensors[name] = random.standard_normal((1, width)) * number
                    tensors[name][0, right] += 1.5 * number
        photos.append(tensors)

    def all_of(side: str, what: Any) -> np.ndarray:
        rows = []
        for one in exits.exits:
            name = getattr(one, side)
            rows.append([what(t[name], i) if name else math.nan for i, t in enumerate(photos)])
        return np.array(rows)

    recorded = Recorded(
        exits,
        all_of("fine", lambda logits, i: entropy(logits)),
        all_of("coarse", lambda logits, i: entropy(logits)),
        all_of("fine", lambda logits, i: logits.argmax() == truth[i]) == 1,
        all_of("coarse", lambda logits, i: logits.argmax() == OF[truth[i]]) == 1,
        None if exits.semantic is None else np.array([t["s"].argmax() == 1 for t in photos]),
        SECONDS[: len(exits.exits)],
    )
    return recorded, photos, truth


@pytest.mark.parametrize("kind", KINDS)
def test_every_point_is_what_the_rule_decides(kind: str) -> None:
    exits = KINDS[kind]
    recorded, photos, truth = made(exits)
    random = np.random.default_rng(1)
    early = len(exits.exits) - 1
    settings = [(tuple(random.uniform(0, 1.6, early)), random.uniform(-0.6, 0.8)) for _ in range(12)]
    for thresholds, tolerance in [*settings, ((0.0,) * early, 9.0), ((9.0,) * early, -9.0)]:
        answered = list(answers(recorded, np.array([thresholds]).reshape(1, -1), tolerance))
        taken = np.array([now[0] for now, _ in answered]).argmax(axis=0) + 1
        assert sum(now for now, _ in answered).tolist() == [[1] * IMAGES]
        finely = np.array([fine[0] for _, fine in answered]).any(axis=0)
        hits, seconds = 0, 0.0
        for i, tensors in enumerate(photos):
            one = decide(exits, lambda number, tensors=tensors: tensors, thresholds, tolerance)
            assert (taken[i], finely[i]) == (one.exit, one.fine)
            named = one.scores.argmax() == truth[i] if one.fine else one.coarse.argmax() == OF[truth[i]]
            hits += bool(named)
            seconds += SECONDS[one.exit - 1] / IMAGES
        (found,) = points(recorded, [thresholds], tolerance)
        counts = tuple(int((taken == n).sum()) for n in range(1, early + 2))
        assert (found.hits, found.fine, found.exits) == (hits, int(finely.sum()), counts)
        assert found.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_holds_the_extremes_and_stays_small(kind: str) -> None:
    recorded, _, _ = made(KINDS[kind])
    tried = grid(recorded)
    assert 0 < len(tried) <= MOST_POINTS
    assert len({(one.thresholds, one.tolerance) for one in tried}) == len(tried)
    by_exit = np.array([one.exits for one in tried])
    assert by_exit.max(axis=0)[-1] == IMAGES  # all go to the end
    if recorded.semantic is None:
        assert by_exit.max(axis=0)[0] == IMAGES  # or none goes further than the first
    if recorded.exits.compares:
        assert {0, IMAGES} <= {one.fine for one in tried}


def test_the_choice_among_points() -> None:
    def one(hits: int, fine: int, ms: float) -> Point:
        return Point((0.5,), ms, 100, hits, fine, (50, 50), ms / 1e3)

    made_up = (one(70, 90, 1), one(80, 20, 2), one(80, 60, 2), one(90, 10, 3), one(90, 50, 4), one(85, 100, 5))
    assert choose(made_up, min_accuracy=0.8) == made_up[2]  # as quick, and finer
    assert choose(made_up, min_accuracy=0.81) == made_up[3]
    assert choose(made_up, min_accuracy=0.81, min_fine=0.5) == made_up[4]
    assert choose(made_up, max_seconds=2.5e-3) == made_up[2]
    assert choose(made_up, max_seconds=1.0) == made_up[4]
    assert choose(made_up, max_seconds=1.0, min_fine=1.0) == made_up[5]
    assert front(made_up) == (made_up[0], made_up[2], made_up[3])
    for asked, said, hint in (
        ({"min_accuracy": 0.95}, r"the best, 90\.0 % \(50 % with a class\), takes 4 ms", "--min-accuracy 0.9 at most"),
        ({"min_accuracy": 0.9, "min_fine": 0.9}, r"85\.0 %", "0.85 at most, or a smaller --min-fine"),
        ({"max_seconds": 5e-4}, "the quickest takes 1 ms", "--max-ms 1 at least"),
        ({"max_seconds": 1e-3, "min_fine": 0.95}, "the quickest takes 5 ms", "--max-ms 5 at least"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            choose(made_up, **asked)
        assert hint in caught.value.hint
    with pytest.raises(DataError, match="100 % of the photos with a class") as caught:
        choose(made_up[:3], max_seconds=1.0, min_fine=1.0)
    assert "--min-fine 0.9 at most" in caught.value.hint
