"""Whether a release is good enough for this device: tried in a process of its own, and written into its record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import describe
from ..errors import DeploymentError, ExpertcError, FileSystemError, UsageError
from ..releases import ACCEPTED, Store
from ..text import clean_text
from . import protocol

if TYPE_CHECKING:
    from .bootstrap import Say

CHECKED = "checked"
"""Key of the record for when it was tried (UTC, ISO 8601)."""

ENV = "env"
"""Key of the record for the environment that tried it, which is kept as long as the release is."""


def accept(store: Store, name: str, release: str, wanted: dict[str, Any], env: str | None, say: Say) -> dict[str, Any]:
    """Try a release, and note the outcome.

    ``wanted`` holds ``max_p90_ms``, ``seconds``, ``threads`` and ``verify``. A release that fails, or crashes, is not
    accepted, and ``why`` says so in a sentence or two. Raises ``FileSystemError`` where that is no fault of its own.
    """
    path = store.release(name, release).path
    outcome: dict[str, Any] = {"why": None, "compiled": None, "verified": None, "bench": None, "notes": []}
    try:
        outcome |= _tried({"do": "try", "path": str(path), **wanted}, say)
    except (FileSystemError, UsageError):
        raise
    except ExpertcError as error:
        outcome["why"] = f"{error.message} {error.hint}".strip()
    outcome = {ACCEPTED: outcome["why"] is None, **outcome, "device": describe(path)}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    store.note(name, release, {**outcome, CHECKED: now, ENV: env})
    return outcome


def _tried(request: dict[str, Any], say: Say) -> dict[str, Any]:
    """Let a process of its own try it. Raises the error that it had; ``DeploymentError`` if it died."""
    path = dict.fromkeys(str(Path(entry).resolve()) for entry in (*sys.path, str(Path(__file__).parents[2])) if entry)
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(  # noqa: S603 (an argument list that starts with our own interpreter)
            [sys.executable, "-m", f"{__package__}.trial"],
            cwd="/", env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaint, start_new_session=True,
        )  # fmt: skip
        with process:
            try:
                result = _heard(process, request, say)
            finally:
                process.kill()
        if result is not None:
            return result
        complaint.seek(0, os.SEEK_END)
        complaint.seek(max(0, complaint.tell() - 2**12))
        last = clean_text(complaint.read().decode("utf-8", "replace").strip().rpartition("\n")[2])[:300]
    status = process.returncode
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    raise DeploymentError(f"What tried it {how}{f' ({last})' if last else ''}.", "See to the device's memory.")


def _heard(process: subprocess.Popen[bytes], request: dict[str, Any], say: Say) -> dict[str, Any] | None:
    """What the process answers; None if it dies first."""
    pipe, lines = process.stdin, process.stdout
    if pipe is None or lines is None:  # for the type checker
        return None
    try:
        pipe.write(protocol.write(request))
        pipe.flush()
    except BrokenPipeError:
        return None
    for line in lines:
        message = protocol.read(line, who="the trial")
        if "said" in message:
            say(*protocol.said_from(message))
        elif "failed" in message:
            raise protocol.error_from(message["failed"])
        elif "done" in message:
            found: dict[str, Any] = message["done"]
            return found
    return None
