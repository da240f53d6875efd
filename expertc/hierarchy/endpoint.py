"""A language model behind an OpenAI-compatible endpoint: one question, one answer, within bounds."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any, NoReturn, TypeAlias
from urllib.parse import urlsplit

from ..errors import UsageError
from ..text import clean_text, shown

Message: TypeAlias = dict[str, str]
Ask: TypeAlias = Callable[[Sequence[Message]], str]  # a conversation to the next thing that is said in it

MAX_ANSWER = 8 * 2**20  # bytes; 1,000 classes in a tree need 50,000
PIECE = 2**16  # bytes read before the clock is looked at


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another place."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """``POST base_url/chat/completions`` to ``model``, which has ``timeout`` seconds to begin and to end its answer.

    ``key`` is sent as a bearer token, "" sends none. Raises ``UsageError`` for an address or a key that cannot be used.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 300.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # an impossible port or host
            sound = False
        if not sound or not self.base_url.isascii() or clean_text(self.base_url) != self.base_url:
            raise UsageError(f"{shown(self.base_url)} is no address.", "Write --base-url https://HOST/v1.")
        if not (self.key.isascii() and self.key.isprintable()):
            raise UsageError("The key holds characters that no key has.", "Set it without line breaks.")

    def ask(self, messages: Sequence[Message]) -> str:
        """The model's answer. Raises ``UsageError`` if there is none: refused, unreachable, too slow, too long."""
        body = json.dumps({"model": self.model, "messages": list(messages), "temperature": 0}).encode()
        request = urllib.request.Request(f"{self.base_url.rstrip('/')}/chat/completions", body, method="POST")  # noqa: S310 - the scheme was checked
        request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        deadline = time.monotonic() + self.timeout
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as response:
                return _content(self._read(response, deadline))
        except urllib.error.HTTPError as cause:
            with cause:
                self._fail(f"answers {cause.code} ({cause.reason})", "Check --base-url, --model and the key.", cause)
        except TimeoutError as cause:
            self._fail(f"gave no answer in {self.timeout:g} seconds", "Try again, or give --timeout.", cause)
        except (OSError, HTTPException) as cause:
            reason = getattr(cause, "reason", None) or cause
            if isinstance(reason, TimeoutError):
                self._fail(f"gave no answer in {self.timeout:g} seconds", "Try again, or give --timeout.", cause)
            self._fail(f"cannot be reached ({reason})", "Is it running? Check --base-url.", cause)
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as cause:
            self._fail("does not answer like an OpenAI-compatible endpoint", "It should end in /v1, mostly.", cause)

    def _read(self, response: HTTPResponse, deadline: float) -> bytes:
        """The body; a ``TimeoutError`` also for one that trickles in."""
        body = bytearray()
        while piece := response.read1(PIECE):
            body += piece
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(body) > MAX_ANSWER:
                raise ValueError("too long")
        return bytes(body)

    def _fail(self, what: str, hint: str, cause: Exception) -> NoReturn:
        raise UsageError(f"The endpoint {shown(self.base_url)} {clean_text(what)}.", hint) from cause


def _content(body: bytes) -> str:
    content = json.loads(body)["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError("no text")
    return content
