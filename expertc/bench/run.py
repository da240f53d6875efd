"""One benchmark run: open everything, time it in turns, gather the evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Session
from ..backends.cpu import open_session
from ..bundle import MODEL, open_bundle
from ..errors import UsageError
from ..measure import Glance, interleave
from ..text import clean_text
from . import environment
from .cold import cold_start
from .report import OFFLINE, SCENARIOS, SINGLE_STREAM, BenchReport, Entry, warnings_about
from .watch import Watcher, locked_clocks

OFFLINE_BATCH = 32  # for a model that takes any batch
SEED = 0
MAX_WARMUP = 5.0  # seconds, for all models together


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
) -> BenchReport:
    """Time bundles and ``.onnx`` models against the first of them, all in one interleaved run on the CPU.

    ``single-stream`` times one image after the other, ``offline`` the largest batch that a model allows (32 where it
    allows any). The input is noise from a fixed seed, made before the clock starts. ``seconds`` is the time for all
    models together, ``threads`` the number within an operator (default: one per core). ``progress`` is shown how
    far it is, twice a second. Sensors are watched from the warm-up to the end; ``lock_clocks`` holds the clocks
    meanwhile, which needs root; ``cold`` starts each model in a process of its own before. A ``KeyboardInterrupt`` ends
    an ``interruptible`` run with the report of what was measured until then. Raises ``UsageError`` for a model whose
    input has an open height or width or another batch than the scenario needs, or if ``seconds`` are too few for
    ``percentile``, and what ``open_bundle``, ``open_session``, ``cold_start`` and ``locked_clocks`` raise.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"There is no scenario '{scenario}'.", f"Choose from {', '.join(SCENARIOS)}.")
    if not paths or seconds <= 0:
        raise UsageError("There is nothing to measure.", "Give at least one model and a positive duration.")
    files = [_model(Path(path)) for path in paths]
    names = _names(paths)
    with ExitStack() as opened:
        locked = opened.enter_context(locked_clocks()) if lock_clocks else ()
        sessions = [opened.enter_context(closing(open_session(file, threads=threads))) for file in files]
        inputs = [_noise(session, name, scenario) for session, name in zip(sessions, names, strict=True)]
        calls = {name: partial(session.run, x) for name, session, x in zip(names, sessions, inputs, strict=True)}
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        starts = {
            name: cold_start(file, x.shape, threads=threads)
            for name, file, x in zip(names, files if cold else (), inputs, strict=False)
        }
        before = environment.load()
        warmup = min(MAX_WARMUP, seconds)
        with Watcher(warmup + seconds) as watcher:
            samples = interleave(
                calls,
                seconds=seconds,
                warmup=warmup,
                bearing=percentile,
                progress=progress,
                interruptible=interruptible,
            )
        after = environment.load()
    entries = tuple(
        Entry(
            name=name,
            path=str(path),
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            shape=x.shape,
            summary=samples.summary(name),
            ratio=samples.ratio(name, names[0]).scaled(len(inputs[0]) / len(x)),
            turns=samples.blocks[name],
        )
        for name, path, file, x in zip(names, paths, files, inputs, strict=True)
    )
    facts = environment.describe() | {
        "threads": threads or environment.cores(),
        "load": [before, after],
        "started": started,
    }
    warnings = warnings_about(entries, samples.warmup, before, environment.cores())
    if not samples.complete:
        warnings = (f"The run was interrupted before its {seconds:g} s were over.", *warnings)
    return BenchReport(
        scenario,
        seconds,
        SEED,
        samples.warmup,
        entries,
        facts,
        warnings,
        complete=samples.complete,
        evidence=watcher.evidence(locked),
        cold=starts,
    )


def _model(path: Path) -> Path:
    return open_bundle(path).file(MODEL) if path.is_dir() else path


def _names(paths: Sequence[str | Path]) -> list[str]:
    """A short name for each path, all different."""
    names: list[str] = []
    for path in paths:
        plain = clean_text(Path(path).resolve().name)
        times = sum(name == plain or name.startswith(f"{plain} (") for name in names)
        names.append(f"{plain} ({times + 1})" if times else plain)
    return names


def _noise(session: Session, name: str, scenario: str) -> NDArray[Any]:
    """Standard normal noise of the session's input shape, float32."""
    shape = session.input_shape
    if not shape or None in shape[1:]:
        axes = ", ".join("?" if axis is None else str(axis) for axis in shape)
        raise UsageError(
            f"The input '{clean_text(session.input)}' of {name} has no fixed size ({axes}).",
            "Export the model with a fixed height and width.",
        )
    batch = shape[0] or (OFFLINE_BATCH if scenario == OFFLINE else 1)
    if scenario == SINGLE_STREAM and batch != 1:
        raise UsageError(f"{name} takes {batch} images at once, never one.", f"Use the scenario {OFFLINE}.")
    return np.random.default_rng(SEED).standard_normal((batch, *(axis or 1 for axis in shape[1:])), np.float32)
