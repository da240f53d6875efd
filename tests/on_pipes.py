"""The device's programs as the host meets them: real processes with a HOME of their own, spoken to over pipes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import expertc

ROOT = Path(expertc.__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "expertc" / "deploy" / "bootstrap.py"
AGENT = (sys.executable, "-m", "expertc.deploy.agent")


class Talk:
    """A running program of the device; closing it ends its input."""

    def __init__(self, home: Path, command: Sequence[str] = AGENT, **environment: str) -> None:
        self.home = home
        self.share = home / ".local" / "share" / "expertc"
        given = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), **environment}
        self.process = subprocess.Popen(
            command, env=given, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.hello = self.line()
        self.said: list[str] = []

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self.process.kill()
        self.end()
        self.process.wait(60)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def end(self) -> None:
        """End its input."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        found: dict[str, Any] = json.loads(line)
        return found

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def reply(self) -> dict[str, Any]:
        """The message that ends the answer."""
        self.said = []
        while True:
            message = self.line()
            if "said" not in message:
                return message
            self.said.append(message["said"])

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """What was done; the test fails if it failed."""
        reply = self.try_to(verb, **fields)
        assert "done" in reply, reply
        found: dict[str, Any] = reply["done"]
        return found

    def try_to(self, verb: str, **fields: Any) -> dict[str, Any]:
        self.send(json.dumps({"do": verb, **fields}).encode() + b"\n")
        return self.reply()


def listed(folder: Path) -> dict[str, list[Any]]:
    """Name -> [bytes, SHA-256] of the files in a folder."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()}


def identity(folder: Path) -> str:
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:16]


def upload(agent: Talk, bundle: Path, send: Mapping[str, int]) -> None:
    """What SFTP does: append each file from its offset to its ``.part``."""
    for name, offset in send.items():
        place = agent.share / "incoming" / identity(bundle) / f"{name}.part"
        assert (place.stat().st_size if place.exists() else 0) == offset
        with place.open("ab") as part:
            part.write((bundle / name).read_bytes()[offset:])


def about(bundle: Path, name: str = "cam") -> dict[str, Any]:
    """The fields that receive and commit want."""
    return {"name": name, "id": identity(bundle), "files": listed(bundle)}


def deliver(agent: Talk, bundle: Path, name: str = "cam") -> str:
    """Receive, upload, commit; the ID."""
    upload(agent, bundle, agent.ask("receive", **about(bundle, name))["send"])
    assert agent.ask("commit", **about(bundle, name))["release"]["id"] == identity(bundle)
    return identity(bundle)


def variant(bundle: Path, place: Path, note: str) -> Path:
    """The same expert with another manifest, hence another release."""
    shutil.copytree(bundle, place)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "note": note}))
    return place
