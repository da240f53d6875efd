"""An expert in lower precision: it is what the conversion makes of the one that was verified, and decides as that does.

Its scores differ from the full model's by more than rounding in single precision, so how far they are apart says
nothing; what counts is whether photos get the same class, and how much the probabilities move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import OpenSession
from ..card import Card, Output
from ..errors import ExpertcError, ModelError, UnsupportedError
from ..graph import Model, is_exactly
from ..observe import Run, exposed, floats, maker
from ..runtime.scores import probabilities
from ..surgery.precision import conversion
from ..text import shown
from .certificate import Mismatch, Number, Step
from .inputs import Inputs
from .lowered import STEP, Lowered
from .running import BATCH, run, short
from .scores import by_class, decisions
from .settings import Values

CONFIDENCE = 0.95

Array = np.ndarray[Any, Any]


def converted(final: Model, lowered: Lowered) -> Model:
    """The model in lower precision: the conversion is done again, and its bytes must be those of the file.

    So nothing is in it that is not in ``final``, whose every weight was looked at. Raises ``Mismatch``.
    """
    try:
        made, _ = conversion(lowered.recipe).run(final)
    except ExpertcError as error:
        raise Mismatch("structure", f"The expert's conversion cannot be repeated: {error.message}") from error
    if not is_exactly(made, lowered.file):
        raise Mismatch("structure", f"The expert in {lowered.precision} is not what its conversion makes of it.")
    return made


def precision(
    open_session: OpenSession,
    model: Model,
    lowered: Lowered,
    wanted: Mapping[str, Array],
    *,
    card: Card,
    inputs: Inputs,
    settings: Sequence[Values],
    scratch: Path | None = None,
) -> Step:
    """(e) In lower precision no tensor is NaN or infinite, and the expert decides as it does in single precision.

    Args:
        open_session: runs it twice: as it is shipped, and so that every tensor is rounded to its own type.
        model, lowered: it and where it comes from.
        wanted: the scores in single precision, for every input in every setting.
        card: the expert's.
        inputs: those inputs.
        settings: of its controls.
        scratch: a folder for a model that is too large to be bytes.
    """
    name, budget, x = lowered.precision, lowered.budget, inputs.fed
    found = _strict(open_session, model, name, x, settings, scratch), _shipped(open_session, lowered, x, settings)
    # On noise a trained network has nothing to decide; there only the probabilities count.
    count = inputs.count if inputs.images else len(x)
    errors = np.zeros(count)
    for output in card.outputs:
        for side in found:
            moved = _moved(side[output.name][:count], wanted[output.name][:count], output)
            errors = np.maximum(errors, moved)
    worst = int(errors.argmax())
    numbers: dict[str, Number] = {
        "inputs": count,
        "largest_error": short(errors[worst]),
        "mean_error": short(errors.mean()),
        "worst_input": worst + 1,
        "allowed_largest": budget.worst,
        "allowed_mean": budget.mean,
    }
    far = f"probabilities move by up to {errors[worst]:.2g} (input {worst + 1}) and {errors.mean():.2g} on average"
    if inputs.images:
        first = card.outputs[0]
        want = wanted[first.name][:count]
        wrong, close = max(_decisions(side[first.name][:count], want, first, budget.margin) for side in found)
        numbers |= {
            "agreed": count - wrong - close,
            "undecided": close,
            "disagreed": wrong,
            "allowed_disagreed": (allowed := _allowed(count, budget.disagreement)),
        }
        if wrong > allowed:
            detail = f"In {name} the expert decides otherwise than in single precision on {wrong} of {count} images."
            raise Mismatch(STEP, detail, numbers)
    if not (errors[worst] <= budget.worst and errors.mean() <= budget.mean):
        raise Mismatch(STEP, f"In {name} the {far}.", numbers)
    if inputs.images:
        detail = f"In {name} it decides as in single precision on {count - wrong - close} of {count} images; {far}."
    else:
        detail = f"In {name} the {far}; on noise, which says nothing about decisions on photos."
    return Step(STEP, True, detail, numbers)


def _strict(
    open_session: OpenSession, model: Model, name: str, x: Array, settings: Sequence[Values], scratch: Path | None
) -> dict[str, Array]:
    """The outputs where every tensor is rounded to its own type, and none of them is NaN or infinite."""
    tensors = {*floats(model), *model.outputs} - model.inputs.keys()
    with _running(name), exposed(model, tensors, open_session=open_session, scratch=scratch) as (see, size):
        # One input at a time, unless the model takes another number: all its tensors are held at once.
        return run(partial(_looked_at, model, see, name), size or 1, x, settings)


def _shipped(open_session: OpenSession, lowered: Lowered, x: Array, settings: Sequence[Values]) -> dict[str, Array]:
    """The outputs as a user gets them, finite too."""
    with _running(lowered.precision), closing(open_session(lowered.file, optimise=True)) as session:
        found = run(session.run, session.input_shape[0] or BATCH, x, settings)
    for output, values in found.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Mismatch(STEP, f"In {lowered.precision} the output {shown(output)} is NaN or infinite.")
    return found


@contextmanager
def _running(name: str) -> Iterator[None]:
    """That the expert does not run is a mismatch."""
    try:
        yield
    except (ModelError, UnsupportedError) as error:
        raise Mismatch(STEP, f"The expert in {name} does not run: {error.message}") from error


def _looked_at(model: Model, see: Run, precision: str, x: Array, controls: Values) -> dict[str, Array]:
    """The outputs. Raises ``Mismatch`` naming the first node that gives NaN or infinity."""
    kept: dict[str, Array] = {}
    for name, values in see(x, controls):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            what = "NaN" if np.isnan(values).any() else "infinity"
            raise Mismatch(STEP, f"In {precision} the node {maker(model, name)} gives {what}.")
        if name in model.outputs:
            kept[name] = values
    return kept


def _moved(found: Array, wanted: Array, output: Output) -> Array:
    """How far the probability that changes most does, per input; nothing for an index.

    Of scores that are no probabilities, or of one class alone, what they change over the largest.
    """
    if wanted.dtype.kind != "f":
        return np.zeros(len(wanted))
    got, want = by_class(found, output.axis), by_class(wanted, output.axis)
    if output.kind != "scores" and want.shape[1] > 1:
        got, want = probabilities(got, output.kind), probabilities(want, output.kind)
    else:
        largest = float(np.abs(want).max()) or 1.0
        got, want = got / largest, want / largest
    moved: Array = np.abs(got - want).reshape(len(wanted), -1).max(axis=1)
    return moved


def _allowed(images: int, share: float) -> int:
    """How many of so many images an expert that keeps to its budget, a share of all images, gets otherwise.

    That is the 95th percentile of the binomial distribution: a single image of 64 says nothing against one in a
    hundred. The budget itself was measured when the expert was made, on more photos.
    """
    number, below = 0, (1 - share) ** images
    term = below
    while below < CONFIDENCE:
        term *= (images - number) / (number + 1) * share / (1 - share)
        number, below = number + 1, below + term
    return number


def _decisions(found: Array, wanted: Array, output: Output, margin: float) -> tuple[int, int]:
    """How many inputs get another class, and how many do so for a tie."""
    if wanted.dtype.kind != "f":
        return int((found != wanted).reshape(len(wanted), -1).any(axis=1).sum()), 0
    want = by_class(wanted, output.axis)
    return decisions(by_class(found, output.axis), want, margin * float(np.abs(want).max()))
