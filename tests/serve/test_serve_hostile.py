"""Clients that are slow, broken or too many: whatever they do, the next request is answered."""

from __future__ import annotations

import io
import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from PIL import Image
from rainbow import SIDE
from served import SECONDS, Served, head, served, until, until_closed

from expertc.serve.connections import MOST as MOST_CONNECTIONS
from expertc.serve.work import BODIES

MOST = 100_000  # bytes of a body


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = (f"--max-body={MOST}", "--timeout=1", "--concurrency=1")
    with served(tmp_path_factory.mktemp("server") / "err", bundle, *limits) as found:
        files = Path(f"/proc/{found.process.pid}/fd")
        before = len([*files.iterdir()])
        yield found
        assert found.process.poll() is None
        until(lambda: len([*files.iterdir()]) <= before)  # no connection is left behind
        assert found.errors.read_text() == ""  # nothing of all this is worth a line, let alone a traceback
        assert found.stop() == 0


@pytest.fixture(scope="module")
def photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 10), (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(autouse=True)
def _still_answers(server: Served, photo: bytes) -> Iterator[None]:
    yield
    assert server.ask("POST", "/predict", photo).status == 200


def status(answer: bytes) -> int | None:
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else None


POST = ("POST", "/predict")
BROKEN = {
    "bytes": bytes(range(256)) * 300,
    "a TLS client": bytes.fromhex("16030100a5010000a10303") + bytes(154),
    "an HTTP/2 client": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "an endless line": b"GET /" + b"a" * 200_000,
    "an endless header": b"GET / HTTP/1.1\r\nA: " + b"a" * 200_000,
    "a header without a name": head("GET", "/v2", ": a"),
    "a bare NUL": b"GET /v2\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hosts": head("GET", "/v2", "Host: y"),
    "a negative length": head(*POST, "Content-Length: -1"),
    "two lengths": head(*POST, "Content-Length: 1", "Content-Length: 2") + b"ab",
    "a length of letters": head(*POST, "Content-Length: 0x10"),
    "a length in other digits": head(*POST, "Content-Length: ٣".encode().decode("latin-1")),
    "an unknown coding": head(*POST, "Transfer-Encoding: gzip, chunked"),
    "a bad chunk": head(*POST, "Transfer-Encoding: chunked") + b"zz\r\n",
    "a bad chunk for nobody": head("POST", "/nope", "Transfer-Encoding: chunked") + b"zz\r\n",
    "a bad chunk beside a question": head("GET", "/metrics", "Transfer-Encoding: chunked") + b"zz\r\n",
    "two lengths of two kinds": head("POST", "/v2", "Content-Length: 3", "Transfer-Encoding: chunked") + b"zz\r\n",
    "a negative chunk": head(*POST, "Transfer-Encoding: chunked") + b"-1\r\n",
    "an endless chunk extension": head(*POST, "Transfer-Encoding: chunked") + b"1;" + b"a" * 200_000,
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_http_is_refused(server: Served, what: str) -> None:
    assert status(server.raw(BROKEN[what])) in (400, 404, 431, 501, None)


def test_a_length_and_chunks_are_not_two_requests(server: Served) -> None:
    """Request smuggling: what one reader takes for a body must not be a request to the other (RFC 9112, 6.3)."""
    smuggled = head("GET", "/v2")
    data = head(*POST, f"Content-Length: {5 + len(smuggled)}", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + smuggled
    answers = server.raw(data)
    assert status(answers) == 400
    assert answers.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("expects", [False, True])
def test_a_body_that_says_it_is_too_large(server: Served, expects: bool) -> None:
    more = ["Expect: 100-continue"] if expects else []
    answer = server.raw(head(*POST, f"Content-Length: {MOST + 1}", "Connection: close", *more))
    assert status(answer) == 413  # and not 100
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("The body is larger than")


def test_a_body_that_is_too_large_in_the_end(server: Served) -> None:
    """A client that reads only when it has sent all finds the answer there, and may ask again."""
    data = b"".join(b"%x\r\n%s\r\n" % (1000, bytes(1000)) for _ in range(20 * MOST // 1000)) + b"0\r\n\r\n"
    with server.connect() as link:
        link.sendall(head(*POST, "Transfer-Encoding: chunked") + data)
        link.sendall(head("GET", "/v2/health/live", "Connection: close"))
        answers = until_closed(link)
    assert status(answers) == 413
    assert answers.endswith(b'{"live":true}')
    assert server.metric("expertc_refused_total", why="size") >= 1


def test_a_body_of_exactly_the_limit_is_read(server: Served) -> None:
    assert server.ask("POST", "/predict", bytes(MOST)).status == 400  # it is no image


def test_a_client_that_is_told_to_go_on(server: Served, photo: bytes) -> None:
    with server.connect() as link:
        link.sendall(head(*POST, f"Content-Length: {len(photo)}", "Expect: 100-continue", "Connection: close"))
        assert status(link.recv(4096)) == 100
        link.sendall(photo)
        assert status(until_closed(link)) == 200


def test_a_head_that_never_ends(server: Served) -> None:
    with ExitStack() as stack:
        links = [stack.enter_context(server.connect()) for _ in range(3)]
        for link, sent in zip(links, (b"", b"P", b"POST /predict HTTP/1.1\r\nHost: x\r\n"), strict=True):
            link.sendall(sent)
        assert [until_closed(link) for link in links] == [b""] * 3


def test_a_head_a_byte_at_a_time(server: Served) -> None:
    end = time.monotonic() + SECONDS
    with server.connect() as link:
        link.setblocking(False)
        for letter in head("GET", "/v2", "A: " + "b" * 10_000):
            assert time.monotonic() < end
            time.sleep(0.05)
            try:
                link.send(bytes([letter]))
                assert link.recv(4096) == b""
                return
            except BlockingIOError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                return
    pytest.fail("the whole head was taken")


def test_a_body_that_never_comes(server: Served) -> None:
    with server.connect() as none, server.connect() as some:
        none.sendall(head(*POST, "Content-Length: 1000"))
        some.sendall(head(*POST, "Content-Length: 1000") + b"\x89PNG")
        for answer in map(until_closed, (none, some)):
            assert status(answer) == 408
            assert b"connection: close" in answer.lower()
    assert server.metric("expertc_refused_total", why="slow") >= 2


def test_a_connection_that_is_kept_is_not_kept_for_ever(server: Served) -> None:
    answers = server.raw(head("GET", "/v2/health/live") * 3)
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def test_a_client_that_has_sent_all_and_closed_that_side(server: Served, photo: bytes) -> None:
    with server.connect() as link:
        link.sendall(head(*POST, f"Content-Length: {len(photo)}", "Connection: close") + photo)
        link.shutdown(socket.SHUT_WR)
        assert status(until_closed(link)) == 200


def test_a_body_that_is_cut_off(server: Served, photo: bytes) -> None:
    with server.connect() as link:
        link.sendall(head(*POST, f"Content-Length: {len(photo) + 1}") + photo)
        link.shutdown(socket.SHUT_WR)
        assert until_closed(link) == b""


def test_clients_that_vanish(server: Served, photo: bytes) -> None:
    whole = head(*POST, f"Content-Length: {len(photo)}") + photo
    for cut in (1, 40, len(whole) - 1, len(whole)):
        with server.connect() as link:
            link.sendall(whole[:cut])
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # which makes it a reset


def test_a_client_that_never_takes_its_answers(server: Served) -> None:
    """It asks for what comes back long until it is hung up on."""
    before = server.metric("expertc_refused_total", why="slow")
    values = {"name": "image", "shape": [1, 3, SIDE, SIDE], "datatype": "FP32", "data": [0] * (3 * SIDE * SIDE)}
    body = json.dumps({"id": "a" * 90_000, "inputs": [values]}).encode()
    whole, sent = head("POST", "/v2/models/warm/infer", f"Content-Length: {len(body)}") + body, 0
    end = time.monotonic() + SECONDS
    with server.connect() as link, suppress(ConnectionResetError, BrokenPipeError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.setblocking(False)
        while time.monotonic() < end:
            try:
                sent += link.send(whole[sent % len(whole) :])
            except BlockingIOError:
                time.sleep(0.05)
    assert server.metric("expertc_refused_total", why="slow") == before + 1


def test_too_many_connections(bundle: Path, photo: bytes, tmp_path: Path) -> None:
    """More than the server has room for, of which none ends by itself: the one that asks gets in."""
    with served(tmp_path / "err", bundle, "--timeout=600") as server:
        for sent in (b"", head(*POST, "Content-Length: 99999") + bytes(50)):
            before = server.metric("expertc_refused_total", why="connections")
            with ExitStack() as links:
                for number in range(600):
                    links.enter_context(server.connect()).sendall(sent)
                    if number % 150 == 149:
                        assert server.ask("POST", "/predict", photo).status == 200
            assert server.metric("expertc_refused_total", why="connections") >= before + 600 - MOST_CONNECTIONS
        assert server.stop() == 0


def test_more_bodies_than_it_has_room_for(server: Served) -> None:
    """All but a byte of the largest body there may be, so often that they do not fit: the last is told so at once."""
    with ExitStack() as stack:
        links = [stack.enter_context(server.connect()) for _ in range(BODIES + 1)]
        for link in links:
            link.sendall(head(*POST, f"Content-Length: {MOST}", "Connection: close") + bytes(MOST - 1))
        answers = sorted(str(status(until_closed(link))) for link in links)
    assert answers == ["408"] * BODIES + ["503"]
    assert server.metric("expertc_refused_total", why="memory") == 1


def test_more_work_than_it_can_do(server: Served) -> None:
    """What there is no room for is told to come again, all else is answered, and the server says that it lives."""
    out = io.BytesIO()
    Image.new("L", (1500, 1500)).save(out, "PNG")
    assert len(out.getvalue()) < MOST
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(server.ask, "POST", "/predict", out.getvalue()) for _ in range(40)]
        assert server.ask("GET", "/v2/health/live").status == 200
        answers = [each.result() for each in asked]
    refused = [each for each in answers if each.status == 503]
    assert refused
    assert {each.headers["retry-after"] for each in refused} == {"1"}
    assert all(each.status == 200 for each in answers if each not in refused)
    assert len(answers) - len(refused) >= 17  # one that is worked on, and those that wait
    assert server.metric("expertc_refused_total", why="busy") == len(refused)
