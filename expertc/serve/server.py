"""Runs the service until it is told to stop: SIGTERM and Ctrl-C let what has begun finish."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from ..errors import ExitCode, UsageError
from ..text import clean_text, shown
from .app import Service
from .connections import patient
from .current import Current
from .metrics import Metrics
from .model import Model, open_model
from .settings import Settings
from .work import Work

GRACE = 30
"""Seconds for requests to finish after SIGTERM; the unit gives 15 more (``unit.STOP_SECONDS``)."""

BACKLOG = 1024
"""Connections that wait to be accepted; the kernel has its own limit (net.core.somaxconn)."""

log = logging.getLogger("expertc.serve")


def serve(name: str, where: Callable[[], Path | None], settings: Settings) -> int:
    """Serve the bundle that ``where`` names as the model ``name``, and what it names later; the exit code.

    0 if it was told to stop and all requests were finished, 130 (``INTERRUPTED``) if some had to be cut off. Raises
    ``UsageError`` if there is nothing to listen on, and what ``open_model`` raises for the first bundle.
    """
    _log_to_stderr()
    listening = _listen(settings.host, settings.port)
    try:
        return _Server(name, where, settings, listening).until_stopped()
    finally:
        listening.close()


class _Server(uvicorn.Server):
    def __init__(
        self, name: str, where: Callable[[], Path | None], settings: Settings, listening: socket.socket
    ) -> None:
        metrics = Metrics()
        self._work = Work(settings)
        self._current = Current(where, lambda path: open_model(path, name, settings), metrics, self._say_ready)
        self._listening, self._cut = listening, False
        self._failure: BaseException | None = None
        service = Service(name, self._current, self._work, metrics, settings)
        config = uvicorn.Config(
            service.app(), http=patient(settings.patience, lambda why: metrics.refused.labels(why).inc()),
            loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=int(settings.patience) or 1, timeout_graceful_shutdown=GRACE,
            backlog=BACKLOG,
        )  # fmt: skip
        super().__init__(config)

    def until_stopped(self) -> int:
        try:
            self.run(sockets=[self._listening])
        except KeyboardInterrupt:  # uvicorn has caught the signal, finished, and raises it again
            log.info("stopped")
        if self._failure is not None:
            raise self._failure
        return ExitCode.INTERRUPTED if self._cut or self.force_exit else ExitCode.OK

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._following = asyncio.create_task(self._current.follow())
        self._following.add_done_callback(self._follows_no_more)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        _notify("STOPPING=1")
        self._following.cancel()
        await super().shutdown(sockets)
        self._cut = bool(self.server_state.tasks)
        self._work.close()
        await self._current.close()

    def _follows_no_more(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure, self.should_exit = task.exception(), True

    def _say_ready(self, model: Model) -> None:
        host, port = self._listening.getsockname()[:2]
        shown_host = f"[{host}]" if ":" in host else host
        print(f"Serving {model.name} (release {model.version}) on http://{shown_host}:{port}", flush=True)
        _notify("READY=1")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, from the start: another process on the port is found before anything is opened."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"{shown(host)} is no name or address of this machine.", "Give --host 127.0.0.1.") from error
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        reasons = {
            errno.EADDRINUSE: "another process listens there",
            errno.EACCES: "ports below 1024 are the system's",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }
        why = reasons.get(error.errno or 0, error.strerror)
        hint = "Choose another with --port or --host."
        raise UsageError(f"{shown(host)} port {port} cannot be listened on: {why}.", hint) from error
    return made


def _notify(state: str) -> None:
    """Tell systemd, if it has started this (sd_notify(3): a datagram to the socket that it names)."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        try:
            speaker.sendto(state.encode(), place.replace("@", "\0", 1) if place[0] == "@" else place)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", state, error.strerror)


class _Clean(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return clean_text(super().format(record)) if record.exc_info is None else super().format(record)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Clean("%(levelname)s: %(message)s"))
    for name, level in (("expertc.serve", logging.INFO), ("uvicorn.error", logging.ERROR), ("asyncio", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
