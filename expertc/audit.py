"""Whether a model can be cut for a device, and whether an expert, new or in a bundle, says what its full model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import manifest
from .bundle import MODEL, ROUTES, WEIGHTS, Bundle
from .controls import Control
from .driven import frozen, output_of, taken_apart
from .errors import BundleError, ModelError, UnsupportedError, UsageError, VerificationError
from .exits import DEFAULT_TOLERANCE, THRESHOLD, TOLERANCE, Exits
from .finish import PLAIN, Finish, card_of
from .graph import File, Model, pack, to_bytes
from .preprocessing import Preprocess
from .source import Source
from .surgery.prune import Cut, prune
from .targets import Target
from .text import shown
from .trtexec import PROFILE
from .verify import Certificate, Standby
from .verify.exits import Driven
from .verify.lowered import Lowered
from .verify.process import verifier

if TYPE_CHECKING:
    from .lint import Finding

LEVELS = ("fast", "full", "off")

Array = np.ndarray[Any, Any]


def require_level(name: str) -> str:
    """``name``, if a build can be verified like that; else ``UsageError``."""
    if name not in LEVELS:
        raise UsageError(f"There is no verification level {shown(name)}.", f"Choose from {', '.join(LEVELS)}.")
    return name


class Start(Protocol):
    """Starts the check of an expert: as it was cut, after all passes, and as it is shipped in lower precision."""

    def __call__(
        self, cut: Cut, expert: File, lowered: Lowered | None = None, driven: Driven | None = None
    ) -> Callable[[], Certificate]:
        """Returns what waits for the certificate."""


@contextmanager
def verifying(
    source: Source,
    indices: Sequence[int],
    level: str,
    images: Array | None,
    standing: Standby | None = None,
    *,
    embedded: bool = False,
    baked: Preprocess | None = None,
) -> Iterator[Start]:
    """Let the verifying process get ready while an expert for ``indices`` is made; yields what starts the check.

    What that returns waits for the certificate.

    ``images`` are preprocessed photos ``[N, ...]``, noise without any; at the level "off" nothing is run. The process
    is ``standing`` if there is one. In an expert whose controls are ``embedded`` these are the defaults on the card.
    Where its preprocessing is ``baked`` in, ``images`` are bytes ``[N, H, W, 3]``.
    """
    if level == "off":
        yield lambda cut, expert, lowered=None, driven=None: Certificate.off
        return
    with verifier(
        source.runnable,
        card_full=source.card,
        indices=indices,
        level=level,
        inputs=images,
        images=images is not None,
        embedded=embedded,
        baked=baked,
        standing=standing,
    ) as start:
        yield lambda cut, expert, lowered=None, driven=None: start(cut.model, expert, lowered, driven)


def verify_bundle(bundle: Bundle, source: Source, *, level: str = "full", images: Array | None = None) -> Certificate:
    """Check a bundle against its full model: the cut is made again, and the bundle's own files are what must agree.

    Raises ``BundleError`` if the bundle is malformed or was built from another model, ``VerificationError`` if it does
    not agree.
    """
    if level not in LEVELS[:-1]:
        raise UsageError(f"A bundle cannot be verified at the level {shown(level)}.", "Choose from fast, full.")
    about = manifest.read(bundle)
    if about["source"]["sha256"] != source.sha256:
        raise BundleError(
            f"The bundle {shown(bundle.path)} was built from another model, {shown(about['source']['name'])}, "
            f"SHA-256 {shown(about['source']['sha256'][:12] + '…')}.",
            "Give the full model it was built from with --against.",
        )
    indices = about["selection"]["indices"]
    embedded = {control.name: control.default for control in bundle.embedded}
    finish = Finish.from_mapping(about["forms"], embed=bool(embedded))
    if embedded:
        source = _with_embedded(source, indices, embedded, bundle)
    baked = source.card.preprocess if finish.bake else None
    with verifying(source, indices, level, images, embedded=finish.embed, baked=baked) as start:
        cut = prune(source.model, source.card, indices)
        free = () if finish.embed else (cut.card.controls if finish.exits == PLAIN else cut.card.settings)
        kept = {
            "classes": (tuple(about["selection"]["classes"]), cut.card.classes),
            "labels": (bundle.labels, cut.card.classes),
            "preprocessing": (bundle.preprocess, cut.card.preprocess if baked is None else baked.as_bytes()),
            "output": (about["output"], asdict(output_of(finish.exits, cut.card))),
            "controls": ([*map(_form, bundle.controls)], [*map(_form, free)]),
            "routes": (about.get(ROUTES), manifest.routes(cut.card)),
            "exits": (_plan(bundle.exits), None if finish.exits == PLAIN else _plan(cut.card.exits)),
        }
        for what, (found, wanted) in kept.items():
            if found != wanted:
                raise VerificationError(
                    f"The bundle {shown(bundle.path)} differs from its full model in its {what}.", "Build it again."
                )
        beside = WEIGHTS in bundle.manifest["files"]
        files = tuple(bundle.file(name) if beside else bundle.file(name).read_bytes() for name in bundle.stages)
        driven = None if finish.exits == PLAIN else Driven(files)
        shipped = files[0] if driven is None else to_bytes(taken_apart(driven.files))
        recipe = about.get("conversion")
        if recipe is None:
            return start(cut, shipped, driven=driven)()
        # What is shipped was made of an expert in single precision; that one is made again, and verified first.
        with TemporaryDirectory(prefix="expertc-") as scratch:
            single, drop = finish.run(cut)[0], about.get("max_drop")
            final = pack(single, Path(scratch) / MODEL)
            if driven is None:
                lowered = Lowered(shipped, recipe, drop)
            else:
                from .precise import repeat  # which most builds do not need, and brings forty modules

                lowered = repeat(single, recipe, drop)
            return start(cut, final, lowered, driven)()


def _form(control: Control) -> Control | tuple[str, int]:
    """What of a control is the model's: a bundle may have been calibrated to thresholds of its own."""
    return (control.name, len(control.default)) if control.name in (THRESHOLD, TOLERANCE) else control


