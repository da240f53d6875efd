"""What the two sides say: it arrives as it was sent, and nothing that a stranger says gets further than it should."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertc import errors
from expertc.backends.tensorrt.readings import BuildMemoryError
from expertc.deploy import protocol
from expertc.errors import DeploymentError, ExpertcError, UsageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(protocol.KINDS)), st.text("abc äß.", min_size=1, max_size=40).filter(str.strip))
def test_an_error_arrives_as_what_it_was(kind: str, message: str) -> None:
    sent = protocol.failed(getattr(errors, kind)(message, "Do that."))
    got = protocol.error_from(protocol.read(protocol.write(sent))["failed"])
    assert type(got).__name__ == kind
    assert (got.message, got.hint) == (" ".join(message.split()), "Do that.")
    assert sent["failed"]["exit_code"] == got.exit_code


def test_an_error_of_another_room_arrives_as_the_nearest_one() -> None:
    sent = protocol.failed(BuildMemoryError("It is full.", "Free some."))
    assert sent["failed"]["kind"] in protocol.KINDS
    assert isinstance(BuildMemoryError("", ""), protocol.KINDS[sent["failed"]["kind"]])


@given(JSON)
def test_whatever_a_device_says_of_its_failure_is_one_clean_error(told: object) -> None:
    got = protocol.error_from(told)
    assert isinstance(got, ExpertcError)
    assert got.message
    assert f"{got.message}{got.hint}".isprintable()
    assert len(got.message) <= protocol.MAX_SENTENCE


def test_terminal_escapes_and_long_stories_end_at_the_border() -> None:
    got = protocol.error_from({"kind": "ExitCode", "message": "\x1b[31m" + "x" * 10**6 + "\u202e\nend", "hint": 7})
    assert type(got) is DeploymentError
    assert len(got.message) == protocol.MAX_SENTENCE
    assert got.message.startswith("[31mxxx")
    assert got.hint == ""


@pytest.mark.parametrize(
    "line",
    [b"", b"Welcome to Ubuntu\n", b"[1]\n", b'{"a": NaN}', b'{"a":1,"a":2}', b"\xff\xfe", b"[" * 10**5, b"7" * 2**21],
)
def test_what_is_no_message_is_refused_and_shown_within_bounds(line: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        protocol.read(line, UsageError, "the host")
    assert "the host" in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()


def test_what_is_written_is_one_ascii_line() -> None:
    line = protocol.write({"said": "größer\n\u2028", "share": None})
    assert line.isascii()
    assert line.splitlines(keepends=True) == [line]
    assert json.loads(line)["said"] == "größer\n\u2028"
    with pytest.raises(ValueError, match="message of"):
        protocol.write({"x": "y" * 2**20})
    with pytest.raises(ValueError, match="JSON"):
        protocol.write({"x": float("nan")})


def test_the_greeting() -> None:
    assert protocol.require_hello(protocol.hello("0.1.0")) == "0.1.0"
    assert protocol.require_hello(protocol.hello(None)) is None
    for odd in (
        {},
        {"expertc": 1, "protocol": 1},
        {"expertc": None, "protocol": True},
        {"expertc": "1", "protocol": "1"},
    ):
        with pytest.raises(DeploymentError, match="greet"):
            protocol.require_hello(odd)
    with pytest.raises(DeploymentError, match="protocol 2"):
        protocol.require_hello({"expertc": "9", "protocol": 2})


@pytest.mark.parametrize("share", [None, True, -0.1, 1.5, "half", [1], float("inf")])
def test_progress_that_makes_no_sense_is_no_share(share: object) -> None:
    assert protocol.said_from({"said": "com\x07pile", "share": share}) == ("compile", None)
    assert protocol.said_from({"said": 7, "share": 0}) == ("", 0.0)
