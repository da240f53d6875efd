"""A language model played by a local HTTP server that answers well, badly, slowly and not at all."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from expertc.errors import TaxonomyError, UsageError
from expertc.hierarchy.endpoint import Endpoint
from expertc.hierarchy.propose import MOST_PROBLEMS, ROUNDS, propose, wrong
from expertc.taxonomy import Node, Taxonomy

CLASSES = ("cat", "dog", "car", "oak")
LEAVES = tuple(Node(name, label=name.title()) for name in CLASSES)
GOOD = {"living": {"pets": ["dog", "cat"], "plants": ["oak"]}, "made": {"vehicles": ["car"]}}

Reply = Callable[[BaseHTTPRequestHandler], None]


def say(content: Any, status: int = 200) -> Reply:
    """A reply in the form of the chat completions API."""
    text = content if isinstance(content, str) else json.dumps(content)
    return send(json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}), status)


def send(body: str, status: int = 200, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body.encode())), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return reply


class Server:
    """Gives the replies in turn, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                outer.replies[min(len(outer.asked), len(outer.replies)) - 1](self)

            do_GET = lambda self: outer.asked.append((self.path, dict(self.headers), {}))  # noqa: E731

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def endpoint(self, *replies: Reply, **named: Any) -> Endpoint:
        self.replies = list(replies)
        return Endpoint(self.url, "parrot", **named)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.over.set()
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def test_a_good_answer(server: Server) -> None:
    tree = propose(server.endpoint(say(GOOD), key="s3cret").ask, LEAVES, "t")
    assert tree.to_mapping()["tree"] == {
        "living": {
            "pets": {"dog": {"index": 1, "label": "Dog"}, "cat": {"index": 0, "label": "Cat"}},
            "plants": {"oak": {"index": 3, "label": "Oak"}},
        },
        "made": {"vehicles": {"car": {"index": 2, "label": "Car"}}},
    }
    assert tree.levels == ("super-category", "group", "class")
    [(path, headers, body)] = server.asked
    assert path == "/v1/chat/completions"
    assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer s3cret", "application/json")
    assert body["model"] == "parrot"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert json.loads(body["messages"][1]["content"]) == list(CLASSES)


def test_no_key_no_header(server: Server) -> None:
    propose(server.endpoint(say("Gladly!\n```json\n" + json.dumps(GOOD) + "\n```")).ask, LEAVES, "t")
    assert "Authorization" not in server.asked[0][1]


BAD = [
    ("I would rather not.", ["not valid JSON"]),
    ('{"living": {"pets": ["cat", "dog"]}, "living": {"plants": ["oak"]}}', ["'living' stands twice"]),
    ({}, ["no super-categories", "'cat' is missing"]),
    ({"living": ["cat", "dog", "car", "oak"]}, ["'living' is not an object", "'car' is missing"]),
    ({"living": {"pets": {"cats": ["cat"]}}}, ["group 'pets' is not a list"]),
    ({"living": {"pets": ["cat", 7]}}, ["group 'pets' is not a list"]),
    ({"living": {"all": ["cat", "dog", "car", "oak", "elm"]}}, ["no class 'elm'"]),
    ({"living": {"all": ["cat", "dog", "car", "oak"], "more": ["cat"]}}, ["'cat' stands 2 times"]),
    ({"all": {"all": ["cat", "dog", "car", "oak"]}}, ["'all' is used 2 times"]),
    ({"living": {"cat": ["cat", "dog", "car", "oak"]}}, ["'cat' is also a class"]),
    ({"Living Things": {"a": ["cat", "dog", "car", "oak"]}}, ["'Living Things' is not lower case"]),
    ({"a\u202eb\x1b[31m": {"a": ["cat", "dog", "car", "oak"]}}, ["not lower case"]),
    ({"": {"a" * 61: ["cat", "dog", "car", "oak"]}}, ["name '' is not", "up to 60"]),
    ("[" * 100_000 + "{" * 100_000 + "}", ["answer is"]),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), BAD)
def test_a_bad_answer_is_sent_back_with_what_is_wrong(server: Server, answer: Any, said: list[str]) -> None:
    tree = propose(server.endpoint(say(answer), say(GOOD)).ask, LEAVES, "t")
    assert [len(root.leaves) for root in tree.roots] == [3, 1]
    first, again = (asked[2]["messages"] for asked in server.asked)
    assert again[:2] == first
    assert [message["role"] for message in again[2:]] == ["assistant", "user"]
    for part in said:
        assert part in again[3]["content"]
    assert not re.search("[\u202e\x1b]", again[3]["content"])


