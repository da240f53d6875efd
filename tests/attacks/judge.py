"""What becomes of damaged models: each is opened and cut as the product does it, and ONNX Runtime judges the expert.

Run as a program it does so for many files, in a process that anybody's crash or endless loop may end: the parent knows
which file it was, and starts another process for those behind it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from networks import Array, feeds, run
from onnxruntime.capi import onnxruntime_pybind11_state as state
from victims import KEEP

import expertc
from expertc.audit import refuse_nan
from expertc.card import Output
from expertc.errors import InvalidArtifactError
from expertc.graph import to_bytes
from expertc.source import Source, open_source
from expertc.surgery.fold import Fold
from expertc.surgery.prune import prune

AGREES = "an expert that agrees"
NOWHERE = "the runtime takes neither"
DAMAGE_CUT = "the runtime takes the expert only"
TOO_LARGE = "the runtime needs too much memory"
SECONDS = 10  # of processor time for one file
PATIENCE = 12  # how often that by the clock, for one that only waits
MEMORY = 2**30  # address space beyond what a process has when it begins
ROUNDING, FOLDED = 1e-5, 1e-4

_REFUSALS = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
_MEMORY = re.compile("allocate memory|bad_alloc|bad allocation", re.IGNORECASE)


def judged(path: Path, told: Callable[[str], None] = lambda stage: None) -> str:
    """The name of a typed error, or how the expert and the file compare; ``WRONG: ...`` is what must not be."""
    try:
        source = open_source(path)
        done = prune(source.model, source.card, KEEP)
        refuse_nan(done.model)
        expert = to_bytes(done.model)
        final = to_bytes(Fold().run(done.model)[0])
    except InvalidArtifactError as error:
        tame = error.message.isprintable() and len(error.message) < 1000
        return type(error).__name__ if tame else f"WRONG: {type(error).__name__} with a message like that"
    told("run")
    try:
        return compared(source, expert, final)
    except MemoryError:
        return TOO_LARGE


def compared(source: Source, expert: bytes, final: bytes) -> str:
    full, small, folded = (attempt(model, source.data) for model in (source.data, expert, final))
    if full is None:
        return NOWHERE if small is None else DAMAGE_CUT
    if small is None or folded is None:
        return "WRONG: the expert does not run, the file does"
    for name, values in full.items():
        output = next((output for output in source.card.outputs if output.name == name), None)
        wanted = values if output is None else rows(values, output)
        if wanted is not None and not close(small[name], wanted, ROUNDING):
            return f"WRONG: {name} differs by {distance(small[name], wanted):.2g}"
        if wanted is not None and not close(folded[name], wanted, FOLDED):
            return f"WRONG: {name} differs by {distance(folded[name], wanted):.2g} when folded"
    return AGREES


def attempt(model: bytes, full: bytes) -> dict[str, Array] | None:
    """The outputs by ONNX Runtime; None if it refuses the model. Raises ``MemoryError`` where they do not fit."""
    try:
        return run(model, feeds(full))
    except _REFUSALS as error:
        if _MEMORY.search(str(error)):
            raise MemoryError from error
        return None
    except (ValueError, TypeError, KeyError):  # inputs that cannot be drawn
        return None


def rows(values: Array, output: Output) -> Array | None:
    """What the expert should give; None where the full model's own numbers say nothing about it."""
    kept = np.take(values, KEEP, axis=output.axis)
    if output.kind != "probabilities":
        return kept
    total = kept.sum(axis=output.axis, keepdims=True)
    return kept / total if np.isfinite(total).all() and (total > 1e-30).all() else None


def close(got: Array, wanted: Array, allowed: float) -> bool:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    return np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f") or distance(got, wanted) <= allowed


def distance(got: Array, wanted: Array) -> float:
    """Over the largest, where both are finite; what is not finite must be the same."""
    if got.shape != wanted.shape:
        return float("inf")
    odd = ~np.isfinite(wanted)
    if not np.array_equal(got[odd], wanted[odd], equal_nan=True):
        return float("inf")
    sure = wanted[~odd].astype(np.float64)
    return float(np.abs(got[~odd] - sure).max(initial=0) / max(np.abs(sure).max(initial=0), 1e-30))


# -- many, in processes of their own -----------------------------------------------------------------------------------


def judge_all(files: Iterable[bytes], seconds: float = SECONDS) -> list[str]:
    """``judged`` of every file; a process that dies is the outcome of the file it was at."""
    found: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for number, data in enumerate(files):
            paths.append(folder / f"{number}.onnx")
            paths[-1].write_bytes(data)
        while len(found) < len(paths):
            found += batch(folder / "journal", seconds, paths[len(found) :])
    return found


def batch(journal: Path, seconds: float, paths: Sequence[Path]) -> list[str]:
    """Outcomes of the first files, at least of one. ``journal`` is where the process writes; libraries may print."""
    root = Path(expertc.__file__).parent.parent
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, __file__, str(journal), str(seconds), *map(str, paths)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(path) for path in (root, here.parent, here))},
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    found, stage = [], ""
    for line in journal.read_text(encoding="utf-8").splitlines():
        kind, text = json.loads(line)
        if kind == "outcome":
            found.append(text)
        stage = text if kind == "stage" else ""
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else done.stderr.strip().rpartition("\n")[2]
        # Until a stage is told, it is our own code that runs.
        found.append(f"the runtime: {how}" if stage else f"WRONG: {how}")
    return found


def counts(outcomes: Iterable[str]) -> Mapping[str, int]:
    return dict(Counter(outcomes).most_common())


def main(journal: Path, seconds: float, paths: Iterable[str]) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    with journal.open("w", encoding="utf-8", buffering=1) as lines:

        def say(kind: str, text: str) -> None:
            lines.write(json.dumps([kind, text]) + "\n")

        for path in paths:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # either ends the process
            signal.setitimer(signal.ITIMER_REAL, seconds * PATIENCE)
            say("outcome", judged(Path(path), lambda stage: say("stage", stage)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
