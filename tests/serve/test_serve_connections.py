"""What the protocol over uvicorn's does with a client that does nothing any more; in this process."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from expertc.serve.connections import patient

LONG = 32 * 2**20  # bytes, more than any kernel keeps for a socket
PATIENCE = 0.2


async def long_answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(LONG), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize("how", ["in two parts", "whole"])
def test_an_answer_that_nobody_fetches(how: str) -> None:
    """The client asks once, and neither reads nor sends nor closes."""

    async def whole_answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": bytes(LONG), "more_body": False})

    async def story() -> None:
        why: asyncio.Queue[str] = asyncio.Queue()
        app = long_answer if how == "in two parts" else whole_answer
        config, state = uvicorn.Config(app, log_config=None, ws="none"), ServerState()
        config.load()
        kind = patient(PATIENCE, why.put_nowait)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: kind(config, state, {}), "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if how == "in two parts":
                assert await asyncio.wait_for(why.get(), 60) == "slow"
            while not state.total_requests and how == "whole":
                await asyncio.sleep(0.01)
            while state.connections or state.tasks:
                await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(story(), 60))
