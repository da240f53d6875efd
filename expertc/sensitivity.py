"""An int8 expert that decides as the fp32 one does: the layers that hurt most stay in fp32, as few as it takes.

Everything is measured on images that the ranges were not taken from, and nothing needs their labels: what counts is
whether both precisions choose the same class. Images that the network was trained on are decided more clearly than
others: give those it has never seen, or expect more to differ on new ones than was measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends import OpenSession, portions
from .backends.cpu import open_session as open_on_cpu
from .card import Output
from .errors import DataError, UsageError, VerificationError
from .graph import Model, pack
from .surgery.quantise import Flavour, Quantise, Ranges, layers
from .verify.scores import by_class

MAX_DROP = 1.0
"""Points of top-1 agreement: the budget of int8 in the house plan."""

PERCENTILES = (None, 99.99, 99.9)
"""The calibrations that are tried: min-max, and what ``observe`` finds by default."""

RANKED = 16
"""Images on which layers are ranked: every one of them costs a run per layer."""

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Restored:
    """A layer (the name of its result) that stays fp32: int8 in it alone moved the scores by ``error``.

    ``error`` is the root mean square of the change over the standard deviation of the fp32 scores.
    """

    layer: str
    operator: str
    error: float


@dataclass(frozen=True)
class Agreement:
    """How often the int8 expert with ``restored`` fp32 layers chose another class than the fp32 expert."""

    percentile: float | None
    restored: int
    differing: int
    images: int
    error: float

    @property
    def drop(self) -> float:
        """Points of top-1 agreement that are lost."""
        return 100 * self.differing / self.images


@dataclass(frozen=True)
class Sensitivity:
    """What came of it: the layers in all, those in fp32 (worst first), and each trial in its order, the chosen last."""

    flavour: str
    layers: int
    restored: tuple[Restored, ...]
    trials: tuple[Agreement, ...]
    max_drop: float

    @property
    def chosen(self) -> Agreement:
        """The agreement of the expert that is kept."""
        return self.trials[-1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, in sentences."""
        chosen, found = self.chosen, []
        clipped = "min-max" if chosen.percentile is None else f"percentile {chosen.percentile:g}"
        found.append(
            f"int8 ({clipped}) chose another class than fp32 on {chosen.differing} of {chosen.images} images;"
            f" {len(self.restored)} of {self.layers} layers stay in fp32."
        )
        if chosen.images * self.max_drop < 100:
            found.append(
                f"{chosen.images} images cannot tell {self.max_drop:g} points: every one of them had to agree."
            )
        return tuple(found)


def within_budget(
    expert: Model,
    ranges: Ranges,
    images: Array,
    *,
    flavour: Flavour,
    output: Output,
    max_drop: float = MAX_DROP,
    percentiles: Iterable[float | None] = PERCENTILES,
    open_session: OpenSession = open_on_cpu,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Model, Sensitivity]:
    """Quantise ``expert`` and put layers back to fp32 until it chooses as before, within ``max_drop`` points.

    All is quantised first, with each calibration of ``percentiles``; the one that changes the fewest decisions is
    taken. Only if that is too many, each layer is quantised alone and ranked by what that does to the scores; the worst
    1, 2, 4, … are restored until the budget holds, and then as few as bisection finds.

    Args:
        expert: folded, fp32; with a free batch, or any fixed one.
        ranges: of its tensors, on other images than these.
        images: preprocessed, ``[n, ...]``.
        flavour: of the target.
        output: the output that decides (``card.outputs[0]``).
        max_drop: of 100 images, how many may be decided otherwise.
        percentiles: calibrations; None is min-max.
        open_session: runs the candidates; results depend on it, on nothing else.
        progress: is told a stage ("calibrate", "rank", "restore"), and how many of how many.

    Raises ``VerificationError`` if the budget does not hold with a single layer in int8, ``DataError`` for images that
    the expert does not take or that it gives no scores for, ``UsageError`` for a budget that is none, and what
    ``Quantise`` raises.
    """
    if not 0 <= max_drop < 100:
        raise UsageError(f"A drop of {max_drop:g} points is no budget.", "Give --max-drop from 0 to below 100.")
    judge = _Judge(expert, ranges, images, flavour, output, open_session)
    trials: list[Agreement] = []
    given = tuple(percentiles)
    for percentile in given:
        progress("calibrate", len(trials), len(given))
        trials.append(judge.agreement(percentile, ()))
    best = min(trials, key=lambda trial: (trial.differing, trial.error))
    names, ranked, count = layers(expert, flavour), [], 0
    if best.drop > max_drop:
        for number, name in enumerate(names):
            progress("rank", number, len(names))
            ranked.append(Restored(name, judge.operators[name], judge.error_alone(best.percentile, name)))
        ranked.sort(key=lambda layer: -layer.error)

        def holds(restored: int) -> bool:
            progress("restore", restored, len(names))
            trials.append(judge.agreement(best.percentile, ranked[:restored]))
            return trials[-1].drop <= max_drop

        count = _fewest(holds, len(names))
        if not count:
            raise VerificationError(
                f"Even with a single layer in int8 the expert chooses another class on more than {max_drop:g} % of"
                f" {len(images)} images.",
                "Calibrate on more images of its classes, allow a larger --max-drop, or build it in fp32.",
            )
    restored = tuple(ranked[:count])
    chosen = next(t for t in trials if (t.percentile, t.restored) == (best.percentile, count))
    report = Sensitivity(
        flavour.name, len(names), restored, (*(t for t in trials if t is not chosen), chosen), max_drop
    )
    return judge.quantised(best.percentile, restored), report


