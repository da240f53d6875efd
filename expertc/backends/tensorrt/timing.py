"""The timing cache: how fast each kernel was for each layer, so that the next build need not measure it again.

It is of use to one release of TensorRT on one kind of GPU with one driver, so there is one file for each, below
``XDG_CACHE_HOME/expertc/timing``. Losing it costs time only, so nothing here is ever fatal: what goes wrong is a note.
TensorRT reads the cache in native code, so only what this user wrote, and what the hash before it says is whole, gets
that far.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

PATIENCE = 5.0
"""Seconds to wait for another process that is writing the same cache, which takes it milliseconds."""

LARGEST = 2**28  # bytes of a cache; those of big networks have a few million
_HASH = sha256().digest_size


def place(tensorrt: str, sm: str, driver: str) -> Path:
    """The cache's file for a release of TensorRT, a compute capability and a driver."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in (tensorrt, f"sm{sm}", driver))
    return Path(base, "expertc", "timing", f"{name}.cache")


def attach(config: Any, path: Path | None) -> list[str]:
    """Let a build use the cache at ``path``, or none if that is None. Returns notes."""
    if path is None:
        return []
    notes: list[str] = []
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        data, notes = b"", [f"The timing cache '{path}' is not used: {_why(error)}."]
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        notes = [f"The timing cache '{path}' is not one of this TensorRT's on this GPU, and is begun anew."]
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return notes


def keep(config: Any, path: Path | None) -> list[str]:
    """Write what the build has learnt to ``path``, with what others wrote there meanwhile. Returns notes."""
    cache = None if path is None else config.get_timing_cache()
    if path is None or cache is None:
        return []
    try:
        _own(path.parent)
        with _locked(path):
            with suppress(OSError, ValueError):  # a damaged one is replaced
                theirs = config.create_timing_cache(_read(path))
                if theirs is not None:
                    cache.combine(theirs, False)
            data = bytes(cache.serialize())
            _write(path, sha256(data).digest() + data)
    except (OSError, ValueError) as error:
        return [f"The timing cache '{path}' is not kept: {_why(error)}."]
    return []


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _own(folder: Path) -> None:
    """Make the folder; ``ValueError`` if somebody else may write to it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.stat()
    if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("others may write to its folder")


def _read(path: Path) -> bytes:
    """What was kept, b"" if nothing was; ``ValueError`` if it is damaged or may be somebody else's."""
    if not path.is_file():
        return b""
    _own(path.parent)
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST or sha256(data[_HASH:]).digest() != data[:_HASH]:
        raise ValueError("it is damaged")
    return data[_HASH:]


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only one who writes ``path``; ``BlockingIOError`` if another process does so for longer than it should."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield
    finally:
        os.close(lock)