def _plan(exits: Exits | None) -> Exits | None:
    """The exits without the form, and without the values of thresholds that a bundle may have been calibrated to."""
    if exits is None or exits.frozen:
        return None if exits is None else replace(exits, driven=False)
    return replace(exits, thresholds=(), tolerance=DEFAULT_TOLERANCE, driven=False)


def _with_embedded(
    source: Source, indices: Sequence[int], values: Mapping[str, Sequence[float]], bundle: Bundle
) -> Source:
    """``source`` with the values for its defaults that the bundle says its expert has in it."""
    own = {control.name: len(control.default) for control in source.card.restrict(indices).settings}
    if own != {name: len(given) for name, given in values.items()}:
        raise VerificationError(
            f"The bundle {shown(bundle.path)} has other controls than its model.", "Build it again."
        )
    return replace(source, card=frozen(source.card.merged(indices, values)))


def refuse_unfit(source: Source) -> None:
    """Raise ``UnsupportedError`` for what the device or the runtime cannot take."""
    if source.card.outputs[0].axis != 1:
        raise UnsupportedError("The scores do not have one row per image.", "Export the model with classes on axis 1.")


def fitting(model: Model, target: Target) -> tuple[Finding, ...]:
    """What is to be known about a finished expert on ``target``; ``UnsupportedError`` if it cannot run there."""
    if target.is_host:  # where the runtime says itself what it cannot run
        return ()
    from .lint import lint, refuse

    found = lint(model, target, card_of(model), batch=PROFILE[-1])
    refuse(found, target)
    return found


def refuse_nan(model: Model) -> None:
    """Raise ``ModelError`` if a weight that an expert keeps is NaN; the others are never looked at."""
    for name, constant in model.constants.items():
        values = np.asarray(constant.values)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ModelError(f"The weights {shown(name)} hold NaN.", "Train or export the model again.")
