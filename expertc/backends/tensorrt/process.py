"""Compiling in a process of its own: it may take minutes, take all the memory there is, or be stopped at any moment."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import errors
from ...errors import CompilationError, ExpertcError, FileSystemError
from ...text import clean_text
from .builder import Plan
from .options import Options
from .readings import BuildMemoryError, read

TRIES = 4
"""How often a build is tried when the memory runs out, each time with half the workspace."""

LEAST_WORKSPACE_MB = 16
"""Where halving ends. A choice of ours: kernels that want more have others beside them by then."""

TICK = 1.0
"""Seconds after which progress is told again where TensorRT says nothing."""

_ROOT = Path(__file__).resolve().parents[3]
_NO_MEMORY = "Close what else uses memory (on a Jetson the desktop does), or compile for a smaller batch."
FORWARDED: dict[str, type[ExpertcError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ExpertcError)
} | {BuildMemoryError.__name__: BuildMemoryError}
"""The errors that come out of the child as what they are; others as the nearest of these that they derive from."""


@dataclass(frozen=True)
class Progress:
    """How a build fares.

    ``elapsed`` seconds since it began, in ``phase``; ``expected`` are about how many it takes in all, from earlier
    builds on this device, None before there were any.
    """

    elapsed: float
    phase: str
    expected: float | None = None


def compile_plan(onnx: Path, options: Options, *, told: Callable[[Progress], None] = lambda progress: None) -> Plan:
    """Compile the ONNX file for the GPU that is here, in a child process; ``told`` hears of it at least every second.

    Without a workspace in ``options``, the child takes a quarter of the memory that is free. If the memory runs out,
    it is tried again with half of that, and the plan's notes say so. An interruption ends the child, and nothing of it
    stays.

    Raises what ``library.load``, ``driver.open_driver`` and ``builder.build_plan`` raise; ``CompilationError`` if the
    memory does not suffice however small the workspace, or TensorRT dies; ``FileSystemError`` if the disk is full.
    """
    began, notes = time.monotonic(), list[str]()
    while True:
        attempt = _Attempt(onnx, options, began, told)
        try:
            plan = attempt.run()
        except BuildMemoryError as error:
            used = attempt.workspace_mb
            less = None if used is None else max(used // 2, LEAST_WORKSPACE_MB)
            if less is None or less == used or len(notes) + 1 == TRIES:
                with_ = "" if used is None else f" with a workspace of {used:,} MB"
                raise CompilationError(f"The memory does not suffice{with_}: {error.message}", _NO_MEMORY) from error
            notes.append(f"With a workspace of {used:,} MB the memory ran out; it was built with {less:,} MB.")
            told(Progress(time.monotonic() - began, f"out of memory, once more with a workspace of {less:,} MB"))
            options = replace(options, workspace_mb=less)
            continue
        return replace(plan, seconds=time.monotonic() - began, notes=(*notes[-1:], *plan.notes))


class _Attempt:
    """One child, and what it has told."""

    def __init__(self, onnx: Path, options: Options, began: float, told: Callable[[Progress], None]) -> None:
        self._job = {"onnx": str(onnx.absolute()), "options": options.to_mapping()}
        self._began, self._told = began, told
        self._phase, self._expected = "starting", None
        self._last: dict[str, Any] = {}
        self.workspace_mb = options.workspace_mb

    def run(self) -> Plan:
        with _writing():
            place = tempfile.TemporaryDirectory(prefix="expertc-compile-")  # mode 0700
        with place as name:
            folder = Path(name)
            with _writing():
                (folder / "job.json").write_text(json.dumps(self._job), encoding="utf-8")
            with _child(folder) as (process, events):
                self._listen(events)
                status = process.wait()
            return self._outcome(folder, status)

    def _listen(self, events: int) -> None:
        """Hear the child out, line by line, and tell how it fares; returns when it has closed its end."""
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            while True:
                if not selector.select(TICK):
                    self._hear({})
                    continue
                data = os.read(events, 2**16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(json.loads(line))

    def _hear(self, event: dict[str, Any]) -> None:
        self._last = event or self._last
        self._phase = event.get("phase", self._phase)
        self._expected = event.get("expected", self._expected)
        self.workspace_mb = event.get("workspace_mb", self.workspace_mb)
        self._told(Progress(time.monotonic() - self._began, self._phase, self._expected))

    def _outcome(self, folder: Path, status: int) -> Plan:
        if status != 0:
            raise self._death(status, (folder / "complaint.txt").read_text(encoding="utf-8", errors="replace"))
        if "error" in self._last:
            raise FORWARDED[self._last["error"]](self._last["message"], self._last["hint"])
        plan = self._last["plan"]
        data = (folder / "engine.plan").read_bytes()
        return Plan(data, **{**plan, "notes": tuple(plan["notes"]), "tensors": tuple(plan["tensors"])})

    def _death(self, status: int, complaint: str) -> ExpertcError:
        """Why the child did not live to write its outcome."""
        last = clean_text(complaint.strip().rpartition("\n")[2])[:300].rstrip(".")
        reading = read([complaint])
        if status == -signal.SIGKILL:
            why = f"The system killed TensorRT while {self._phase}, most likely for want of memory."
            return BuildMemoryError(why, _NO_MEMORY)
        if reading is not None and reading.kind is BuildMemoryError:
            return BuildMemoryError(f"TensorRT died for want of memory while {self._phase}.", _NO_MEMORY)
        if status < 0:
            return CompilationError(
                f"TensorRT died of {signal.Signals(-status).name} while {self._phase}{f' ({last})' if last else ''}.",
                "Update TensorRT, or compile the file with trtexec to report the crash to NVIDIA.",
            )
        return CompilationError(
            f"The compilation broke off: {last or f'exit status {status}'}.", "This is a bug; please report it."
        )


@contextmanager
def _child(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the child and give what its events come from; when the context is left, for whatever reason, it is gone.

    It hears nothing of the terminal's signals, and ends by itself when this process does: its standard input ends then.
    """
    path = dict.fromkeys([*(str(Path(entry).resolve()) for entry in sys.path if entry), str(_ROOT)])
    environment = {
        "CUDA_MODULE_LOADING": "LAZY",  # what TensorRT's log asks for: kernels are loaded when they are used
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
    }
    ours, theirs = os.pipe()
    try:
        with (folder / "complaint.txt").open("wb") as complaint:
            process = subprocess.Popen(  # noqa: S603 (an argument list that starts with our own interpreter)
                [sys.executable, "-m", f"{__package__}.child", str(folder), str(theirs)],
                cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaint,
                pass_fds=(theirs,), start_new_session=True,
            )  # fmt: skip
        try:
            os.close(theirs)
            theirs = -1
            yield process, ours
        finally:
            process.kill()
            process.communicate()
    finally:
        for end in (ours, theirs):
            if end >= 0:
                os.close(end)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileSystemError(
            f"The temporary files of the compilation cannot be written ({error.strerror}).", "Make room, or set TMPDIR."
        ) from error
