"""Running the ladder in a child process, because running a graph is running a stranger's program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..card import Card
from ..errors import CardError, DataError, FileSystemError, ModelError, VerificationError
from ..text import clean_text
from .certificate import Certificate
from .limits import Limits

_FORWARDED = {kind.__name__: kind for kind in (ModelError, CardError, DataError)}
_SMALLER = "Verify on fewer images, or on a machine with more memory."


def verify(
    full: bytes | Path,
    cut: bytes,
    final: bytes,
    *,
    card_full: Card,
    indices: Sequence[int],
    level: str = "fast",
    inputs: np.ndarray[Any, Any] | None = None,
    images: bool = False,
    seed: int = 0,
    limits: Limits | None = None,
) -> Certificate:
    """Run ``climb`` on ONNX Runtime in a child process.

    Args:
        full: the full model, its file or its bytes.
        cut: the expert as it was cut, before any other pass.
        final: the expert as it will be shipped.
        card_full: the full model's card.
        indices: the selected classes, ascending.
        level: "fast" or "full", see ``Certificate``.
        inputs: preprocessed inputs ``[n, ...]``; noise if there are none, or in addition if they are fewer than 8.
        images: whether ``inputs`` are photos, so that decisions on them count.
        seed: of the noise.
        limits: memory and time for the child; by default from the cost of the full model.

    Returns a certificate whose verdict is "verified" or "uninformative". Raises ``VerificationError`` if a step fails
    or the child does not survive it, ``ModelError`` if the full model does not run, ``DataError`` if the inputs do not
    fit it, ``FileSystemError`` if there is no room for temporary files.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="expertc-verify-") as name:  # mode 0700
            folder = Path(name)
            job = {
                "full": str(_store(folder, full)),
                "card": card_full.to_json(),
                "indices": [int(index) for index in indices],
                "level": level,
                "images": images,
                "seed": seed,
                "limits": None if limits is None else asdict(limits),
            }
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            (folder / "cut.onnx").write_bytes(cut)
            (folder / "final.onnx").write_bytes(final)
            if inputs is not None:
                np.save(folder / "inputs.npy", inputs, allow_pickle=False)
            status, complaint = run_child([sys.executable, "-m", f"{__package__}.child", name], folder)
            outcome = _outcome(folder / "outcome.json", status, complaint)
    except OSError as error:
        raise FileSystemError(
            f"The temporary files of the verification cannot be written ({error.strerror}).",
            "Make room, or set TMPDIR.",
        ) from error
    return _certificate(outcome)


def run_child(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command in ``folder`` to its end; returns its exit status and what it wrote to standard error.

    It hears nothing of the terminal's signals: an interruption here, of whatever kind, kills it. It imports from where
    this process does, never from the working directory of the caller.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = dict.fromkeys([str(Path(entry).resolve()) for entry in sys.path if entry] + [root])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    ours, theirs = os.pipe()
    with (folder / "complaint.txt").open("w+", encoding="utf-8", errors="replace") as complaint:
        try:
            child = subprocess.Popen(  # noqa: S603 (an argument list that starts with our own interpreter)
                command, cwd=folder, env=environment, stdin=ours, stdout=subprocess.DEVNULL, stderr=complaint,
                start_new_session=True,
            )  # fmt: skip
            try:
                status = child.wait()
            finally:
                child.kill()
                child.wait()
        finally:
            os.close(ours)
            os.close(theirs)
        complaint.seek(0)
        return status, complaint.read()


def _store(folder: Path, model: bytes | Path) -> Path:
    if isinstance(model, Path):
        return model.resolve()
    path = folder / "full.onnx"
    path.write_bytes(model)
    return path


def _outcome(path: Path, status: int, complaint: str) -> dict[str, Any]:
    """What the child wrote. Raises ``VerificationError`` if it did not live to write it."""
    if status == 0:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    if status == -signal.SIGALRM:
        raise VerificationError("Verification took longer than a model of this size should.", "Verify on fewer images.")
    if status < 0:
        name = signal.Signals(-status).name
        raise VerificationError(f"Verification was killed by {name}, most likely for want of memory.", _SMALLER)
    last = clean_text(complaint.strip().rpartition("\n")[2]) or f"exit status {status}"
    raise VerificationError(f"Verification broke off: {last}.", "This is a bug; please report it.")


def _certificate(outcome: dict[str, Any]) -> Certificate:
    kind = outcome.get("error")
    if kind == "MemoryError":
        raise VerificationError("Verification needs more memory than a model of this size should.", _SMALLER)
    if kind is not None:
        raise _FORWARDED.get(kind, VerificationError)(outcome["message"], outcome["hint"])
    certificate = Certificate.from_mapping(outcome["certificate"])
    failure = certificate.failure
    if failure is not None:
        raise VerificationError(f"{failure.detail} (step: {failure.name})", "Nothing was written; please report it.")
    return certificate
