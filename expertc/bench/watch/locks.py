"""Clocks held at one speed while something is measured, and given free afterwards.

Only on request (``--lock-clocks``) and only as root: nothing here asks for rights. The power mode is left alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from ...errors import FileSystemError, UnsupportedError, UsageError
from ...text import clean_text, system_text
from .clocks import governor_files

PERFORMANCE = "performance"
PATIENCE = 60.0  # seconds: jetson_clocks visits many files


@contextmanager
def locked_clocks(*, gpu: bool = False, root: Path = Path("/")) -> Iterator[tuple[str, ...]]:
    """Hold the clocks at their highest speed of the power mode; gives one sentence for each thing that was changed.

    On a Jetson ``jetson_clocks`` does that and puts back what it stored; elsewhere the governors below ``root`` become
    ``performance``, and with ``gpu`` the first NVIDIA card's clock is locked. All is put back when the context is left
    for whatever reason but SIGKILL; signals wait meanwhile. Raises ``UsageError`` without root's rights,
    ``UnsupportedError`` if there is nothing to lock, ``FileSystemError`` if a lock fails or cannot be undone.
    """
    if os.geteuid() != 0:
        raise UsageError("Locking the clocks needs the rights of root.", "Run it with sudo, or without --lock-clocks.")
    with _undone_in_peace() as undo:
        done = list(_jetson(undo) or _governors(undo, root)) + (list(_card(undo)) if gpu else [])
        if not done:
            raise UnsupportedError("This machine has no clocks that can be locked.", "Leave out --lock-clocks.")
        yield tuple(done)


def _jetson(undo: ExitStack) -> list[str]:
    tool = shutil.which("jetson_clocks")
    if tool is None:
        return []
    folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="expertc-clocks-"))
    stored = str(Path(folder) / "stored.conf")
    _run(tool, "--store", stored)
    undo.callback(_run, tool, "--restore", stored)
    _run(tool)
    return ["jetson_clocks: processor, GPU and memory at the highest clocks of the power mode"]


def _governors(undo: ExitStack, root: Path) -> list[str]:
    found = set()
    for file in governor_files(root):
        if governor := system_text(file):
            undo.callback(_write, file, governor)
            _write(file, PERFORMANCE)
            found.add(governor)
    before = clean_text(", ".join(sorted(found - {PERFORMANCE}))) or "the same"
    return [f"cpufreq governor: {PERFORMANCE} instead of {before}"] if found else []


def _card(undo: ExitStack) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    clock = _run(tool, "-i", "0", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits").strip()
    if not clock.isdecimal():
        return []
    undo.callback(_run, tool, "-i", "0", "--reset-gpu-clocks")  # an earlier lock cannot be read, so not be put back
    _run(tool, "-i", "0", f"--lock-gpu-clocks={clock}")
    return [f"nvidia-smi: clock of gpu 0 locked at {clock} MHz"]


@contextmanager
def _undone_in_peace() -> Iterator[ExitStack]:
    """A stack that no second Ctrl-C comes between when it is closed; signals can be set in the main thread only."""
    undo = ExitStack()
    try:
        yield undo
    finally:
        kept: list[Callable[[], object]] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                before = signal.signal(number, signal.SIG_IGN)
            except ValueError:
                break
            kept.append(partial(signal.signal, number, before))
        try:
            undo.close()
        finally:
            for again in kept:
                again()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 (an argument list of ours)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = clean_text((getattr(error, "output", None) or b"").decode("utf-8", "replace"))[:200] or str(error)
        raise FileSystemError(f"'{' '.join(command)}' failed ({said}).", "Look at the clocks by hand.") from error
    return done.stdout.decode("utf-8", "replace")


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise FileSystemError(f"'{file}' cannot be set to {value} ({error.strerror}).", "Set it by hand.") from error
