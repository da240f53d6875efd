"""A server in a process of its own, and plain ways to ask it."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0  # until something must have happened that takes a moment


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running server; ``line`` is what it printed when it was ready."""

    process: subprocess.Popen[str]
    line: str
    errors: Path
    host: str = field(init=False)
    port: int = field(init=False)

    def __post_init__(self) -> None:
        found = re.search(r"http://([^:]+):(\d+)$", self.line)
        assert found, self.line
        self.host, self.port = found[1], int(found[2])

    def connect(self, timeout: float = SECONDS) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own; a body that is not bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """All that comes back for ``data`` until the server hangs up."""
        with self.connect() as link:
            link.sendall(data)
            return until_closed(link)

    def metric(self, metric: str, /, **labels: str) -> float:
        """A number that Prometheus' own parser finds on the page."""
        from prometheus_client.parser import text_string_to_metric_families

        page = self.ask("GET", "/metrics").body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "expertc", "serve", *map(str, arguments)]


PLACES = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
ENVIRONMENT = {**os.environ, "PYTHONPATH": PLACES, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}


@contextmanager
def served(errors: Path, *arguments: object, **environment: str) -> Iterator[Served]:
    """A server on a free port; ``errors`` is the file that takes its stderr."""
    with errors.open("w") as stream:
        process = subprocess.Popen(
            command(*arguments, "--port=0"),
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=ENVIRONMENT | environment,
        )
        assert process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=lambda: lines.put(process.stdout.readline().rstrip()), daemon=True)
        try:
            reader.start()
            line = lines.get(timeout=SECONDS)
            assert line, errors.read_text()
            yield Served(process, line, errors)
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def until_closed(link: socket.socket) -> bytes:
    parts = []
    try:
        while part := link.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")
