"""What the raw scores of a model say: how likely each class is, and how much a photo looks like any of them."""

from __future__ import annotations

import numpy as np

MAX_LOGIT, ENERGY, MAX_PROBABILITY = "max-logit", "energy", "max-probability"


def probabilities(scores: np.ndarray, kind: str) -> np.ndarray:
    """``[N, classes]`` raw numbers of a model as float64 probabilities.

    ``logits`` go through a softmax, ``joint`` probabilities are divided by their sum; ``probabilities`` and ``scores``
    (independent classes) stay as they are. NaN where that is not defined.
    """
    values = scores.astype(np.float64)
    if kind in ("probabilities", "scores"):
        return values
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if kind == "logits":
            values = np.exp(values - values.max(axis=1, keepdims=True))
        shares: np.ndarray = values / values.sum(axis=1, keepdims=True)
    return shares


def scope_scores(kind: str) -> tuple[str, ...]:
    """Names of the scores by which an output of ``kind`` can tell photos of its classes from others.

    A softmax forgets how large the logits were, so probabilities have nothing better than the largest of them.
    """
    return (MAX_LOGIT, ENERGY) if kind == "logits" else (MAX_PROBABILITY,)


def scope_score(name: str, scores: np.ndarray, kind: str) -> np.ndarray:
    """How much each row of ``[N, classes]`` raw numbers looks like one of the classes: float64 ``[N]``, more is more.

    ``max-logit`` is the largest logit, ``energy`` the logarithm of the sum of their exponentials, which is the negative
    free energy of Liu et al. (NeurIPS 2020) at temperature 1. ``max-probability`` is the best of ``probabilities``; of
    a single class, its raw number. NaN where that is not defined.
    """
    values = scores.astype(np.float64)
    if name == MAX_PROBABILITY and values.shape[1] > 1:
        values = probabilities(scores, kind)
    best: np.ndarray = values.max(axis=1)
    if name != ENERGY:
        return best
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        energy: np.ndarray = best + np.log(np.exp(values - best[:, None]).sum(axis=1))
    return energy
