"""package(): from a bundle to a folder that another server reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from .. import __version__
from ..bundle import MANIFEST, Bundle, open_bundle
from ..errors import UsageError
from ..text import clean_text, shown
from . import place

TRITON, DEEPSTREAM = "triton", "deepstream"
FORMATS = (TRITON, DEEPSTREAM)
FOLDERS = {TRITON: "model_repository", DEEPSTREAM: "deepstream"}
"""Where packages go if nobody says: Triton's own examples call it so."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_BATCH = 1024  # NVDSINFER_MAX_BATCH_SIZE, of nvdsinfer_context.h


@dataclass(frozen=True)
class Packaged:
    """A written package: its directory, its files, and what a person should know."""

    path: Path
    format: str
    files: tuple[str, ...]
    notes: tuple[str, ...]


def package(
    bundle: str | Path | Bundle,
    format: str,  # noqa: A002 (the option's name)
    output: str | Path | None = None,
    *,
    name: str | None = None,
    max_batch: int | None = None,
    engine: bool = False,
    objects_of: int | None = None,
    force: bool = False,
) -> Packaged:
    """Write the expert in ``bundle`` for another server, to ``output``/``name``.

    Args:
        bundle: its directory, or one opened already.
        format: "triton" or "deepstream".
        output: the folder to write into, which is made if it is not there: for Triton the model repository.
        name: of the model, and its folder; by default the bundle's, without ``.expert``. Letters, digits, ``._-``.
        max_batch: how many images may be run together, 1 to 1024, of an expert that takes any number (default: 8).
        engine: for Triton: take the plan in the bundle, which is native code for one GPU and one TensorRT.
        objects_of: for DeepStream: the ``gie-unique-id`` of a detector whose objects are classified, not whole frames.
        force: replace an earlier package, if it is as it was written.

    Raises ``UsageError`` for options and names, ``BundleError``, ``ModelError`` and ``CardError`` for a bundle that is
    not sound, ``LabelsError`` for labels that the format cannot hold, ``UnsupportedError`` for an expert that cannot
    run there, ``VerificationError`` if the packaged graph does not say what the bundle says, ``FileSystemError``.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {shown(format)}.", f"Choose from {', '.join(FORMATS)}.")
    if engine and format != TRITON:
        raise UsageError("nvinfer compiles its own engine.", "Leave out --engine, which is for --format triton.")
    if objects_of is not None and (format != DEEPSTREAM or not 1 <= objects_of < 2**31 - 1):
        raise UsageError("--objects-of is the number, from 1, of a detector of DeepStream.", "Leave it out.")
    if max_batch is not None and not 1 <= max_batch <= MAX_BATCH:
        raise UsageError(f"--max-batch {max_batch} is not a number from 1 to {MAX_BATCH}.", "Write for example 8.")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    chosen = opened.path.resolve().name.removesuffix(".expert") if name is None else name
    if not _NAME.fullmatch(chosen):
        raise UsageError(
            f"{shown(chosen)} is no name for a model: it needs letters, digits, '.', '_' and '-', up to 80 of them.",
            "Give one with --name.",
        )
    origin = sha256((opened.path / MANIFEST).read_bytes()).hexdigest()
    target = Path(FOLDERS[format] if output is None else output) / chosen
    with TemporaryDirectory(prefix="expertc-") as scratch:
        if format == TRITON:
            from .triton import triton

            made = triton(opened, chosen, origin, Path(scratch), max_batch, engine=engine)
        else:
            from .deepstream import deepstream

            made = deepstream(opened, Path(scratch), max_batch, objects_of)
        about = {
            "expertc": __version__,
            "format": format,
            "name": chosen,
            "bundle": {
                "name": clean_text(str(opened.manifest.get("name", ""))),
                "manifest_sha256": origin,
                "weights_licence": clean_text(str(opened.manifest.get("weights_licence", ""))),
            },
        }
        place.write(target, made.files, about, made.derived, force=force)
    return Packaged(target, format, (*sorted(made.files), place.MARKER), made.notes)
