"""One benchmark run: open everything, time it in turns, gather the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..measure import SEED, Glance, interleave
from ..runtime.exits import AS_BUILT, Chosen
from ..source import open_source
from . import environment, harness
from .branches import open_without
from .camera import RATE, check_rate, streams
from .cold import cold_start
from .phases import Phases
from .report import CAMERA, OFFLINE, SCENARIOS, SINGLE_STREAM, BenchReport, Branch, Entry, warnings_about
from .subjects import files_of, is_for_device, is_staged, noise, open_model, open_subject
from .sweep import LARGEST, Sweep, saturate
from .watch import Watcher, locked_clocks

if TYPE_CHECKING:
    from .predictions import Photos

MAX_WARMUP = 5.0  # seconds, for all models together
CHOOSING = 0.5  # of the time for all models together that finding their batches may take beside it


def bench(
    paths: Sequence[str | Path],
    *,
    scenario: str = SINGLE_STREAM,
    seconds: float = 10.0,
    threads: int | None = None,
    percentile: int | None = None,
    seed: int = SEED,
    progress: Callable[[Glance], None] | None = None,
    interruptible: bool = False,
    lock_clocks: bool = False,
    cold: bool = False,
    rate: float | None = None,
    batch_size: int | None = None,
    phases: bool = False,
    data: str | Path | None = None,
    without: Sequence[str] | None = None,
    chosen: Chosen = AS_BUILT,
) -> BenchReport:
    """Time bundles and ``.onnx`` models against the first of them, all in one interleaved run on the CPU.

    ``single-stream`` times one image after the other. ``offline`` times batches: the one that a model is made for, or,
    where it takes any, ``batch_size``, by default the one from which on more images at once bring hardly more images
    per second. ``camera`` gives images at a ``rate`` per second (default 30), and counts what is not ready in time. The
    input is noise from ``seed``, made before the clock starts; so is the order of turns. ``seconds`` is the time for
    all models together, ``threads`` the number within an operator (default: one per core). ``progress`` is shown how
    far it is, twice a second. Sensors are watched from the warm-up to the end; ``lock_clocks`` holds the clocks
    meanwhile, which needs root; ``cold`` starts each model in a process of its own before. ``phases`` also takes the
    time of predicting photos apart, for as many seconds again, on those under ``data`` or on a made one. ``without``
    times one full model and its cuts without each of these classes or categories, by default the taxonomy's roots. A
    ``KeyboardInterrupt`` ends an ``interruptible`` run with the report of what was measured until then. Early exits are
    set as ``chosen``, and decide on what is fed, noise or photos.

    Raises ``UsageError`` for a model whose input has an open height or width or another batch than the scenario needs,
    if ``seconds`` are too few for ``percentile`` or a call is too quick for the clock, and for an option of another
    scenario; and what ``open_bundle``, ``open_session``, ``cold_start``, ``locked_clocks``, ``open_expert``,
    ``read_photos`` and ``open_without`` raise.
    """
    _refuse(scenario, rate, batch_size, phases, data)
    if not paths or seconds <= 0:
        raise UsageError("There is nothing to measure.", "Give at least one model and a positive duration.")
    if without is not None and (len(paths) != 1 or scenario != SINGLE_STREAM or cold or phases):
        raise UsageError(
            "Leaving out branches takes one model apart, image by image.",
            f"Give one full model with a model card, the scenario {SINGLE_STREAM}, and neither --cold nor --phases.",
        )
    if chosen != AS_BUILT and (cold or phases):
        raise UsageError("Cold starts and phases are timed with the exits as they are.", "Leave out their options.")
    files = files_of(paths)
    if cold and any(is_for_device(Path(path)) for path in paths):
        raise UsageError("Cold starts are measured with ONNX Runtime only.", "Leave out --cold.")
    if cold and any(is_staged(Path(path)) for path in paths):
        raise UsageError("Cold starts are measured of one graph, and an expert here has stages.", "Leave out --cold.")
    places = dict(zip(files, map(Path, paths), strict=True))
    photos = _photos(places, data, threads) if phases else None
    lock: AbstractContextManager[tuple[str, ...]] = locked_clocks() if lock_clocks else nullcontext(())
    branches: Mapping[str, Branch] = {}
    parts: Mapping[str, Phases] = {}
    with lock as locked:
        sweeps = {}
        if scenario == OFFLINE and batch_size is None:
            limit = CHOOSING * seconds / len(files)
            found = ((name, _sweep(name, places[name], file, threads, limit, seed)) for name, file in files.items())
            sweeps = {name: sweep for name, sweep in found if sweep is not None}
        own = harness.look()
        with ExitStack() as opened:
            if without is None:
                subjects = {name: open_subject(places[name], file, threads, opened) for name, file in files.items()}
            else:
                subjects, branches = open_without(open_source(paths[0]), without, threads, opened)
            inputs = {
                name: noise(
                    one.session, name, scenario, sweeps[name].chosen if name in sweeps else batch_size or 1, seed
                )
                for name, one in subjects.items()
            }
            settings = {name: one.settings(chosen) for name, one in subjects.items()}
            if not any(one.has_exits for one in subjects.values()):
                chosen.settings(())  # says that there are no exits, if they were to be set
            exiting = {name: one.exiting(inputs[name], chosen) for name, one in subjects.items()}
            calls = {
                name: partial(one.session.run, inputs[name], *filter(None, [settings[name]]))
                for name, one in subjects.items()
            }
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            starts = {n: cold_start(f, inputs[n].shape, threads=threads) for n, f in files.items() if cold}
            before = environment.load()
            warmup = min(MAX_WARMUP, seconds)
            how: dict[str, Any] = {
                "seconds": seconds, "warmup": warmup, "bearing": percentile, "least": own.least, "seed": seed,
                "progress": progress, "interruptible": interruptible,
            }  # fmt: skip
            with Watcher(warmup + seconds * (2 if phases else 1)) as watcher:
                if scenario == CAMERA:
                    samples, seen = streams(calls, rate=rate or RATE, **how)
                else:
                    samples, seen = interleave(calls, **how), {}
                complete = samples.complete
                if photos is not None and complete:
                    parts, complete = _phases(places, photos, seconds, threads, seed, progress, interruptible)
            after = environment.load()
            first, *_ = subjects
            entries = tuple(
                Entry(
                    name=name,
                    path=one.path,
                    sha256=one.sha256,
                    shape=inputs[name].shape,
                    summary=samples.summary(name),
                    ratio=samples.ratio(name, first).scaled(len(inputs[first]) / len(inputs[name])),
                    turns=samples.blocks[name],
                    classes=one.session.classes,
                    exits=exiting[name],
                )
                for name, one in subjects.items()
            )
    warnings = [*warnings_about(entries, samples.warmup, before, environment.cores())]
    warnings += own.warnings()
    warnings += [f"{name}: {note}" for name, one in subjects.items() for note in one.notes]
    if scenario == OFFLINE:
        fixed = {name: one.session.input_shape[0] for name, one in subjects.items()}
        warnings += [f"{n} is made for a batch of {size}: no other was tried." for n, size in fixed.items() if size]
    warnings += [hint for name, each in parts.items() for hint in each.hints(name)]
    if not complete:
        warnings.insert(0, f"The run was interrupted before its {seconds:g} s were over.")
    return BenchReport(
        scenario,
        seconds,
        seed,
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
        branches=branches,
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


def _sweep(name: str, path: Path, file: Path, threads: int | None, seconds: float, seed: int) -> Sweep | None:
    """How large its batch should be, found in a session whose memory is gone afterwards; None if that is fixed."""
    with closing(open_model(path, file, threads)[0]) as session:
        if session.input_shape[:1] != (None,):
            return None
        return saturate(
            lambda batch: partial(session.run, noise(session, name, OFFLINE, batch, seed)), seconds=seconds, seed=seed
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
    seed: int,
    progress: Callable[[Glance], None] | None,
    interruptible: bool,
) -> tuple[Mapping[str, Phases], bool]:
    """In sessions of their own, as predicting has them; an interrupt leaves what was measured before."""
    from .predictions import open_expert, take_apart

    with ExitStack() as opened:
        experts = {name: opened.enter_context(open_expert(path, threads)) for name, path in places.items()}
        try:
            return take_apart(
                experts, photos.encoded, seconds=seconds, seed=seed, progress=progress, interruptible=interruptible
            )
        except KeyboardInterrupt:
            if not interruptible:
                raise
            return {}, False
