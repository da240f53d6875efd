"""Running a command in a process of its own and measuring it from its start to its end."""

from __future__ import annotations

import compileall
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import expertc


def as_installed() -> None:
    """Compile expertc's modules, as pip does and has done for the peers: a checkout may not be allowed to itself."""
    compileall.compile_dir(Path(expertc.__file__).parent, quiet=1)


def spawn(command: Sequence[str], limit: float = 600.0) -> tuple[float, float] | str:
    """Wall-clock seconds and peak resident megabytes of a process, or what became of it; it is killed at ``limit``."""
    with tempfile.TemporaryFile() as complaint:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=complaint)
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            if time.perf_counter() - start > limit:
                process.kill()
                os.wait4(process.pid, 0)
                return f"longer than {limit:g} s"
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaint.seek(0)
            last = complaint.read().decode(errors="replace").strip().rpartition("\n")[2]
            return f"exit {process.returncode}: {last[:100]}"
        return seconds, usage.ru_maxrss / 1000
