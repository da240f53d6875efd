"""Whether a run can be believed: ``throttled``, ``noisy``, ``clean``, or ``unknown`` where nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .evidence import Evidence

THROTTLED, NOISY, CLEAN, UNKNOWN = VERDICTS = ("throttled", "noisy", "clean", "unknown")

# trtexec warns of unstable clocks above this coefficient of variation (standard deviation over mean of the times).
MAX_VARIATION = 0.025

# Share of the cores that others may take: who uses all cores is slowed down by about as much, so trtexec's limit again.
MAX_OTHERS = MAX_VARIATION


@dataclass(frozen=True)
class Verdict:
    """One of ``VERDICTS``, and a sentence for each thing that speaks against ``clean``."""

    name: str
    reasons: tuple[str, ...] = ()


def judge(evidence: Evidence, variations: Mapping[str, float]) -> Verdict:
    """Judge a run by what was seen and by the coefficient of variation of each model's times.

    ``throttled`` is what a sensor says of held-back clocks, never a low clock alone: a governor that saves power lowers
    it too. What is known to be wrong comes before what is not known; only a watch that worked to the end, with a sensor
    that would have told of throttling, gives ``clean``.
    """
    throttled = [f"Clocks were held back: {throttle}." for throttle in evidence.throttles]
    noisy = [unsteady(name, variation) for name, variation in variations.items() if variation > MAX_VARIATION]
    load = evidence.load
    if load is not None and load.others > MAX_OTHERS:
        noisy.append(f"Other processes took {load.others:.1%} of the cores (limit {MAX_OTHERS:.1%}).")
    if load is not None and load.stolen > MAX_OTHERS:
        noisy.append(f"The hypervisor gave {load.stolen:.1%} of the cores to others (limit {MAX_OTHERS:.1%}).")
    unknown = []
    if evidence.died is not None:
        unknown.append(f"The watch failed ({evidence.died}).")
    elif not evidence.tells_throttling:
        unknown.append("No sensor of this machine tells whether clocks are held back.")
    name = THROTTLED if throttled else NOISY if noisy else UNKNOWN if unknown else CLEAN
    return Verdict(name, (*throttled, *noisy, *unknown))


def unsteady(name: str, variation: float) -> str:
    """A sentence about times that vary too much."""
    return (
        f"The times of {name} vary by {variation:.1%} (coefficient of variation;"
        f" steady clocks stay under {MAX_VARIATION:.1%})."
    )
