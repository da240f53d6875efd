"""Choosing the precision of a finished expert: what is converted, on which photos that was decided, whether it pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .backends.processor import saturates
from .card import Output
from .contest import is_worth
from .errors import UnsupportedError, UsageError, VerificationError
from .finish import card_of
from .gain import Gain, gain
from .graph import File, Model, is_large, pack
from .limits import has_loops
from .observe import Ranges, observe
from .sensitivity import MAX_DROP, within_budget
from .stages import Stages, silent
from .surgery.half import Half, choose_islands, is_single, notes
from .surgery.precision import conversion, quantise_recipe
from .surgery.quantise import FLAVOURS, Quantise
from .targets import Target
from .text import shown
from .verify.inputs import prepare
from .verify.lowered import Lowered

PRECISIONS = ("fp32", "fp16", "int8")
CHOICES = (*PRECISIONS, "auto")
SECONDS = 1.0
"""Of measuring whether a precision pays."""

Array = np.ndarray[Any, Any]


class Photos(Protocol):
    """Preprocessed photos ``[n, ...]`` to take ranges from, and others to judge decisions on."""

    @property
    def observed(self) -> Array:
        """To take ranges from."""

    @property
    def judged(self) -> Array:
        """To judge on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about them, in sentences."""


@dataclass(frozen=True)
class Precise:
    """An expert in the precision that was chosen: ``lowered`` is None where it stays fp32.

    ``gains`` are the times of each precision that was tried over that of fp32.
    """

    lowered: Lowered | None
    notes: tuple[str, ...] = ()
    gains: tuple[Gain, ...] = ()


def require_precision(name: str, device: Target, max_drop: float | None = None) -> str:
    """``name``, if the device computes in it. Raises ``UsageError``, also for a drop that is none, and
    ``UnsupportedError``."""
    if max_drop is not None and not 0 <= max_drop < 100:
        raise UsageError(f"A drop of {max_drop:g} points is no budget.", "Give --max-drop from 0 to below 100.")
    if name not in CHOICES:
        raise UsageError(f"There is no precision {shown(name)}.", f"Choose from {', '.join(CHOICES)}.")
    if name != "auto" and name not in device.precisions:
        known = ", ".join(device.precisions)
        raise UnsupportedError(f"'{device.name}' does not compute in {name}.", f"It has {known}.")
    return name


def choose(
    wanted: str,
    final: Model,
    expert: File,
    device: Target,
    output: Output,
    *,
    photos: Photos | None,
    fallback: Array | None,
    max_drop: float | None,
    scratch: Path | None = None,
    progress: Stages = silent,
) -> Precise:
    """Convert the fp32 expert ``final``, which is packed as ``expert``, to the precision ``wanted``.

    Args:
        wanted: "fp16", "int8", or "auto": the fastest of the device's that keeps to its budget, fp32 if none is faster.
        device: whose dialect of int8 it is, and whose precisions "auto" tries.
        output: the output that decides.
        photos: to calibrate on. int8 needs them; fp16 otherwise takes the images ``fallback``, or noise.
        max_drop: points of top-1 agreement that may be lost; None for the budget of the precision.
        scratch: a folder for models that are too large to be bytes.
        progress: is told how many images have been looked at, and how far the search for layers to restore is.

    Raises ``UsageError`` for a model that is not fp32 or int8 without photos, ``UnsupportedError`` for one with loops,
    ``VerificationError`` if int8 cannot keep to its budget, and what the passes raise.
    """
    if not is_single(final):
        raise UsageError("The model is in half precision or quantised already.", "Leave out --precision.")
    if has_loops(final.nodes):
        raise UnsupportedError(
            "The expert has a loop, and how long that runs is not known beforehand.", "Leave out --precision."
        )
    if wanted == "int8" and photos is None:
        raise UsageError("int8 has to be calibrated on photos of the expert's classes.", "Give a folder with --calib.")
    if not is_worth(final) and wanted == "auto":
        return Precise(None, ("The expert is too small for another precision to matter: it stays fp32.",))
    tried = [p for p in device.precisions if p != "fp32"] if wanted == "auto" else [wanted]
    images = photos.observed if photos is not None else _noise(final) if fallback is None else fallback
    seen = observe(
        final, [images], scratch=scratch, progress=lambda done: progress("observe photos", done, len(images))
    )
    best: tuple[Lowered, float, tuple[str, ...]] | None = None
    said, gains = list(photos.notes if photos is not None else ()), []
    for precision in tried:
        if precision == "int8" and photos is None:
            said.append("int8 was not tried: it needs photos to calibrate on (--calib).")
            continue
        try:
            lowered, told = _convert(precision, final, seen, device, output, photos, max_drop, scratch, progress)
        except (VerificationError, UnsupportedError, UsageError) as error:
            if wanted != "auto":
                raise
            said.append(f"{precision} was left out: {error.message}")
            continue
        if not device.is_host:  # nothing that is measured here counts there
            if best is None or not lowered.recipe.get("exclude"):
                best = (lowered, 0.0, told)
            continue
        won = gain(expert, lowered.file, _image(final), precision=precision, seconds=SECONDS)
        gains.append(won)
        said.append(won.note)
        if wanted != "auto" or (won.pays and (best is None or won.ratio.value < best[1])):
            best = (lowered, won.ratio.value, told)
    if best is not None and wanted == "auto" and not device.is_host:
        rule = "int8 if no layer has to stay in fp32, else fp16"
        said.append(f"{best[0].precision} was chosen by rule ({rule}): not measured.")
    if best is None:
        return Precise(None, tuple(said), tuple(gains))
    return Precise(best[0], (*best[2], *said), tuple(gains))


def _convert(
    precision: str, final: Model, seen: Ranges, device: Target, output: Output, photos: Photos | None,
    max_drop: float | None, scratch: Path | None, progress: Stages,
) -> tuple[Lowered, tuple[str, ...]]:  # fmt: skip
    if precision == "fp16":
        islands = choose_islands(final, {name: (found.low, found.high) for name, found in seen.items()})
        return repeat(final, Half(islands).recipe(final), max_drop, scratch), tuple(notes(islands))
    assert photos is not None  # as ``choose`` has made sure
    flavour = FLAVOURS[device.backend]
    if device.backend == "onnxruntime":
        flavour = replace(flavour, reduce_range=saturates())
    drop = MAX_DROP if max_drop is None else max_drop
    _, report = within_budget(
        final, seen, photos.judged, flavour=flavour, output=output, max_drop=drop,
        progress=lambda stage, done, total: progress(f"int8: {stage}", done, total),
    )  # fmt: skip
    layers = frozenset(layer.layer for layer in report.restored)
    recipe = quantise_recipe(Quantise(seen, flavour, layers, report.chosen.percentile))
    return repeat(final, recipe, max_drop, scratch), report.notes


def repeat(final: Model, recipe: Mapping[str, Any], max_drop: float | None, scratch: Path | None = None) -> Lowered:
    """The expert in lower precision that ``recipe`` makes of ``final``. Raises what the conversion raises."""
    made, _ = conversion(recipe).run(final)
    place = None if scratch is None or not is_large(made) else scratch / "lowered.onnx"
    return Lowered(pack(made, place), recipe, max_drop)


def _noise(final: Model) -> Array:
    """What an expert is calibrated on without any photo."""
    card = card_of(final)
    return prepare(None, card.preprocess, final.inputs[card.input]).values


def _image(final: Model) -> Array:
    """Noise, as many images as the expert takes in one call."""
    shape = next(iter(final.inputs.values()))
    sizes = [dim if isinstance(dim, int) else 1 if axis == 0 else 224 for axis, dim in enumerate(shape)]
    return np.random.default_rng(0).random(sizes, np.float32)
