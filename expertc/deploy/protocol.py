"""What host and device say to each other: JSON objects, one per line, ASCII, over standard input and output.

The device begins with ``{"expertc": VERSION or null, "protocol": 1}``. A request is ``{"do": VERB, ...}``; its answer
is any number of ``{"said": STAGE, "share": 0 to 1 or null}``, and then ``{"done": {...}}`` or ``{"failed": {...}}``.
Neither side trusts the other: lines are bounded, and text is cleaned before a person sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from typing import Any

from .. import errors
from ..errors import DeploymentError, ExpertcError
from ..text import clean_text, parse_json, shortened, shown

PROTOCOL = 1

MAX_LINE = 2**20
"""Bytes of a line, its end not counted. A bundle has at most 64 files, a list of releases a few kB for each."""

MAX_SENTENCE = 600
"""Characters of a sentence of the other side: room for two paths and what pip says of itself."""

KINDS: dict[str, type[ExpertcError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ExpertcError)
}
"""The errors that arrive as what they were."""


def bootstrap_file() -> tuple[str, bytes]:
    """The program that a device is sent first: its file there, called by what it is, and what is in it."""
    script = (resources.files(__package__) / "bootstrap.py").read_bytes()
    return f"bootstrap-{sha256(script).hexdigest()[:16]}.py", script


def hello(version: str | None) -> dict[str, Any]:
    """What the device says first; ``version`` of expertc there, None where it is not installed yet."""
    return {"expertc": version, "protocol": PROTOCOL}


def said(stage: str, share: float | None = None) -> dict[str, Any]:
    """Progress: what is being done, and how much of it is done, 0 to 1."""
    return {"said": stage, "share": share}


def done(result: Mapping[str, Any]) -> dict[str, Any]:
    """The end of an answer."""
    return {"done": dict(result)}


def failed(error: ExpertcError) -> dict[str, Any]:
    """The end of an answer that is an error; its kind is the nearest one in ``errors``."""
    kind = next(kind for kind in type(error).__mro__ if KINDS.get(kind.__name__) is kind)
    told = {"kind": kind.__name__, "message": error.message, "hint": error.hint, "exit_code": int(kind.exit_code)}
    return {"failed": told}


def write(message: Mapping[str, Any]) -> bytes:
    """A message as the line that is sent, its end included. ``ValueError`` if it has a NaN or is too long."""
    line = json.dumps(message, ensure_ascii=True, allow_nan=False).encode("ascii")
    if len(line) > MAX_LINE:
        raise ValueError(f"a message of {len(line)} bytes")
    return line + b"\n"


def read(line: bytes, error: type[ExpertcError] = DeploymentError, who: str = "the device") -> dict[str, Any]:
    """The message in a line, with its end or without. Raises ``error`` if it is too long or no JSON object."""
    line = line.rstrip(b"\r\n")
    if len(line) > MAX_LINE:
        raise error(f"A line of {who} is longer than {MAX_LINE / 2**20:g} MiB.", _NOT_OURS)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error(f"What {who} says is not text: {shown(repr(line[:40]))}.", _NOT_OURS) from cause
    try:
        return parse_json(text, "", error)
    except error as cause:
        raise error(f"What {who} says is not a message of expertc: {shown(text)}.", _NOT_OURS) from cause


def require_hello(message: Mapping[str, Any]) -> str | None:
    """The version of expertc on the device, None if it has none yet. ``DeploymentError`` if it speaks otherwise."""
    version, protocol = message.get("expertc"), message.get("protocol")
    if type(protocol) is not int or not (version is None or isinstance(version, str)):
        raise DeploymentError("The device does not greet as expertc does.", _NOT_OURS)
    if protocol != PROTOCOL:
        raise DeploymentError(
            f"The device speaks protocol {protocol}, this expertc {PROTOCOL}.",
            "Use the same version of expertc on both sides.",
        )
    return None if version is None else sentence(version, 40)


def said_from(message: Mapping[str, Any]) -> tuple[str, float | None]:
    """The stage, cleaned, and the share of a message that is progress; None if that makes no sense."""
    share = message.get("share")
    known = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1
    return sentence(message.get("said"), 80), share if known else None


def error_from(told: object) -> ExpertcError:
    """The error that a device says it had: of the same class, its sentences cleaned and cut off where they are long.

    ``told`` is what stands under "failed". One that makes no sense becomes ``DeploymentError``.
    """
    about = told if isinstance(told, dict) else {}
    name, message = about.get("kind"), sentence(about.get("message"))
    kind = KINDS.get(name, DeploymentError) if isinstance(name, str) else DeploymentError
    if not message:
        return DeploymentError("The device failed and does not say why.", "Look at the device itself.")
    return kind(message, sentence(about.get("hint")))


def sentence(value: object, most: int = MAX_SENTENCE) -> str:
    """Text of the other side as a person may see it; "" if it is none."""
    return shortened(clean_text(value[: 4 * most]), most) if isinstance(value, str) else ""


_NOT_OURS = "Check that its login prints nothing, and that this is the device that was meant."
