"""The laws of the cut, as one function that judges an expert by oracles that are not expertc's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from networks import Array, Net, cut, feeds, operators, perturbed, poisoned, reference, rows, run, weights

from expertc.card import Card, Output
from expertc.surgery.prune import Cut

ROUNDING = 1e-5  # of the largest |score|, where the cut changes a kernel
TINY = 1e-30  # what a float32 can no longer be divided by with any precision
CHANGES = ((2.0, 1.0), (-1.0, 0.0), (0.0, 0.0), (0.5, 0.0), (-5.0, 3.0))  # scale and shift of a weight


class Expert(NamedTuple):
    """An expert that kept the laws: its bytes, what prune said, the shapes of its initializers, its operators."""

    data: bytes
    cut: Cut
    shapes: dict[str, tuple[int, ...]]
    operators: list[str]

    @property
    def stopped(self) -> list[str]:
        """Why the demand was widened, each reason once."""
        return [reason for reason, _ in self.cut.stopped]


def check(
    full: Net | bytes,
    card: Card,
    keep: Sequence[int],
    *,
    exact: bool = True,
    alive: bool = True,
    judge: bool = True,
    composable: bool = True,
    sample: int = 16,
) -> Expert:
    """Cut and check the laws.

    ``exact``: bit-equal, not only within rounding. ``alive``: every weight kept matters (not so where groups had to be
    closed, or an operator such as Relu hides one); ``sample`` of them are tried. ``judge``: ask ONNX's reference
    evaluator too (it has no grouped ConvTranspose, for one). ``composable``: the same bytes by way of others.
    """
    data = full if isinstance(full, bytes) else full.bytes()
    expert, done = cut(data, card, keep)
    inputs = feeds(data)
    before, after = run(data, inputs), run(expert, inputs)
    again, judged = (reference(data, inputs), reference(expert, inputs)) if judge else (before, after)
    # A class softmax that is cut through does read the classes that go; its rows are conditioned afterwards.
    dead = before if done.renormalised else run(poisoned(data, expert), inputs)
    for output in card.outputs:
        name = output.name
        wanted = expected(before[name], output, keep)
        assert after[name].shape == wanted.shape
        assert after[name].dtype == wanted.dtype
        plain = output.kind != "probabilities"
        close(after[name], wanted if plain else known(wanted, after[name]), name, exact=exact and plain)
        oracle = expected(again[name], output, keep)
        close(judged[name], oracle if plain else known(oracle, judged[name]), f"{name}, reference", exact=False)
        close(expected(dead[name], output, keep), wanted, f"{name}, poisoned", exact=True)  # not even by a bit
    if alive:
        _check_alive(expert, card, inputs, after, sample)
    if composable:
        _check_composable(data, card, keep, expert)
    assert done.card.classes == tuple(card.classes[i] for i in sorted(keep))
    return Expert(expert, done, {name: values.shape for name, values in weights(expert).items()}, operators(expert))


def expected(scores: Array, output: Output, keep: Sequence[int]) -> Array:
    """What the expert should give for the full model's ``scores``: its rows; probabilities are conditioned on them."""
    kept = rows(scores, sorted(keep), output.axis)
    if output.kind != "probabilities":
        return kept
    total = kept.sum(axis=output.axis, keepdims=True, dtype=np.float64)
    # A softmax that is sure of a class that goes leaves the others nothing that could be conditioned on.
    return np.where(total > TINY, kept / np.maximum(total, TINY), np.nan).astype(kept.dtype)


def known(wanted: Array, got: Array) -> Array:
    """``wanted``, with what the expert gives where the full model's probabilities say nothing."""
    return np.where(np.isnan(wanted), got, wanted)


def close(got: Array, wanted: Array, name: str, *, exact: bool) -> None:
    """Bit-equal, or within ``ROUNDING`` of the largest magnitude."""
    if exact:
        np.testing.assert_array_equal(got, wanted, err_msg=name)
    else:
        scale = max(float(np.abs(wanted).max()), TINY)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=ROUNDING * scale, err_msg=name)


def _check_alive(expert: bytes, card: Card, inputs: dict[str, Array], scores: dict[str, Array], sample: int) -> None:
    held = {name: values for name, values in weights(expert).items() if values.dtype.kind == "f"}
    places = [(name, at) for name, values in held.items() for at in np.ndindex(values.shape)]
    chosen = np.random.default_rng(0).permutation(len(places))[:sample]
    for name, at in (places[int(i)] for i in chosen):
        # Several changes, because a tanh or a softmax may be saturated and hide one.
        changed = (run(perturbed(expert, name, at, *change), inputs) for change in CHANGES)
        assert any(
            not np.array_equal(values[output.name], scores[output.name])
            for values in changed
            for output in card.outputs
        ), f"{name}{list(at)} is kept but changes no score"


def _check_composable(data: bytes, card: Card, keep: Sequence[int], expert: bytes) -> None:
    """Idempotent, and the same bytes by way of a selection that has one class more, or all."""
    others = [i for i in range(len(card.classes)) if i not in keep]
    larger = [sorted(keep), *(sorted((*keep, other)) for other in others[:1]), list(range(len(card.classes)))]
    for selection in larger:
        step, done = cut(data, card, selection)
        twice, _ = cut(step, done.card, [selection.index(i) for i in sorted(keep)])
        assert twice == expert, f"by way of {selection}"
