"""Which code was run: the commit, where it is a checkout of the source, read from git's files without git; a hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

UNKNOWN = "unknown"

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"ref: (refs(?:/[^./\s][^/\s]*)+)")  # no part begins with a dot: none is ".."


def commit(root: Path) -> str:
    """The commit that is checked out in ``root``, in full, or ``UNKNOWN``; changes since are ``fingerprint``'s.

    ``root`` holds ``.git``: a folder, or in a worktree a file that names one.
    """
    git = root / ".git"
    if (named := _text(git).partition("gitdir: ")[2]) and not (git := root / named).is_dir():
        return UNKNOWN
    head = _text(git / "HEAD")
    if found := _REF.fullmatch(head):
        common = git / (_text(git / "commondir") or ".")
        head = _text(common / found[1]) or _packed(_text(common / "packed-refs"), found[1])
    return head if _SHA.fullmatch(head) else UNKNOWN


def fingerprint(package: Path) -> str:
    """The SHA-256 of all Python files of ``package`` with their names: the same where the code is the same.

    Whether a checkout holds changes that were not committed only git could tell, whose settings may run programs.
    """
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _packed(text: str, ref: str) -> str:
    """The commit of ``ref`` in git's ``packed-refs``."""
    return next((sha for sha, _, name in (line.partition(" ") for line in text.splitlines()) if name == ref), "")


def _text(file: Path) -> str:
    """What is in a small file, "" where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
