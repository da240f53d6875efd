"""build(): the whole road from a selection to a bundle, as one readable function."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from . import manifest
from .atomic import reported
from .audit import fitting, refuse_nan, refuse_unfit, require_level, verifying
from .bundle import GOLDEN, MODEL, WEIGHTS, default_name, reserve
from .card import Output
from .controls import Setting, settle
from .driven import frozen, require_exits, shipped
from .errors import UsageError
from .finish import OFF, PLAIN, Finish, require_form
from .forms import formed
from .graph import DATA_SUFFIX, File, Model, is_large, pack, read_model
from .graph.cost import Cost, cost
from .limits import memory_for
from .machine import as_here
from .selection import Selection, resolve
from .source import Foreign, Source, open_source
from .stages import Stages, silent
from .surgery.prune import Cut, prune
from .targets import Target, load_target
from .text import shown, times
from .verify import Certificate, Standby

if TYPE_CHECKING:
    from .contest import Contest
    from .lint import Finding
    from .precise import Photos, Precise
    from .speedup import Timing

MEASURE_SECONDS = 0.5
MEASURED_BYTES = 2**30  # of the full model: more is not loaded just to time it, unless somebody asks

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Side:
    """One column of the table: the full model, or the expert before folding (so that both are counted alike)."""

    classes: int
    branches: int
    cost: Cost
    file_bytes: int


@dataclass(frozen=True)
class Built:
    """A finished build: where the bundle is and what there is to say about it.

    ``fuse`` is the form of its branches, ``contest`` how that was found, None if nothing was measured. ``findings`` are
    what the lint has to say about the expert on its ``target``. ``exits`` is the form of a network with early exits:
    unless it is plain, both were timed in the nested form, up to the last exit.
    """

    path: Path
    target: Target
    selection: Selection
    full: Side
    expert: Side
    certificate: Certificate
    timing: Timing | None
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    fuse: str = OFF
    precision: str = "fp32"
    contest: Contest | None = None
    findings: tuple[Finding, ...] = ()
    exits: str = PLAIN


@dataclass
class _Clock:
    """Times of the stages; ``told`` hears the name of each as it begins."""

    told: Stages
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.told(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


def build(
    model: str | Path | Source | None = None,
    *,
    classes: str | Sequence[str],
    output: str | Path | None = None,
    target: str | Target = "cpu",
    verification: str = "fast",
    images: Array | Callable[[Source], Array | None] | None = None,
    batch: int | None = 1,
    foreign: Foreign | None = None,
    embed: Mapping[str, Setting] | None = None,
    bake: bool = False,
    fuse: str = "auto",
    exits: str | None = None,
    precision: str = "fp32",
    calibration: Callable[[Source, Selection], Photos] | None = None,
    max_drop: float | None = None,
    recipe: Mapping[str, Any] | None = None,
    force: bool = False,
    threads: int | None = None,
    measure_seconds: float | None = None,
    standing: Standby | None = None,
    progress: Stages = silent,
) -> Built:
    """Build an expert for ``classes`` and write its bundle.

    Args:
        model: the full model, an ONNX file or what ``open_source`` returned; by default the bundled sea animals.
        classes: the text of ``--classes`` (grammar: ``expertc.selection``), or a list of such items.
        output: the bundle directory; by default named after the classes, in the working directory.
        target: a device profile, or the name of one.
        verification: "fast" (against the full model's kept nodes), "full" (against the whole model), or "off": then
            a model runs only to be measured or calibrated.
        images: preprocessed photos ``[N, 3, H, W]`` to verify on, or what gives them for the model; noise by default.
        batch: images per call the expert takes; None leaves it open. A model with a fixed batch keeps that.
        foreign: labels and more for a model without a card.
        embed: freeze the controls, thresholds of exits among them, into the expert: by name what they are set to, {}
            for their defaults. Classes are named as in ``classes``, and are among these. None leaves them inputs.
        bake: make the scaling of pixels a part of the graph: the expert takes RGB bytes ``[N, H, W, 3]``.
        fuse: the form of its branches: "off", "on", the name of one (``surgery.fuse.FORMS``), or "auto": the fastest
            here, found by running them, "off" if ``measure_seconds`` is 0; by rule if it is for another device.
        exits: the form of a network with early exits (``driven.FORMS``); by default stages for TensorRT, else nested.
        precision: "fp32", "fp16", "int8" or "auto": the fastest here that keeps to its budget.
        calibration: gives the photos that a precision is calibrated and judged on; int8 needs them.
        max_drop: points of top-1 agreement that a lower precision may lose; by default that precision's budget.
        recipe: of an earlier conversion, which is repeated instead of chosen anew.
        force: replace an existing bundle.
        threads: CPU threads for measuring.
        measure_seconds: length of the interleaved latency window; 0 measures nothing. By default half a second, or 0 if
            the full model has more than a gigabyte. What is for another device is not measured here.
        standing: a process of ``verify.standby`` that gets ready to verify; by default one is started when the model is
            read.
        progress: is told the name of each stage as it begins, and how far it is where that is counted.

    Raises every error of ``expertc.errors`` up to 9; whatever is raised, nothing is left at ``output``.
    """
    require_level(verification)
    clock = _Clock(progress)
    device = as_here(target if isinstance(target, Target) else load_target(target))
    if precision != "fp32":
        from .precise import require_precision

        require_precision(precision, device, max_drop)
    with clock.stage("read"):
        source = model if isinstance(model, Source) else open_source(model, foreign)
        refuse_unfit(source)
        form = require_form(fuse)
        if form == "auto" and measure_seconds == 0 and device.is_host:
            form = OFF
        driving = require_exits(exits, source.card, device)
        finish = Finish(batch, embed is not None, bake, OFF, device.max_opset, device.is_host, driving)
        photos = images(source) if callable(images) else images
        selection = resolve(source.card.taxonomy, classes if isinstance(classes, str) else ",".join(classes))
        if embed is not None:
            source = set_controls(source, selection, embed)
    path = Path(output) if output is not None else Path(bundle_name(selection))
    baked = source.card.preprocess if bake else None
    with (
        reserve(path, force=force) as place,
        verifying(
            source, selection.indices, verification, photos, standing, embedded=finish.embed, baked=baked
        ) as start,
        ExitStack() as stack,
    ):
        with clock.stage("cut"):
            cut = prune(source.model, source.card, selection.indices)
            refuse_nan(cut.model)
        # Hashing takes longer than cutting where no instruction of the processor helps; it needs nothing else.
        hashing = stack.enter_context(ThreadPoolExecutor(1))
        kept_tensors = hashing.submit(manifest.digests, cut.model)
        with clock.stage("finish"):
            made = formed(cut, finish, form, device, threads)
            final, finish = made.model, made.finish
            findings = fitting(final, device)
            scratch = _scratch(stack) if is_large(final) else None
            expert = pack(final, None if scratch is None else scratch / MODEL)
        exact = None
        if recipe is not None or precision != "fp32":
            with clock.stage("calibrate"), memory_for(final):
                exact = _precise(
                    precision, recipe, final, expert, device, cut.card.outputs[0], max_drop=max_drop, scratch=scratch,
                    photos=None if calibration is None else lambda: calibration(source, selection),
                    fallback=photos, progress=progress,
                )  # fmt: skip
        lowered = None if exact is None else exact.lowered
        plain = final if lowered is None else read_model(lowered.file)
        if lowered is not None and not device.is_host:
            findings = fitting(plain, device)
        ready = shipped(expert if lowered is None else lowered.file, plain, driving)
        # Another process, which has limits, runs them; this one meanwhile only counts.
        certified = start(cut, expert, lowered, ready.driven)
        files = _files(ready.files)
        hashes = {
            name: hashing.submit(manifest.hashed, part) for name, part in files.items() if isinstance(part, bytes)
        }
        size = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in files.values())
        kept = source.owners.kept(cut.indices)
        full = Side(len(source.card.classes), len(source.owners.branches), source.cost, source.file_bytes)
        small = Side(len(cut.indices), len(kept), cost(cut.model), size)
        window = _window(source, measure_seconds) if device.is_host else 0.0
        if window > 0:
            from .speedup import measure  # with ONNX Runtime, while the other process is still busy
        with clock.stage("verify"):
            certificate = certified()
        timing = None
        if window > 0:
            with clock.stage("measure"):
                timing = measure(source, ready, plain, window, threads)
        with clock.stage("write"):
            costs = {"full": asdict(full), "expert": asdict(small)}
            about = manifest.describe(source, cut, final, device, costs, certificate, kept_tensors.result())
            about = ready.described(about, source.card, cut.indices, embedded=finish.embed)
            finish = replace(finish, batch=manifest.images_per_call(final))  # a model may have its own
            about["forms"] = {"passes": list(made.passes), **finish.to_mapping()}
            if lowered is not None:
                about |= {"precision": lowered.precision, "conversion": dict(lowered.recipe), "max_drop": max_drop}
            report = manifest.report(selection.requested, clock.seconds, None if timing is None else asdict(timing))
            report["contest"] = None if made.contest is None else made.contest.to_mapping()
            report["lint"] = [asdict(finding) for finding in findings]
            gains = () if exact is None else exact.gains
            report["precisions"] = [{"precision": each.precision, **asdict(each.ratio)} for each in gains]
            known = {name: digest.result() for name, digest in hashes.items()}
            texts = manifest.texts(final, device, about["precision"], ready.card, ready.form)
            if certificate.golden:
                texts[GOLDEN] = certificate.golden
            place.write({**files, **texts}, about, report, known)
    return Built(
        path,
        device,
        selection,
        full,
        small,
        certificate,
        timing,
        (
            *_notes(selection, cut, unmeasured=device.is_host and measure_seconds is None and not window),
            *made.notes,
            *(exact.notes if exact else ()),
        ),
        clock.seconds,
        finish.fuse,
        "fp32" if lowered is None else lowered.precision,
        made.contest,
        findings,
        driving,
    )


def _precise(
    precision: str, recipe: Mapping[str, Any] | None, final: Model, expert: File, device: Target, output: Output, *,
    photos: Callable[[], Photos] | None, fallback: Array | None, max_drop: float | None, scratch: Path | None,
    progress: Stages,
) -> Precise:  # fmt: skip
    """The expert in the precision that is asked for, or in that of ``recipe``."""
    from . import precise

    if recipe is not None:
        return precise.Precise(precise.repeat(final, recipe, max_drop, scratch))
    return precise.choose(
        precision, final, expert, device, output, photos=None if photos is None else photos(), fallback=fallback,
        max_drop=max_drop, scratch=scratch, progress=progress,
    )  # fmt: skip


def set_controls(source: Source, selection: Selection, given: Mapping[str, Setting]) -> Source:
    """``source`` with other defaults for the controls of the selected classes.

    Raises ``UsageError`` and ``SelectionError`` as ``settle`` does, ``UsageError`` if it has no controls.
    """
    if not source.card.settings:
        raise UsageError(f"The model {shown(source.name)} has no gain or other control.", "Leave out --embed.")
    own = source.card.restrict(selection.indices)
    card = source.card.merged(selection.indices, settle(own.settings, own.taxonomy, given))
    return replace(source, card=frozen(card))


def _window(source: Source, seconds: float | None) -> float:
    """How long to measure; by default not at all if running the full model would take gigabytes."""
    if seconds is None:
        return MEASURE_SECONDS if source.file_bytes <= MEASURED_BYTES else 0.0
    return seconds


def _files(parts: Mapping[str, File]) -> dict[str, File]:
    """The expert's files in the bundle."""
    if isinstance(whole := parts[MODEL], bytes):
        return dict(parts)
    return {**parts, WEIGHTS: whole.with_name(whole.name + DATA_SUFFIX)}


def bundle_name(selection: Selection, name: str | None = None) -> str:
    """Named ``name``, or after up to three classes as they were asked for, more by a hash that no order changes."""
    if name is not None:
        return f"{name}.expert"
    return default_name(selection.asked if len(selection.asked) <= 3 else selection.classes)


def _scratch(stack: ExitStack) -> Path:
    """A folder for what is too large for memory, until ``stack`` is closed."""
    with reported(Path(os.environ.get("TMPDIR", "/tmp"))):  # noqa: S108 (named in an error only)
        return Path(stack.enter_context(TemporaryDirectory(prefix="expertc-")))


def _notes(selection: Selection, cut: Cut, *, unmeasured: bool) -> Iterator[str]:
    if unmeasured:
        yield "Latencies were not measured: the full model is large. --measure SECONDS does it."
    if selection.is_all:
        yield "Every class is selected, so nothing was cut away."
    if len(selection.indices) == 1:
        yield "A single class cannot be told from others: the expert gives its raw score, not a probability."
    for reason, number in cut.stopped:
        yield f"Kept whole, {times(number)}: {reason}."
    yield from cut.notes
