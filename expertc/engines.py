"""An expert's engine on this machine: the plan that it compiled earlier, or compiles now; or why there can be none.

Nothing of TensorRT or CUDA is imported before somebody asks for an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backends.staged import on_processor, opened
from .bundle import COMPILED, ENGINE, MODEL, WEIGHTS, Bundle, Output, open_bundle
from .errors import (
    BundleError,
    CompilationError,
    DeviceMismatchError,
    ExpertcError,
    UnsupportedError,
    UsageError,
)  # fmt: skip
from .machine import Here, probe, require_device, require_tensorrt, target_of
from .targets import PRECISIONS, Target
from .text import shown
from .trtexec import PROFILE

if TYPE_CHECKING:
    from .backends import Session, Stage
    from .backends.tensorrt.options import Options
    from .backends.tensorrt.plans import Kept, Key
    from .backends.tensorrt.process import Progress
    from .lint import Finding

Told = Callable[["Progress"], None]


@dataclass(frozen=True)
class Ready:
    """A plan of this machine, and whether it was compiled just now; ``findings`` are the lint's, if it was.

    ``later`` are the plans of an expert's later stages.
    """

    target: Target
    here: Here
    kept: Kept
    fresh: bool
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    later: tuple[Ready, ...] = ()


def compile_bundle(
    bundle: Bundle,
    *,
    workspace_mb: int | None = None,
    batch: tuple[int, int, int] | None = None,
    dla_core: int | None = None,
    force: bool = False,
    strict: bool = False,
    told: Told = lambda progress: None,
) -> Ready:
    """Compile a bundle's expert for this machine, or find the plan that did so before.

    Args:
        bundle: what ``expertc build --target`` made for a device with TensorRT.
        workspace_mb: memory that the builder may work in, in MiB; by default what the target's profile says, or a
            quarter of what is free.
        batch: the fewest, the usual and the most images per call, of an expert that takes any number (``PROFILE``).
        dla_core: run it on this deep-learning accelerator, as far as that can.
        force: compile again what is there already.
        strict: refuse what is otherwise only said: a TensorRT that the target does not know, warnings of the lint,
            layers that fall back from the accelerator to the GPU.
        told: hears how far it is.

    Raises ``UsageError``, ``BundleError``, ``UnsupportedError`` if there is no TensorRT or no GPU here or the expert
    cannot run on it, ``DeviceMismatchError`` if it is for another device, ``CompilationError``, ``FileSystemError``.
    """
    from .backends.tensorrt import plans

    target = target_of(bundle)
    require_tensorrt(bundle, target)
    options = _options(bundle, target, workspace_mb, batch, dla_core)
    here = probe()
    notes = require_device(target, here, strict=strict)
    found = []
    for name in bundle.stages:
        key = plans.Key(_digest(bundle, name), here.identity, options)
        kept = None if force else plans.find(key)
        if kept is None:
            found.append(_compiled(bundle, name, target, here, key, notes, strict=strict, told=told))
        else:
            found.append(Ready(target, here, plans.prefer(kept), False, (), notes))
    shares = [ready.kept.record["dla_share"] for ready in found]
    share = min((share for share in shares if share is not None), default=1)
    if strict and share < 1:
        raise UnsupportedError(
            f"Only {share:.0%} of the layers run on the accelerator, the others on the GPU.",
            "Compile without --strict.",
        )
    return replace(found[0], later=tuple(found[1:]))


def open_anywhere(
    bundle: Bundle,
    *,
    threads: int | None = None,
    strict: bool = False,
    trust_plan: bool = False,
    told: Told = lambda progress: None,
) -> tuple[Session, tuple[str, ...]]:
    """A session for a bundle that is for TensorRT, and what is to be said about where it runs.

    The plan that this machine compiled last; if there is none it compiles one, which is kept. Where that cannot be, the
    expert runs on the processor, with ONNX Runtime, and the reason is said; ``strict`` makes it an error. With
    ``trust_plan`` the plan in the bundle is opened, which is native code of whoever wrote it.

    Raises ``DeviceMismatchError`` if ``strict``, or if the trusted plan is for another machine, ``BundleError``.
    """
    target = target_of(bundle)
    try:
        here = probe()
        notes = require_device(target, here)
    except (UnsupportedError, DeviceMismatchError) as error:
        return _on_processor(bundle, target, error, threads=threads, strict=strict)
    if trust_plan and ENGINE in bundle.manifest["files"]:
        return opened(bundle, lambda name: _trusted(bundle, name)), notes
    try:
        return _own(bundle, target, here, notes, told)
    except (UnsupportedError, CompilationError) as error:
        return _on_processor(bundle, target, error, threads=threads, strict=strict)


def save_engine(bundle: Bundle, place: Output, ready: Ready) -> Path:
    """Write the bundle again to ``place`` with the plan in it, byte for byte, and with where it comes from.

    Raises ``FileSystemError`` as ``Output.again`` does.
    """
    from .backends.tensorrt import plans

    made = {_engine(name): each.kept for name, each in zip(bundle.stages, (ready, *ready.later), strict=True)}
    about: dict[str, Any] = dict(ready.kept.record)
    if ready.later:
        about["later"] = {_engine(name): dict(kept.record) for name, kept in made.items() if name != ENGINE}
    layers = [layer for kept in made.values() for layer in plans.layers(kept)]
    files = {name: kept.data for name, kept in made.items()}
    return place.again(bundle, files, {COMPILED: about}, {COMPILED: {"layers": layers}})


def _on_processor(
    bundle: Bundle, target: Target, why: ExpertcError, *, threads: int | None, strict: bool
) -> tuple[Session, tuple[str, ...]]:
    """What there is instead of an engine, and why."""
    if strict:
        raise DeviceMismatchError(f"There is no engine for '{target.name}' here: {why.message}", why.hint) from why
    said = f"This runs on the processor with ONNX Runtime, not on '{target.name}': {why.message}"
    return on_processor(bundle, threads), (said,)


def _own(
    bundle: Bundle, target: Target, here: Here, notes: tuple[str, ...], told: Told
) -> tuple[Session, tuple[str, ...]]:
    """A session over plans of this machine."""
    from .backends.tensorrt import plans

    options, seconds = _options(bundle, target), []

    def own(name: str) -> Stage:
        nonlocal notes
        key = plans.Key(_digest(bundle, name), here.identity, options)
        kept = plans.newest(key)
        if kept is None:
            ready = _compiled(bundle, name, target, here, key, notes, strict=False, told=told)
            kept, notes = ready.kept, ready.notes
            seconds.append(kept.record["seconds"])
        return _opened(kept.data, kept.record, f"{_again(bundle)} --force", name)

    session = opened(bundle, own)
    compiled = f"The engine was compiled in {sum(seconds):.0f} s; the next start finds it."
    return session, (*notes, *([compiled] if seconds else []))


def _trusted(bundle: Bundle, name: str) -> Stage:
    """A session over a plan in the bundle, of which the user says that it may be opened."""
    return _opened(
        bundle.file(_engine(name)), saved_record(bundle, name), f"{_again(bundle)} --save-engine --force", name
    )


def saved_record(bundle: Bundle, name: str = MODEL) -> Mapping[str, Any]:
    """What the manifest says of the plan in the bundle that was compiled from its file ``name``.

    It has "identity" and "options". Raises ``BundleError`` if the manifest does not say that the plan is that file's.
    """
    said, engine = bundle.manifest.get(COMPILED), _engine(name)
    record: dict[str, Any] = said if isinstance(said, dict) else {}
    if engine != ENGINE:
        later = record.get("later")
        found = later.get(engine) if isinstance(later, dict) else None
        record = found if isinstance(found, dict) else {}
    parts = (record.get("identity"), record.get("options"))
    if not all(isinstance(part, dict) for part in parts) or record.get("onnx") != _digest(bundle, name):
        raise BundleError(
            f"The manifest of {shown(bundle.path)} does not say that {engine} was compiled from its {name}.",
            f"Run '{_again(bundle)} --save-engine --force'.",
        )
    return record


def _opened(plan: bytes | Path, record: Mapping[str, Any], again: str, name: str) -> Stage:
    """A session over a plan that may be opened, if it is for this machine by its record. ``again`` makes another."""
    from .backends.tensorrt.session import open_plan

    core, card = record["options"].get("dla_core"), record.get("card")
    return open_plan(
        plan,
        card if isinstance(card, str) else None,
        dla_core=core if isinstance(core, int) else None,
        made_by=record["identity"],
        rebuild=again,
        stage=name != MODEL,
    )


def _engine(name: str) -> str:
    """The file of the plan that is compiled from ``name``."""
    return ENGINE if name == MODEL else f"{Path(name).stem}.plan"


def _again(bundle: Bundle) -> str:
    from .backends.tensorrt.identity import rebuild_command

    return rebuild_command(bundle.path)


def _compiled(
    bundle: Bundle, name: str, target: Target, here: Here, key: Key, notes: tuple[str, ...], *, strict: bool, told: Told
) -> Ready:
    from .backends.tensorrt import plans
    from .backends.tensorrt.process import compile_plan
    from .card import CARD_KEY, Card
    from .graph import read_model
    from .lint import WARNING, lint, refuse

    model = read_model(bundle.file(name))
    text = model.metadata.get(CARD_KEY)
    card = None if text is None else Card.from_json(text)
    most = 1 if key.options.batch is None else key.options.batch[-1]
    findings = lint(model, target, card, release=here.release, batch=most)
    refuse(findings, target)
    warnings = [finding for finding in findings if finding.level == WARNING]
    if strict and warnings:
        raise UnsupportedError(f"There are warnings, and --strict: {warnings[0]}", "Compile without --strict.")
    plans.prepare()
    plan = compile_plan(bundle.file(name), key.options, told=told)
    if open_bundle(bundle.path).manifest["files"] != bundle.manifest["files"]:  # minutes have passed
        raise BundleError(f"The bundle {shown(bundle.path)} was replaced while it was compiled.", "Compile it again.")
    kept = plans.store(key, plan, text)
    return Ready(target, here, kept, True, findings, notes)


def _options(
    bundle: Bundle,
    target: Target,
    workspace_mb: int | None = None,
    batch: tuple[int, int, int] | None = None,
    dla_core: int | None = None,
) -> Options:
    """How the expert is to be compiled. Raises ``UsageError``, ``UnsupportedError`` and ``BundleError``."""
    from .backends.tensorrt.options import Options

    precision, shape = bundle.manifest.get("precision"), _shape(bundle)
    if precision not in PRECISIONS:
        raise BundleError(f"The bundle {shown(bundle.path)} is in no precision that is known.", "Build it again.")
    if precision not in target.precisions:
        raise UnsupportedError(f"'{target.name}' does not compute in {precision}.", "Build it in another precision.")
    if isinstance(shape[0], int) and batch is not None:
        raise UsageError(f"The expert takes {shape[0]} images per call.", "Leave out --batch, or build it as dynamic.")
    if batch is None and not isinstance(shape[0], int):
        batch = PROFILE if dla_core is None else (1, 1, 1)  # an accelerator runs one size only
    if dla_core is not None and "dla_cores" in target.facts and not 0 <= dla_core < target.dla_cores:
        has = f"its accelerators are 0 to {target.dla_cores - 1}" if target.dla_cores else "it has no such accelerator"
        raise UnsupportedError(f"'{target.name}' has no DLA core {dla_core}: {has}.", "Leave out --dla-core.")
    if workspace_mb is None and "workspace_mb" in target.facts:
        workspace_mb = target.workspace_mb
    return Options(precision, batch, dla_core, workspace_mb)


def _shape(bundle: Bundle) -> list[Any]:
    found = bundle.manifest.get("input")
    shape = found.get("shape") if isinstance(found, dict) else None
    if not isinstance(shape, list) or not shape:
        raise BundleError(f"The manifest of {shown(bundle.path)} does not describe an input.", "Build it again.")
    return shape


def _digest(bundle: Bundle, name: str = MODEL) -> str:
    """One hash of a graph's files, by those that were checked when the bundle was opened."""
    files: Mapping[str, Any] = bundle.manifest["files"]
    parts = (MODEL, WEIGHTS) if name == MODEL else (name,)
    return sha256("".join(files[part]["sha256"] for part in parts if part in files).encode()).hexdigest()
