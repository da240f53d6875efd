"""One benchmark run: open everything, time it in turns, gather the evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.cpu import open_session
from ..errors import UsageError
from ..measure import Glance, interleave
from . import environment, harness
from .camera import RATE, check_rate, streams
from .cold import cold_start
from .phases import Phases
from .report import CAMERA, OFFLINE, SCENARIOS, SINGLE_STREAM, BenchReport, Entry, warnings_about
from .subjects import file_of, names_of, noise
from .sweep import LARGEST, Sweep, saturate
from .watch import Watcher, locked_clocks

if TYPE_CHECKING:
    from .predictions import Photos

SEED = 0  # of the noise, and of the order of turns
MAX_WARMUP = 5.0  # seconds, for all models together
CHOOSING = 0.5  # of the time for all models together that finding their batches may take beside it


def bench(
    paths: Sequence[str | Path],
    *,
    scenario: str = SINGLE_STREAM,
    seconds: float = 10.0,
    threads: int | None = None,
    percentile: int | None = None,
    progress: Callable[[Glance], None] | None = None,
    interruptible: bool = False,
    lock_clocks: bool = False,
    cold: bool = False,
    rate: float | None = None,
    batch_size: int | None = None,
    phases: bool = False,
    data: str | Path | None = None,
) -> BenchReport:
    """Time bundles and ``.onnx`` models against the first of them, all in one interleaved run on the CPU.

    ``single-stream`` times one image after the other. ``offline`` times batches: the one that a model is made for, or,
    where it takes any, ``batch_size``, by default the one from which on more images at once bring hardly more images
    per second. ``camera`` gives images at a ``rate`` per second (default 30), and counts what is not ready in time. The
    input is noise from a fixed seed, made before the clock starts. ``seconds`` is the time for all models together,
    ``threads`` the number within an operator (default: one per core). ``progress`` is shown how far it is, twice a
    second. Sensors are watched from the warm-up to the end; ``lock_clocks`` holds the clocks meanwhile, which needs
    root; ``cold`` starts each model in a process of its own before. ``phases`` also takes the time of predicting photos
    apart, for as many seconds again, on those under ``data`` or on a made one. A ``KeyboardInterrupt`` ends an
    ``interruptible`` run with the report of what was measured until then.

    Raises ``UsageError`` for a model whose input has an open height or width or another batch than the scenario needs,
    if ``seconds`` are too few for ``percentile`` or a call is too quick for the clock, and for an option of another
    scenario; and what ``open_bundle``, ``open_session``, ``cold_start``, ``locked_clocks``, ``open_expert`` and
    ``read_photos`` raise.
    """
    _refuse(scenario, rate, batch_size, phases, data)
    if not paths or seconds <= 0:
        raise UsageError("There is nothing to measure.", "Give at least one model and a positive duration.")
    files = dict(zip(names_of(paths), (file_of(Path(path)) for path in paths), strict=True))
    places = dict(zip(files, map(Path, paths), strict=True))
    photos = _photos(places, data, threads) if phases else None
    lock: AbstractContextManager[tuple[str, ...]] = locked_clocks() if lock_clocks else nullcontext(())
    with lock as locked:
        sweeps = {}
        if scenario == OFFLINE and batch_size is None:
            limit = CHOOSING * seconds / len(files)
            found = ((name, _sweep(name, file, threads, limit)) for name, file in files.items())
            sweeps = {name: sweep for name, sweep in found if sweep is not None}
        own = harness.look()
        with ExitStack() as opened:
            sessions = {n: opened.enter_context(closing(open_session(f, threads=threads))) for n, f in files.items()}
            batches = {name: sweeps[name].chosen if name in sweeps else batch_size or 1 for name in files}
            inputs = {name: noise(session, name, scenario, batches[name], SEED) for name, session in sessions.items()}
            calls = {name: partial(session.run, inputs[name]) for name, session in sessions.items()}
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            starts = {n: cold_start(f, inputs[n].shape, threads=threads) for n, f in files.items() if cold}
            before = environment.load()
            warmup = min(MAX_WARMUP, seconds)
            how: dict[str, Any] = {
                "seconds": seconds, "warmup": warmup, "bearing": percentile, "least": own.least, "seed": SEED,
                "progress": progress, "interruptible": interruptible,
            }  # fmt: skip
            with Watcher(warmup + seconds) as watcher:
                if scenario == CAMERA:
                    samples, seen = streams(calls, rate=rate or RATE, **how)
                else:
                    samples, seen = interleave(calls, **how), {}
            after = environment.load()
        parts: Mapping[str, Phases] = {}
        complete = samples.complete
        if photos is not None and complete:
            parts, complete = _phases(places, photos, seconds, threads, progress, interruptible)
    first, *_ = files
    entries = tuple(
        Entry(
            name=name,
            path=str(path),
            sha256=hashlib.sha256(files[name].read_bytes()).hexdigest(),
            shape=inputs[name].shape,
            summary=samples.summary(name),
            ratio=samples.ratio(name, first).scaled(len(inputs[first]) / len(inputs[name])),
            turns=samples.blocks[name],
        )
        for name, path in zip(files, paths, strict=True)
    )
    warnings = [*warnings_about(entries, samples.warmup, before, environment.cores())]
    warnings += own.warnings()
    warnings += [hint for name, each in parts.items() for hint in each.hints(name)]
    if not complete:
        warnings.insert(0, f"The run was interrupted before its {seconds:g} s were over.")
    return BenchReport(
        scenario,
        seconds,
        SEED,
        samples.warmup,
        entries,
        environment.describe() | environment.settings(threads) | {"load": [before, after], "started": started},
        tuple(warnings),
        complete=complete,
        evidence=watcher.evidence(locked),
        cold=starts,
        harness=own,
        streams=seen,
        sweeps=sweeps,
        phases=parts,
        photos="" if photos is None else photos.what,
    )


def _refuse(scenario: str, rate: float | None, batch_size: int | None, phases: bool, data: str | Path | None) -> None:
    """Raise ``UsageError`` for a scenario that is none, and for what belongs to another one."""
    if scenario not in SCENARIOS:
        raise UsageError(f"There is no scenario '{scenario}'.", f"Choose from {', '.join(SCENARIOS)}.")
    if rate is not None:
        check_rate(rate)
        if scenario != CAMERA:
            raise UsageError(f"The scenario {scenario} has no frame rate.", f"Use --fps with --scenario {CAMERA}.")
    if batch_size is not None:
        if not 1 <= batch_size <= LARGEST:
            raise UsageError(f"{batch_size} is not a batch size from 1 to {LARGEST}.", "Write --batch-size 32.")
        if scenario != OFFLINE:
            raise UsageError(f"The scenario {scenario} takes one image at a time.",
                             f"Use --batch-size with --scenario {OFFLINE}.")  # fmt: skip
    if data is not None and not phases:
        raise UsageError("Photos are for taking the time of a prediction apart.", "Use --data with --phases.")


def _sweep(name: str, file: Path, threads: int | None, seconds: float) -> Sweep | None:
    """How large its batch should be, found in a session whose memory is gone afterwards; None if that is fixed."""
    with closing(open_session(file, threads=threads)) as session:
        if session.input_shape[:1] != (None,):
            return None
        return saturate(
            lambda batch: partial(session.run, noise(session, name, OFFLINE, batch, SEED)), seconds=seconds, seed=SEED
        )


def _photos(places: Mapping[str, Path], data: str | Path | None, threads: int | None) -> Photos:
    """What to predict; a model that cannot is refused before anything is measured."""
    from .predictions import open_expert, read_photos

    found = read_photos(data)
    for path in places.values():
        open_expert(path, threads).close()
    return found


def _phases(
    places: Mapping[str, Path],
    photos: Photos,
    seconds: float,
    threads: int | None,
    progress: Callable[[Glance], None] | None,
    interruptible: bool,
) -> tuple[Mapping[str, Phases], bool]:
    """In sessions of their own, as predicting has them; an interrupt leaves what was measured before."""
    from .predictions import open_expert, take_apart

    with ExitStack() as opened:
        experts = {name: opened.enter_context(open_expert(path, threads)) for name, path in places.items()}
        try:
            return take_apart(
                experts, photos.encoded, seconds=seconds, seed=SEED, progress=progress, interruptible=interruptible
            )
        except KeyboardInterrupt:
            if not interruptible:
                raise
            return {}, False
