"""A program that prints what it sees, line by line, until it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from ...text import clean_text
from .sample import Sample

START = 10.0  # seconds for the first line: without persistence mode a driver takes some to wake up
STOP = 2.0  # seconds to end after being asked to

MAX_LINE = 4096
MAX_WORDS = 200  # characters of a complaint that are repeated


class Stream:
    """Runs ``command`` and keeps what ``parse`` makes of its lines, each with the time of ``time.monotonic``."""

    def __init__(self, name: str, command: Sequence[str], parse: Callable[[str], Sample | None]) -> None:
        self.name = name
        self.samples: list[tuple[float, Sample]] = []
        self.pid: int | None = None
        self._command = tuple(command)
        self._parse = parse
        self._first = threading.Event()  # set at the first sample, or when there will be none
        self._said = ""  # the last line that is no sample: programs complain on either output
        self._failure = ""
        self._stopping = self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._follow, name=f"watching {name}", daemon=True)

    def start(self) -> bool:
        """Start the program and wait for its first sample; False if there is none."""
        try:
            # A session of its own: Ctrl-C is for the one who measures, who still wants to hear the sensor.
            self._process = subprocess.Popen(  # noqa: S603 (an argument list of ours)
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._failure = f"it cannot be started ({error.strerror})"
            return False
        self.pid = self._process.pid
        self._thread.start()
        self._first.wait(START)
        return bool(self.samples)

    def stop(self) -> None:
        """End the program, whatever state it is in."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._stopping = True
            os.killpg(process.pid, signal.SIGTERM)  # and what it started itself, which may hold its output open
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._thread.join(STOP)
        if process.stdout is not None and not self._thread.is_alive():
            process.stdout.close()

    def ended(self) -> str | None:
        """Why the program is no longer at work, or None if it is, or was until it was stopped."""
        if self._failure:
            return self._failure
        if self._process is None or self._stopping or (self._process.poll() is None and not self._closed):
            return None
        self._thread.join(STOP)  # the end of a program and that of its output are seen in either order
        try:
            code = self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"it ended with code {code}" + (f": {self._said}" if self._said else "")

    def _follow(self) -> None:
        stdout = self._process.stdout if self._process is not None else None
        while stdout is not None and (line := stdout.readline(MAX_LINE)):
            said = line.decode("utf-8", "replace")
            sample = self._parse(said)
            if sample:
                self.samples.append((time.monotonic(), sample))
                self._first.set()
            else:
                self._said = clean_text(said)[:MAX_WORDS] or self._said
        self._closed = True
        self._first.set()
