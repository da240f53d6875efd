"""Whether a bundle does on this machine what it did where it was built: its golden record, run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from ..backends import Session
from ..bundle import Bundle
from ..errors import BundleError
from ..runtime import Expert
from ..text import shown, times
from .golden import Golden, answers
from .ladder import FINAL
from .lowered import BUDGETS
from .running import short
from .scores import by_class, decisions, relative_distance

ALLOWED: Mapping[str, float] = {"fp32": FINAL, "fp16": BUDGETS["fp16"].margin, "int8": 0.3}
"""How far an output may be from what was recorded, over its largest value there, by precision.

fp32: what the ladder allows an optimised model. TensorRT keeps to it, as plans are compiled with TF32, whose mantissa
has 10 bits, off: 1e-5 was measured. fp16: roundings of 2^-11 in twenty layers at the very worst; TensorRT may round
where ONNX Runtime does not (8.5e-4 where inputs changed by 1e-5). int8: a rounding that falls to the other side is a
step of 1/256, which later layers carry on: up to 0.1 between ONNX Runtime's integer kernels and the same graph in
single precision (benchmarks/golden.py, two experts of the bundled model on one processor; others round otherwise). So
for int8 this stops what is broken in the trunk, where a layer that computes nothing takes it further than that. It does
not stop what is a little worse: of single layers lost in branches, whose sums go on without them, it notices few."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Agreement:
    """What came of running a golden record again.

    ``largest_difference`` is that of the output that is furthest off, over its largest recorded value, infinite where
    nothing can be compared; ``allowed`` is what it may be. ``decided_otherwise`` of the ``inputs`` got another class
    although the recorded one was clear, or another exit or index. ``detail`` is one sentence; ``notices`` say what a
    person should know about where the expert ran.
    """

    passed: bool
    inputs: int
    largest_difference: float
    allowed: float
    decided_otherwise: int
    detail: str
    notices: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        largest = self.largest_difference
        return {
            "passed": self.passed,
            "inputs": self.inputs,
            "largest_difference": short(largest) if isfinite(largest) else None,
            "allowed": self.allowed,
            "decided_otherwise": self.decided_otherwise,
            "detail": self.detail,
            "notices": list(self.notices),
        }


def check_bundle(
    bundle: Bundle,
    *,
    threads: int | None = None,
    strict: bool = False,
    trust_plan: bool = False,
    told: Callable[[Any], None] = lambda progress: None,
) -> Agreement:
    """Run the golden record of ``bundle`` on this machine, opened as ``Expert.open`` does, whose arguments these are.

    Raises what that raises, and ``BundleError`` if the bundle has no record, or one of another expert.
    """
    place, precision = bundle.golden, str(bundle.manifest.get("precision"))
    if place is None:
        raise BundleError(
            f"The bundle {shown(bundle.path)} carries no golden record.", "Build it again, without --verify off."
        )
    if precision not in ALLOWED:
        raise BundleError(f"The bundle {shown(bundle.path)} is in no precision that is known.", "Build it again.")
    golden = Golden.read(place)
    with Expert.open(bundle, threads=threads, strict=strict, trust_plan=trust_plan, told=told) as expert:
        if not _fits(golden, expert.session):
            raise BundleError(
                f"The golden record of {shown(bundle.path)} is another expert's.",
                "Build the bundle again, or copy it again.",
            )
        found = check(expert.session, golden, precision=precision, scores=str(bundle.manifest["output"]["name"]))
        return replace(found, notices=expert.notices)


def check(session: Session, golden: Golden, *, precision: str, scores: str) -> Agreement:
    """Run ``golden`` in ``session`` and compare every output with what was recorded.

    Numbers may be off by what ``ALLOWED`` says for the ``precision``. Whole numbers, which name an exit, a granularity
    or a class, must be the same; but in lower precision rounding may take an input over a threshold, and how close it
    was is not recorded. So there an input with another whole number is not compared any further, as long as one is.
    ``scores`` is the output, ``[n, classes]``, that decides: as recorded, where that was clear. Raises what the session
    raises.
    """
    count, allowed = len(golden.input), ALLOWED[precision]
    found, wanted = answers(session, golden.input, golden.controls), golden.outputs
    largest, furthest, otherwise, same = 0.0, "", 0, np.ones(count, bool)

    def agreement(passed: bool, detail: str) -> Agreement:
        return Agreement(passed, count, largest, allowed, otherwise, detail)

    for name, want in wanted.items():
        problem = _incomparable(found.get(name), want)
        if problem:
            largest = float("inf")
            return agreement(False, f"The output {shown(name)} {problem}.")
        if want.dtype.kind != "f":
            equal = found[name] == want
            same &= equal.reshape(count, -1).all(axis=1) if _per_input(want, count) else equal.all()
    for name, want in wanted.items():
        if want.dtype.kind != "f":
            continue
        got, want = (side[same] if _per_input(side, count) else side for side in (found[name], want))
        if (distance := relative_distance(got, want)) > largest:
            largest, furthest = distance, name
        if name == scores:
            got, want = by_class(got, 1), by_class(want, 1)
            otherwise, _ = decisions(got, want, allowed * float(np.abs(want).max(initial=0)))
    turned, otherwise = int((~same).sum()), otherwise + int((~same).sum())
    if turned and (turned == count or precision == "fp32"):
        return agreement(False, f"Of {count} inputs {turned} got another exit or another index than was recorded.")
    if largest > allowed:
        far = f"differs by {largest:.2g} of its largest value from what was recorded; {allowed:g} is allowed"
        return agreement(False, f"The output {shown(furthest)} {far}.")
    if otherwise > turned:
        return agreement(False, f"Of {count} inputs {otherwise - turned} got another class than was recorded.")
    left = f"; {times(turned)} it took another exit or index, as rounding may" if turned else ""
    near = f"within {largest:.2g} of the largest value" if largest else "bit for bit"
    return agreement(True, f"It gives what was recorded, {near}{left}.")


def _fits(golden: Golden, session: Session) -> bool:
    """Whether the inputs are those that the expert takes."""
    sizes = {control.name: len(control.default) for control in session.controls}
    free, given = session.input_shape[1:], golden.input.shape[1:]
    return (
        {name: len(values) for name, values in golden.controls.items()} == sizes
        and len(free) == len(given)
        and all(size in (None, own) for size, own in zip(free, given, strict=True))
    )


def _per_input(values: Array, count: int) -> bool:
    return values.ndim > 0 and len(values) == count


def _incomparable(found: Array | None, wanted: Array) -> str:
    """What keeps an output from being compared at all, as the end of a sentence, or ""."""
    if found is None:
        return "is missing"
    if found.shape != wanted.shape:
        return f"is {found.shape}, but {wanted.shape} was recorded"
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        return "is NaN or infinite"
    return "" if (found.dtype.kind == "f") == (wanted.dtype.kind == "f") else "holds another kind of numbers"
