"""The one place where requests wait: bodies are read within bounds, and worked on by so many threads at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from .settings import Settings

WAITING = 16
"""Requests that may wait for each that is worked on: more would only be answered when nobody asks any more."""

BODIES = 16
"""The bodies of the largest size that are in memory at once, whole or in part."""

RATE = 2**16
"""Bytes that prolong the time for a body by a second (mod_reqtimeout's MinRate, but for cameras, not modems)."""

RETRY_AFTER = "1"
"""Seconds: a queue of this length is empty again by then."""

T = TypeVar("T")


class Refused(Exception):
    """A request that is too much, too large or too slow: the HTTP ``status``, and ``why`` for the metrics."""

    def __init__(self, status: int, why: str, message: str) -> None:
        super().__init__(message)
        self.status, self.why, self.message = status, why, message

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer. One who is too slow is hung up on; what others still send is read and thrown away."""
        return {503: {"retry-after": RETRY_AFTER}, 408: {"connection": "close"}}.get(self.status, {})


class Work:
    """Threads, and what waits for them. All but the work itself happens in the event loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.concurrency, "expertc-serve")
        self._room = settings.concurrency * (1 + WAITING)
        self._memory = settings.max_body * BODIES
        self._asked = self._held = 0

    async def do(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, called in a thread as soon as one is free. Raises ``Refused`` if too many wait."""
        self._refuse_if_busy()
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._asked -= 1

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of ``request``; ``Refused`` if it is too large or slow, or the server too busy to read it."""
        parts: list[bytes] = []
        try:
            await self._read(request, parts)
            yield b"".join(parts)
        finally:
            self._held -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        self._refuse_if_busy()
        most, size = self._settings.max_body, 0
        if int(request.headers.get("content-length", 0)) > most:
            raise self._too_large()
        try:
            with anyio.fail_after(self._settings.patience) as scope:
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size > most:
                        raise self._too_large()
                    if self._held + len(part) > self._memory:
                        raise Refused(503, "memory", "The server holds as many requests as it has room for.")
                    parts.append(part)
                    self._held += len(part)
                    scope.deadline += len(part) / RATE
        except TimeoutError as error:
            raise Refused(408, "slow", "The body of the request did not come in time.") from error

    def close(self) -> None:
        """End the threads; what waits is not done any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _refuse_if_busy(self) -> None:
        if self._asked >= self._room:
            raise Refused(503, "busy", "The server is busy.")

    def _too_large(self) -> Refused:
        return Refused(413, "size", f"The body is larger than {self._settings.max_body} bytes.")
