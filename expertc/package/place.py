"""Where a package is written, whole or not at all; and what of an earlier one may be replaced.

``package.json`` names every other file with its size and SHA-256, and the bundle that it was made from by the SHA-256
of its manifest. Configurations are there to be edited, so a package is replaced only as it was written: what somebody
has changed in it since, or put beside it, is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from .. import atomic
from ..errors import ExpertcError, FileSystemError
from ..text import parse_json, read_text, shown

MARKER = "package.json"
SCHEMA = 1

Files = Mapping[str, bytes | Path]
"""Contents by path, with "/" between folders; a ``Path`` is copied."""


class _MarkerError(ExpertcError):
    """The marker is not one."""


def write(target: Path, files: Files, about: Mapping[str, Any], derived: Sequence[str] = (), *, force: bool) -> None:
    """Write a package to the directory ``target``, whose parent is made if it is not there.

    ``about`` is what ``package.json`` says beside the files; ``derived`` are paths that others make out of them, and
    that go when they are replaced. Raises ``FileSystemError`` if something is there already (with ``force``: anything
    but an earlier package as it was written), or if it cannot be written.
    """
    with (
        _parent(target.parent),
        atomic.exclusive(target) as place,
        atomic.staged(place, _refuse_changed if force else None) as folder,
    ):
        listed = {}
        for name in sorted(files):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            content = files[name]
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path, follow_symlinks=False)
            listed[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
        marker = {"schema": SCHEMA, **about, "files": listed, "derived": list(derived)}
        (folder / MARKER).write_text(json.dumps(marker, indent=2, sort_keys=True) + "\n", encoding="ascii")


@contextmanager
def _parent(folder: Path) -> Iterator[None]:
    """A folder to write into; one that was made for it goes again if nothing comes to stand there."""
    with atomic.reported(folder):
        new = not os.path.lexists(folder)
        if new:
            folder.mkdir()
    try:
        yield
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _refuse_changed(place: Path) -> None:
    """Raise ``FileSystemError`` unless a package is at ``place``, and nothing else."""
    hint = "Choose another output, or remove it yourself."
    if place.is_symlink() or not place.is_dir():
        raise FileSystemError(f"'{place}' is not a directory, so it is not replaced.", hint)
    listed, derived = _listed(place, hint)
    folders = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    known = {MARKER, *listed, *derived}
    for above, inner, names in os.walk(place, onerror=_raise):
        for entry in sorted(Path(above) / name for name in (*inner, *names)):
            path = entry.relative_to(place).as_posix()
            ours = path in folders if entry.is_dir() else path in known and entry.is_file()
            if not ours or entry.is_symlink():
                problem = f"'{place}' holds {shown(path)}, which expertc package did not write."
                raise FileSystemError(problem, "Move it out, or choose another output.")
    for name, digest in listed.items():
        if not (place / name).is_file() or _digest(place / name) != digest:
            problem = f"{shown(name)} in '{place}' is not as expertc package wrote it."
            raise FileSystemError(problem, "Keep what you have changed elsewhere and remove the package.")


def _raise(error: OSError) -> None:
    raise error


def _listed(place: Path, hint: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The files of the package at ``place`` with their hashes, and those that others make out of them."""
    path = place / MARKER
    try:
        if path.is_symlink() or not path.is_file():
            raise _MarkerError("It is not there.")
        marker = parse_json(read_text(path, "The file", _MarkerError), f"'{path}'", _MarkerError)
        files, derived = marker.get("files"), marker.get("derived")
        if marker.get("schema") != SCHEMA or not isinstance(files, dict) or not isinstance(derived, list):
            raise _MarkerError("It says nothing.")
        hashes = {name: str(facts.get("sha256")) if isinstance(facts, dict) else "" for name, facts in files.items()}
        plain = all(not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in hashes)
        if not plain or not all(isinstance(text, str) for text in derived):
            raise _MarkerError("It names no files.")
    except _MarkerError as error:
        raise FileSystemError(f"'{place}' is not a package of expertc's, so it is not replaced.", hint) from error
    return hashes, tuple(derived)


def _digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return atomic.digest(file)
