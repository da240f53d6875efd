"""The process in which verification runs: started early, so that it loads its libraries while the parent loads its own.

Nothing heavy is imported here. A process that stands by knows nothing yet; ``process.verifier`` tells it what to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileSystemError

GO = b"g"
"""What the process waits for on its standard input before each step: the job, then the experts."""


@dataclass(frozen=True)
class Standby:
    """A running process, the pipe that keeps it alive, and the folder that is shared with it (mode 0700)."""

    process: subprocess.Popen[bytes]
    pipe: int
    folder: Path

    def go(self) -> None:
        """Let it take the next step. One that died already is not told."""
        if self.process.poll() is None:
            os.write(self.pipe, GO)


@contextmanager
def standby() -> Iterator[Standby]:
    """Start a process that will verify; when the context is left, for whatever reason, it is gone and so are its files.

    Raises ``FileSystemError`` if there is no room for temporary files.
    """
    with writing():
        place = tempfile.TemporaryDirectory(prefix="expertc-verify-")  # mode 0700
    with place as name, running([sys.executable, "-m", f"{__package__}.child", name], Path(name)) as process:
        yield process


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[Standby]:
    """Run a command in ``folder``, which also gets its standard error as ``complaint.txt``.

    It hears nothing of the terminal's signals; leaving the context, by an interruption or otherwise, kills it. It
    imports from where this process does, but never from the caller's working directory.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = dict.fromkeys([*(str(Path(entry).resolve()) for entry in sys.path if entry), root])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    ours, theirs = os.pipe()
    try:
        with writing():
            complaint = (folder / "complaint.txt").open("wb")
        with complaint:
            process = subprocess.Popen(  # noqa: S603 (an argument list that starts with our own interpreter)
                command, cwd=folder, env=environment, stdin=ours, stdout=subprocess.DEVNULL, stderr=complaint,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield Standby(process, theirs, folder)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def writing() -> Iterator[None]:
    """What cannot be written in the shared folder ends as ``FileSystemError``."""
    try:
        yield
    except OSError as error:
        raise FileSystemError(
            f"The temporary files of the verification cannot be written ({error.strerror}).",
            "Make room, or set TMPDIR.",
        ) from error
