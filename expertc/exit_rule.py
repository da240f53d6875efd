"""The rule of networks with early exits: which exit answers, and whether with a class or a category.

What an exit is sure of is measured by the entropy of its softmax, and thresholds are nats: Gran-HBN's Algorithm 1, and
AG-HBN's form of it. Nothing here knows a graph: a network is run by whoever asks for its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import UsageError
from .exits import Exits

Array = np.ndarray[Any, Any]
LogitsOf = Callable[[int], Mapping[str, Array]]
"""Runs the network up to an exit, numbered from 1, and gives the tensors that it names."""


@dataclass(frozen=True)
class Decision:
    """What a run came to.

    Args:
        exit: the number, from 1, of the exit that answered for the whole batch.
        fine: whether with a class.
        scores: ``[N, classes]`` float64, logits. From an exit that is coarse only: the category's log-probability,
            shared evenly by its classes.
        coarse: ``[N, categories]`` float64, logits, None if there are no categories. From an exit that is fine only:
            the log-probability of all classes of a category.
    """

    exit: int
    fine: bool
    scores: Array
    coarse: Array | None


def entropy(logits: Array) -> float:
    """The mean over the batch of the entropy of softmax(``logits``), ``[N, labels]``, in nats."""
    logs = _log_softmax(logits)
    return float(-(np.exp(logs) * logs).sum(axis=1).mean())


def decide(exits: Exits, logits_of: LogitsOf, thresholds: Sequence[float], tolerance: float) -> Decision:
    """Take the first exit that is sure enough, and of its two answers the finer one that is (Algorithm 1).

    An early exit answers finely if ``H_fine < threshold`` and ``H_fine - tolerance < H_coarse``, else coarsely if
    ``H_coarse < threshold``; the last finely if ``H_fine - tolerance < H_coarse``, else coarsely. Where an exit has one
    answer, or a semantic branch has chosen for all of them (finely, if that is likelier for half of the batch or more;
    if both are equally likely, it is coarse), that is the one to be sure of. One decision is made for a batch. A last
    exit with a threshold, of an expert whose later ones could not be reached, answers finely as an early one does.

    Args:
        exits: of the network; ``of`` is known.
        logits_of: is asked for an exit, from 1, when the run gets there, and gives its tensors; for the first also
            ``exits.semantic``.
        thresholds: nats, of each exit but the last, or as many as ``exits`` has; any number, infinity too.
        tolerance: nats.

    Raises ``UsageError`` if a setting is no number, or they are too many or too few.
    """
    thresholds, tolerance = settled(exits, thresholds, tolerance)
    semantic: bool | None = None
    for number, one in enumerate(exits.exits, 1):
        found = logits_of(number)
        if exits.semantic is not None and number == 1:
            semantic = is_fine(found[exits.semantic])
        limit = thresholds[number - 1] if number <= len(thresholds) else None
        fine = None if one.fine is None else np.asarray(found[one.fine], np.float64)
        coarse = None if one.coarse is None else np.asarray(found[one.coarse], np.float64)
        last = number == len(exits.exits)
        answer = _answer(exits, semantic, fine, coarse, limit, tolerance, last)
        if answer is not None:
            return Decision(number, answer, *_both(exits, fine, coarse))
    raise AssertionError("the last exit has not answered")


def settled(exits: Exits, thresholds: Sequence[float], tolerance: float) -> tuple[tuple[float, ...], float]:
    """The settings as numbers. Raises ``UsageError`` if one is none, or they are too many or too few."""
    try:
        values = tuple(float(value) for value in (*thresholds, tolerance))
    except (TypeError, ValueError) as error:
        raise UsageError("A threshold or the tolerance is no number.", "Write for example 0.5.") from error
    if any(map(math.isnan, values)):
        raise UsageError("A threshold or the tolerance is no number.", "Write for example 0.5.")
    wanted = len(exits.thresholds)
    if len(values) != wanted + 1:
        raise UsageError(f"There are {len(values) - 1} thresholds for {wanted} early exits.", "Give one for each.")
    return values[:-1], values[-1]


def is_fine(semantic: Array) -> bool:
    """What a semantic branch says, ``[N, 2]``: whether at least half of the batch is likelier fine than coarse."""
    return bool(np.mean(np.argmax(semantic, axis=1)) >= 0.5)


def _answer(
    exits: Exits, semantic: bool | None, fine: Array | None, coarse: Array | None, limit: float | None,
    tolerance: float, last: bool,
) -> bool | None:  # fmt: skip
    """Whether an exit answers finely or coarsely, None if it is not sure; ``limit`` is None for most last ones."""
    if fine is None or coarse is None or semantic is not None:
        finely = fine is not None if semantic is None else semantic
        logits = fine if finely else coarse
        sure = last or (logits is not None and limit is not None and entropy(logits) < limit)
        return finely if sure else None
    one, other = entropy(fine), entropy(coarse)
    limit = math.inf if limit is None else limit
    finely = one < limit and one - tolerance < other
    if last or finely:
        return finely
    return False if other < limit and (not exits.strict_coarse or other < one - tolerance) else None


def _both(exits: Exits, fine: Array | None, coarse: Array | None) -> tuple[Array, Array | None]:
    """Scores of the classes and of the categories; what an exit does not have follows from what it has."""
    of = np.asarray(exits.of, np.int64)
    if fine is None:
        assert coarse is not None
        sizes = np.bincount(of, minlength=len(exits.categories))
        return _log_softmax(coarse)[:, of] - np.log(sizes[of]), coarse
    if coarse is None and exits.categories:
        logs = _log_softmax(fine)
        columns = range(len(exits.categories))
        coarse = np.stack([np.logaddexp.reduce(logs[:, of == column], axis=1) for column in columns], axis=1)
    return fine, coarse


def _log_softmax(logits: Array) -> Array:
    values = np.asarray(logits, np.float64)
    values = values - values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))
