"""Operating points of a network with early exits: what thresholds and a tolerance make of recorded answers.

Every exit's answers to a set of photos are recorded once; what any setting would have answered follows from their
entropies by the rule (``exit_rule.decide``), for each photo by itself. So a grid of settings costs no run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import mul
from typing import Any

import numpy as np

from ..controls import MAX_VALUE
from ..errors import DataError
from ..exits import Exits
from ..intervals import wilson
from .others import share

Array = np.ndarray[Any, Any]

MOST_POINTS = 20_000
"""Of a grid: seconds of numpy for some ten thousand photos."""

_TOGETHER = 2_000_000  # answers at a time: some ten megabytes

STEPS, FEWEST = 20, 6
"""Thresholds per exit: each rejects a twentieth more of the photos. Where the grid allows fewer than the second for
each exit by itself, one threshold is tried for all."""

TOLERANCES = 10  # quantiles of how much less sure the fine answer is than the coarse one

_DIGITS = 4  # of a setting, for people to read: it is judged as it is rounded


@dataclass(frozen=True)
class Recorded:
    """What every exit said of N photos, whichever would have answered.

    Args:
        exits: of the network.
        fine: float64 ``[exits, N]``, entropy in nats of its softmax over the classes, NaN without such a head or if its
            logits are not numbers.
        coarse: likewise over the categories.
        fine_right: bool ``[exits, N]``, whether its class is the photo's.
        coarse_right: whether its category is.
        semantic: bool ``[N]``, of a network that decides by itself whether it answers finely.
        seconds: of a call that ends at each exit.
    """

    exits: Exits
    fine: Array
    coarse: Array
    fine_right: Array
    coarse_right: Array
    semantic: Array | None
    seconds: tuple[float, ...]

    @property
    def images(self) -> int:
        """N."""
        return int(self.fine.shape[1])


@dataclass(frozen=True)
class Point:
    """A setting, and what it makes of ``images`` photos: an answer is right if its label is, class or category.

    ``exits`` counts the photos that each exit answers, ``fine`` those that are told their class; ``seconds`` is the
    mean of a photo's call.
    """

    thresholds: tuple[float, ...]
    tolerance: float
    images: int
    hits: int
    fine: int
    exits: tuple[int, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.hits / self.images

    @property
    def fine_share(self) -> float:
        """Share of fine answers."""
        return self.fine / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the accuracy."""
        return wilson(self.hits, self.images)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, without the time."""
        return {
            "thresholds": list(self.thresholds),
            "tolerance": self.tolerance,
            "accuracy": share(self.hits, self.images),
            "fine": share(self.fine, self.images),
            "exits": [share(count, self.images) for count in self.exits],
        }


def answers(recorded: Recorded, thresholds: Array, tolerance: float) -> Iterator[tuple[Array, Array]]:
    """For each exit in turn, which photos it answers and which of them finely: bool ``[P, N]``, by the rule.

    ``thresholds`` are ``[P, exits - 1]``: P settings at once.
    """
    exits, many = recorded.exits, (len(thresholds), recorded.images)
    left = np.ones(many, bool)
    limits = [*thresholds.T[:, :, None], None]
    for number, (one, limit) in enumerate(zip(exits.exits, limits, strict=True)):
        fine, coarse = recorded.fine[number], recorded.coarse[number]
        sure = np.ones(many, bool)
        if recorded.semantic is not None or not (one.fine and one.coarse):
            wants = np.full(recorded.images, one.fine is not None) if recorded.semantic is None else recorded.semantic
            if limit is not None:
                sure = np.where(wants, fine, coarse) < limit
        else:
            wants = fine - tolerance < coarse
            if limit is not None:
                strict = coarse < fine - tolerance if exits.strict_coarse else np.ones(recorded.images, bool)
                wants = wants & (fine < limit)
                sure = wants | ((coarse < limit) & strict)
        now = left & sure
        yield now, now & wants
        left &= ~sure


def points(recorded: Recorded, thresholds: Sequence[Sequence[float]], tolerance: float) -> Iterator[Point]:
    """What each of several settings makes of the photos."""
    early, images = len(recorded.exits.exits) - 1, recorded.images
    size = max(1, _TOGETHER // images)
    for start in range(0, len(thresholds), size):
        part = [tuple(map(float, values)) for values in thresholds[start : start + size]]
        hits, fine, counts = np.zeros(len(part), np.int64), np.zeros(len(part), np.int64), []
        answered = answers(recorded, np.reshape(part, (len(part), early)), tolerance)
        for (now, finely), fine_right, coarse_right in zip(
            answered, recorded.fine_right, recorded.coarse_right, strict=True
        ):
            counts.append(now.sum(axis=1).tolist())
            fine += finely.sum(axis=1)
            hits += (finely & fine_right).sum(axis=1) + (now & ~finely & coarse_right).sum(axis=1)
        for values, right, named, *own in zip(part, hits.tolist(), fine.tolist(), *counts, strict=True):
            # the same counts give the same time, to the last digit
            seconds = math.fsum(map(mul, own, recorded.seconds)) / images
            yield Point(values, tolerance, images, right, named, tuple(own), seconds)


def grid(recorded: Recorded) -> tuple[Point, ...]:
    """The points of a grid of settings: thresholds of every early exit, or one for all where they are many, and
    tolerances. They are quantiles of what was recorded, and so extreme that an exit never or always answers."""
    early = len(recorded.exits.exits) - 1
    tolerances = _tolerances(recorded)
    steps = STEPS
    if early:
        steps = min(STEPS, int((MOST_POINTS / len(tolerances)) ** (1 / early)) - 2)
    if steps >= FEWEST:
        settings = list(product(*(_thresholds(recorded, [number], steps) for number in range(early))))
    else:
        settings = [(limit,) * early for limit in _thresholds(recorded, range(early), STEPS)]
    return tuple(found for tolerance in tolerances for found in points(recorded, settings, tolerance))


def front(found: Sequence[Point]) -> tuple[Point, ...]:
    """Those than which none is both quicker and more accurate (Pareto), the quickest first."""
    best: list[Point] = []
    for one in sorted(found, key=lambda one: (one.seconds, -one.hits, -one.fine)):
        if not best or one.hits > best[-1].hits:
            best.append(one)
    return tuple(best)


def choose(
    found: Sequence[Point],
    *,
    min_accuracy: float | None = None,
    max_seconds: float | None = None,
    min_fine: float = 0.0,
) -> Point:
    """The quickest point of at least ``min_accuracy``, or the most accurate within ``max_seconds``.

    Only points with at least the share ``min_fine`` of fine answers count; of equally good ones that with the most
    wins. Raises ``DataError`` if there is none, saying what there is.
    """
    finer = [one for one in found if one.fine >= min_fine * one.images - 1e-9]  # 0.29 * 100 is not quite 29
    if not finer:
        most = max(one.fine_share for one in found)
        raise DataError(
            f"No setting answers {100 * min_fine:g} % of the photos with a class.",
            f"Ask for --min-fine {_down(most)} at most.",
        )
    if min_accuracy is not None:
        good = [one for one in finer if one.hits >= min_accuracy * one.images - 1e-9]
        if good:
            return min(good, key=lambda one: (one.seconds, -one.fine, -one.hits))
        best = max(finer, key=lambda one: (one.hits, one.fine, -one.seconds))
        raise DataError(
            f"No setting answers {100 * min_accuracy:g} % of the {best.images:,} photos rightly: the best, "
            f"{100 * best.accuracy:.1f} % ({100 * best.fine_share:.0f} % with a class), takes "
            f"{1e3 * best.seconds:.3g} ms.",
            f"Ask for --min-accuracy {_down(best.accuracy)} at most{', or a smaller --min-fine' if min_fine else ''}.",
        )
    limit = math.inf if max_seconds is None else max_seconds
    good = [one for one in finer if one.seconds <= limit]
    if good:
        return max(good, key=lambda one: (one.hits, one.fine, -one.seconds))
    quickest = min(finer, key=lambda one: (one.seconds, -one.hits))
    raise DataError(
        f"No setting answers within {1e3 * limit:g} ms on average: the quickest takes {1e3 * quickest.seconds:.3g} ms.",
        f"Ask for --max-ms {_up(1e3 * quickest.seconds)} at least{', or a smaller --min-fine' if min_fine else ''}.",
    )


def _thresholds(recorded: Recorded, numbers: Sequence[int], steps: int) -> tuple[float, ...]:
    """Limits below which more and more of the photos' entropies are: none, the quantiles, all."""
    seen = np.concatenate([values[number] for values in (recorded.fine, recorded.coarse) for number in numbers])
    known = seen[np.isfinite(seen)]
    inner = np.quantile(known, np.arange(1, steps) / steps) if len(known) else np.zeros(0)
    return tuple(dict.fromkeys([0.0, *map(_rounded, inner.tolist()), _beyond(known)]))


def _tolerances(recorded: Recorded) -> tuple[float, ...]:
    if not recorded.exits.compares:
        return (recorded.exits.tolerance,)
    apart = (recorded.fine - recorded.coarse).ravel()
    known = apart[np.isfinite(apart)]
    inner = np.quantile(known, np.arange(1, TOLERANCES) / TOLERANCES).tolist() if len(known) else []
    return tuple(dict.fromkeys([-_beyond(-known), *map(_rounded, inner), _beyond(known)]))


def _beyond(values: Array) -> float:
    """A round number above all of ``values``, and at least 1."""
    return float(min(MAX_VALUE, math.ceil(max([0.0, *values.tolist()])) + 1))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _down(value: float) -> str:
    return f"{math.floor(1000 * value) / 1000:g}"


def _up(value: float) -> str:
    digits = 3 - math.ceil(math.log10(value)) if value > 0 else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:g}"
