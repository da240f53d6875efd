"""What nobody needs any more: uploads that were given up, old bootstraps, environments that no release uses."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ..releases import Store
from .acceptance import ENV

WEEK = 7 * 86400.0
"""Seconds after which an upload counts as given up, and an environment that nothing names as forgotten: a deployment
that was broken off on a Friday goes on where it was on Monday. A choice of ours."""


def clear_incoming(root: Path, now: float | None = None) -> int:
    """Remove the uploads that nobody has touched for a week; how many."""
    old = list(_old(root / "incoming", now))
    for folder in old:
        shutil.rmtree(folder)
    return len(old)


def clear_scripts(root: Path, own: str, now: float | None = None) -> int:
    """Remove the bootstraps older than a week but for ``own``, a file's name; how many. Each host sends its own."""
    old = [path for path in root.glob("bootstrap-*.py*") if path.name != own and _is_old(path, now)]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def clear_envs(root: Path, store: Store, units: Path, own: str | None, now: float | None = None) -> tuple[str, ...]:
    """Remove the environments older than a week that no release's record, no unit and not this process names.

    Nothing is removed while an environment is being installed.
    """
    current = root / "envs" / "current"
    used = {own, os.readlink(current) if current.is_symlink() else None} | {
        release.facts.get(ENV) for name in store.names() for release in store.releases(name)
    }
    served = [unit.read_text(encoding="utf-8", errors="replace") for unit in units.glob("expertc-*.service")]
    gone = []
    try:
        lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return ()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in _old(root / "envs", now):
            if folder.name not in used and not any(f"/envs/{folder.name}/" in text for text in served):
                shutil.rmtree(folder)
                gone.append(folder.name)
    except BlockingIOError:
        return ()
    finally:
        os.close(lock)
    return tuple(gone)


def _old(folder: Path, now: float | None) -> Iterator[Path]:
    if folder.is_dir():
        found = (each for each in sorted(folder.iterdir()) if each.is_dir() and not each.is_symlink())
        yield from (each for each in found if _is_old(each, now))


def _is_old(path: Path, now: float | None) -> bool:
    return path.lstat().st_mtime < (time.time() if now is None else now) - WEEK
