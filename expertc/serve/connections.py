"""Connections that a client cannot keep for ever, however slow it is, nor all of them at once.

uvicorn times how long a connection is idle between requests, but neither the first request nor a head that comes a byte
at a time nor an answer that nobody fetches. Here every wait for the client has an end; that of a body, which the
application reads, is the one of ``work``. Beyond ``MOST`` connections the one is closed that has been waited for
longest: idle and slow ones make room for new ones, those whose request is being answered stay.

h11 does the parsing, which is Python: strangers' bytes meet no C, and every board has it.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 512
"""Connections at once, or half of the files that this process may open."""


def most_connections() -> int:
    """How many connections there may be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // 2)


def patient(seconds: float, refused: Callable[[str], None]) -> type[H11Protocol]:
    """uvicorn's protocol with ``seconds`` for every wait; ``refused`` is told why a connection was closed."""
    most = most_connections()

    class Patient(H11Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None
        _since = 0.0  # when the wait began that there is now, or the last request

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._settle(anew=True)
            if len(self.connections) > most:
                waiting = [each for each in self.connections if isinstance(each, Patient) and each.waits]
                min(waiting, key=lambda each: each._since, default=self)._hang_up("connections")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._settle()  # bytes do not prolong a wait: only a whole head ends it

        def eof_received(self) -> bool:  # type: ignore[override]
            # Who has sent all may still read: unless the connection is kept, uvicorn throws the answer away.
            return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

        def send_400_response(self, msg: str) -> None:
            # The head may have been sound, and its answer be under way: nobody takes that any more.
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.close()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._settle(anew=True)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._settle(anew=True)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._settle(anew=True)

        @property
        def waits(self) -> bool:
            """Whether it is the client's turn: for the head of a request, its body, or to take the answer."""
            return self._timer is not None or (self.cycle is not None and self.cycle.more_body)

        def _settle(self, *, anew: bool = False) -> None:
            """Let the time run while there is no request, or its answer is not fetched."""
            waits = self.cycle is None or self.cycle.response_complete or self.flow.write_paused
            if waits and (anew or self._timer is None):
                self._stop()
                self._timer = self.loop.call_later(seconds, self._hang_up, "slow")
            elif not waits and self._timer is not None:
                self._stop()

        def _stop(self) -> None:
            self._since = self.loop.time()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _hang_up(self, why: str) -> None:
            if not self.transport.is_closing():  # which uvicorn does with one that is idle
                refused(why)
            self.connections.discard(self)  # now: more may come before the loop tells that this one is lost
            self.transport.abort()  # not ``close``, which waits for an answer to be fetched

    return Patient