def _fewest(holds: Callable[[int], bool], total: int) -> int:
    """The fewest of 1 to ``total`` - 1 that hold, by doubling and then bisection; 0 if not even the most do."""
    fails, enough = 0, 1
    while enough < total and not holds(enough):
        fails, enough = enough, 2 * enough
    if enough >= total:
        enough = total - 1
        if enough <= fails or not holds(enough):
            return 0
    while enough - fails > 1:
        middle = (fails + enough) // 2
        fails, enough = (fails, middle) if holds(middle) else (middle, enough)
    return enough


class _Judge:
    """The fp32 expert's scores on the images, and how far quantised ones are from them."""

    def __init__(
        self, expert: Model, ranges: Ranges, images: Array, flavour: Flavour, output: Output, open_session: OpenSession
    ) -> None:
        self.expert, self.ranges, self.images, self.flavour = expert, ranges, images, flavour
        self.output, self.open_session = output, open_session
        self.operators = {node.outputs[0].name: node.op for node in expert.nodes}
        self.expected = self._scores(expert, images)
        if not np.isfinite(self.expected).all():
            raise DataError(
                "The fp32 expert's scores on the calibration images are not numbers.", "Look at the images."
            )
        self.few = np.linspace(0, len(images) - 1, min(len(images), RANKED)).round().astype(int)

    def quantised(self, percentile: float | None, restored: Iterable[Restored]) -> Model:
        exclude = frozenset(layer.layer for layer in restored)
        return Quantise(self.ranges, self.flavour, exclude, percentile).run(self.expert)[0]

    def agreement(self, percentile: float | None, restored: Sequence[Restored]) -> Agreement:
        found = self._scores(self.quantised(percentile, restored), self.images)
        differing = int((found.argmax(axis=1) != self.expected.argmax(axis=1)).sum())
        return Agreement(percentile, len(restored), differing, len(found), _distance(found, self.expected))

    def error_alone(self, percentile: float | None, layer: str) -> float:
        """How far the scores move if ``layer`` alone computes in integers."""
        others = frozenset(layers(self.expert, self.flavour)) - {layer}
        alone, _ = Quantise(self.ranges, self.flavour, others, percentile).run(self.expert)
        return _distance(self._scores(alone, self.images[self.few]), self.expected[self.few])

    def _scores(self, model: Model, images: Array) -> Array:
        """``[images, classes]``, float64."""
        with closing(self.open_session(pack(model, None), optimise=True)) as session:
            _require_fit(images, session.input_shape)
            size = session.input_shape[0] or 1
            parts = [session.run(part)[self.output.name][:count] for part, count in portions(images, size)]
        return by_class(np.concatenate(parts), self.output.axis)


def _distance(found: Array, expected: Array) -> float:
    """Root mean square of the difference over the standard deviation of what is expected."""
    difference, scale = float(np.sqrt(np.mean((found - expected) ** 2))), float(expected.std())
    return difference / scale if scale else float(difference > 0)


def _require_fit(images: Array, shape: tuple[int | None, ...]) -> None:
    wanted = (None, *shape[1:])
    if (
        len(images)
        and images.ndim == len(wanted)
        and all(w in (None, h) for h, w in zip(images.shape, wanted, strict=True))
    ):
        return
    raise DataError(
        f"The calibration images are of shape {images.shape}, the expert takes {('any', *shape[1:])}.",
        "Preprocess them as its card says.",
    )
