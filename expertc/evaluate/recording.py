"""Recording what every exit of an expert says of photos, and how long a call takes that ends there."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial

import numpy as np

from ..backends.cpu import FREE_AXIS
from ..controls import MAX_VALUE
from ..errors import BundleError, DataError, UsageError
from ..exit_rule import entropy
from ..exits import THRESHOLD, TOLERANCE, Exits
from ..measure import interleave
from ..runtime import Expert
from ..runtime.dataset import LabelledImages
from ..runtime.exits import forced, refuse_unsettable
from .batches import Progress, batches
from .operating import Array, Recorded

MEASURED = 2.0  # seconds for all exits together


def require_settable(expert: Expert) -> Exits:
    """The exits of ``expert``, if it decides for each photo by itself, and can be told how. Raises ``UsageError``."""
    settable = {THRESHOLD, TOLERANCE} & {control.name for control in expert.controls}
    if expert.exits is None:
        raise UsageError(
            "This expert has no early exits to calibrate: its network has none, or is built with --exits plain.",
            "Give --others to find a threshold for photos of other things, or build it without --exits plain.",
        )
    if not settable:
        refuse_unsettable(expert.exits)
    if expert.session.input_shape[0] not in (None, 1):
        raise UsageError(
            f"This expert decides once for {expert.session.input_shape[0]} photos at a time.",
            "Calibrate one that is built with --batch 1.",
        )
    return expert.exits


def record(
    expert: Expert,
    images: LabelledImages,
    match: Mapping[str, int],
    unreadable: list[tuple[str, str]],
    *,
    seconds: float = MEASURED,
    progress: Progress | None = None,
) -> Recorded:
    """Run the expert over ``images`` once per exit, and time the exits in turns.

    ``match`` maps classes of the images to the expert's; others are left out. Photos that cannot be read are appended
    to ``unreadable`` with the reason. Raises ``DataError`` if none is left, and what ``require_settable`` raises.
    """
    exits = require_settable(expert)
    if expert.preprocess is None:
        raise BundleError("The bundle does not say how images become tensors.", "Build it with preprocessing.")
    of_class = [match.get(name, -1) for name in images.classes]
    wanted = [index for index in range(len(images)) if of_class[images.label(index)] >= 0]
    if not wanted:
        raise DataError("No photo is of a class of this expert.", "Name the folders like its classes.")
    count, settings = len(exits.exits), _settings(expert, exits)
    truth: list[int] = []
    semantic: list[bool] = []
    rows: list[list[tuple[float, float, bool, bool]]] = []
    for indices, tensors in batches(images, wanted, expert.preprocess, unreadable, 1, progress):
        label = of_class[images.label(indices[0])]
        truth.append(label)
        rows.append([])
        for number in range(1, count + 1):
            found = expert.answered(tensors, settings[number])
            there = found.exit[0] == number  # logits that are no numbers are never sure
            fine, coarse = (_entropy(values, there) for values in (found.scores, found.coarse))
            head = exits.exits[number - 1]
            rows[-1].append((
                fine if head.fine else np.nan,
                coarse if head.coarse else np.nan,
                np.isfinite(fine) and int(found.scores[0].argmax()) == label,
                found.coarse is not None and np.isfinite(coarse) and int(found.coarse[0].argmax()) == exits.of[label],
            ))  # fmt: skip
            if number == 1:
                semantic.append(bool(found.fine[0]))
    if not rows:
        raise DataError(f"None of the {len(wanted)} photos can be read.", unreadable[0][1])
    fine, coarse, fine_right, coarse_right = (np.array(column).T for column in np.moveaxis(np.array(rows), 2, 0))
    decided = None if exits.semantic is None else np.array(semantic)
    times = _time(expert, settings, seconds)
    return Recorded(exits, fine, coarse, fine_right.astype(bool), coarse_right.astype(bool), decided, times)


def _settings(expert: Expert, exits: Exits) -> dict[int, Mapping[str, tuple[float, ...]]]:
    """What makes each exit answer."""
    always = {TOLERANCE: (MAX_VALUE,)} if any(control.name == TOLERANCE for control in expert.controls) else {}
    early = len(exits.exits) - 1
    return {number: {**forced(early, number), **always} for number in range(1, early + 2)}


def _time(expert: Expert, settings: Mapping[int, Mapping[str, tuple[float, ...]]], seconds: float) -> tuple[float, ...]:
    """The median of a call that ends at each exit, on noise."""
    shape = (1, *(axis or FREE_AXIS for axis in expert.session.input_shape[1:]))
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    calls = {str(number): partial(expert.session.run, x, values) for number, values in settings.items()}
    samples = interleave(calls, seconds=seconds, warmup=seconds / 4)
    return tuple(statistics.median(samples.durations(str(number))) for number in settings)


def _entropy(logits: Array | None, there: bool) -> float:
    return entropy(logits) if logits is not None and there and np.isfinite(logits).all() else np.nan