def test_an_answer_that_stays_wrong(server: Server) -> None:
    """A long list of problems is cut, the conversation does not grow, the last error is told."""
    leaves = tuple(Node(f"c{at}") for at in range(500))
    with pytest.raises(TaxonomyError, match=rf"After {ROUNDS} questions .* class 'c1' is missing and 498 more"):
        propose(server.endpoint(say({"a": {"b": ["c0"]}})).ask, leaves, "t")
    assert [len(asked[2]["messages"]) for asked in server.asked] == [2] + (ROUNDS - 1) * [4]
    assert server.asked[-1][2]["messages"][3]["content"].count("\n- ") == MOST_PROBLEMS + 1


def test_the_judge_of_answers_accepts_what_is_right() -> None:
    assert not list(wrong(GOOD, CLASSES))
    shipped = Taxonomy.shipped("imagenet1k")
    tree = {root.name: {group.name: [leaf.name for leaf in group.children] for group in root.children} for root in shipped.roots}  # fmt: skip  # noqa: E501
    assert not list(wrong(tree, shipped.classes))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (send("no such key", 401), "answers 401"),
        (send("busy", 503), "answers 503"),
        (send("<html>welcome</html>"), "does not answer like"),
        (send('{"choices": []}'), "does not answer like"),
        (send('{"choices": [{"message": {"content": null}}]}'), "does not answer like"),
        (send("[" * 100_000), "does not answer like"),
        (send('{"choices"', Content_Length="5000"), "does not answer like"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "cannot be reached"),
    ],
)
def test_an_endpoint_that_is_none(server: Server, reply: Reply, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        propose(server.endpoint(reply, key="s3cret").ask, LEAVES, "t")
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert len(server.asked) == 1  # only answers are worth asking again


def test_a_slow_one_and_one_that_trickles(server: Server) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        send("", Content_Length="100000")(handler)
        while not server.over.wait(0.02):
            handler.wfile.write(b" ")

    for reply in (lambda handler: server.over.wait(10), trickle):
        started = time.monotonic()
        with pytest.raises(UsageError, match=r"no answer in 0.2 seconds"):
            server.endpoint(reply, timeout=0.2).ask([])
        assert time.monotonic() - started < 5  # not for ever; generous, for a busy machine
        server.asked.clear()


def test_too_long_an_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertc.hierarchy.endpoint.MAX_ANSWER", 1000)
    with pytest.raises(UsageError, match="does not answer like"):
        server.endpoint(say("x" * 2000)).ask([])


def test_the_key_follows_no_redirect(server: Server) -> None:
    for status in (301, 302, 303, 307, 308):
        with pytest.raises(UsageError, match=f"answers {status}"):
            server.endpoint(send("", status, Location=f"{server.url}/elsewhere"), key="s3cret").ask([])
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        with pytest.raises(UsageError, match="cannot be reached"):
            Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "parrot", timeout=5).ask([])


@pytest.mark.parametrize(
    "url", ["", "localhost:8000/v1", "file:///etc/passwd", "http://", "http://a:b/v1", "ftp://a/v1", "http://a/\nX: y"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Endpoint(url, "parrot")


def test_a_key_that_is_none_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        Endpoint("http://a/v1", "parrot", "s3cret\r\nX: y")
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert "s3cret" not in repr(Endpoint("http://a/v1", "parrot", "s3cret"))


def test_the_command_shows_what_changes_before_it_writes(server: Server, cli, tmp_path, monkeypatch) -> None:
    labels, output = tmp_path / "labels.txt", tmp_path / "t.yaml"
    labels.write_text("\n".join(CLASSES))
    monkeypatch.setenv("PARROT_KEY", "s3cret\n")
    server.endpoint(say(GOOD))
    arguments = ("taxonomy", "propose", "--labels", labels, "--model", "parrot", "--base-url", server.url,
                 "--key-env", "PARROT_KEY", "-o", output)  # fmt: skip
    code, out, err = cli(*arguments)
    assert (code, output.exists()) == (2, False)
    assert "Nothing was written" in err
    assert {"-cat", "+living/pets/cat"} <= set(out.splitlines())
    assert cli(*arguments, "--yes").code == 0
    assert Taxonomy.load(output).path("cat") == ("living", "pets", "cat")
    assert server.asked[-1][1]["Authorization"] == "Bearer s3cret"

    moved = {"living": {"pets": ["dog", "cat"]}, "made": {"vehicles": ["car"], "planted": ["oak"]}}
    server.endpoint(say(moved))
    assert cli(*arguments, "--yes").code == 9  # it is there
    code, out, _ = cli(*arguments, "--yes", "--force")
    assert code == 0
    assert [line for line in out.splitlines() if re.match("[-+][a-z]", line)] == [
        "-living/plants/oak", "+made/planted/oak",
    ]  # fmt: skip
    before = output.read_bytes()
    server.endpoint(say("no"))
    code, _, err = cli(*arguments, "--yes", "--force", "--rounds", 2)
    assert (code, output.read_bytes()) == (3, before)
    assert "After 2 questions" in err
