"""A release on its way to this device: what has to be sent, and what was sent.

Files are uploaded to ``~/.local/share/expertc/incoming/ID/FILE.part``; a break leaves what there is of them, and the
next try goes on from there. A file loses its ``.part`` when its SHA-256 was found right.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import atomic
from ..bundle import MANIFEST, MAX_FILES, open_bundle, read_manifest
from ..errors import BundleError, FileSystemError, UsageError
from ..releases import Release, Store, require_id, require_name
from ..text import shown

MARGIN = 64 * 2**20
"""Bytes that stay free beside a release: a system whose disk is full does strange things. A choice of ours."""

PART = ".part"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Expected:
    """A file that is to come."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Needed:
    """Whether the release is here already; else the offset from which each missing file is to be sent, and how much."""

    present: bool
    send: Mapping[str, int]
    bytes: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"present": self.present, "send": dict(self.send), "bytes": self.bytes}


def expected(files: Mapping[Any, Any], release: str) -> dict[str, Expected]:
    """What a host says that it will send: name -> [bytes, SHA-256]. ``UsageError`` if that is no bundle's files."""
    require_id(release)
    made = {}
    for name, about in files.items():
        if not isinstance(name, str) or not _PLAIN.fullmatch(name) or name.endswith(PART):
            raise UsageError(f"{shown(name)} is not a name for a file of a release.", _BOTH)
        if not isinstance(about, list) or [type(each) for each in about] != [int, str]:
            raise UsageError(f"There is no size and SHA-256 of {name}.", _BOTH)
        if not 0 <= about[0] < 2**40 or not _SHA256.fullmatch(about[1]):
            raise UsageError(f"The size or SHA-256 of {name} makes no sense.", _BOTH)
        made[name] = Expected(*about)
    if len(made) > MAX_FILES + 3:  # the manifest, the report and the golden record are not counted there
        raise UsageError(f"A release has no more than {MAX_FILES + 3} files.", _BOTH)
    if MANIFEST not in made or made[MANIFEST].sha256[:16] != release:
        raise UsageError(f"Release {release} has another {MANIFEST}.", _BOTH)
    return made


def receive(store: Store, root: Path, name: str, release: str, files: Mapping[str, Expected]) -> Needed:
    """Prepare for a release: what is here, in any release of any expert, need not be sent.

    Raises ``FileSystemError`` if the disk has no room for it.
    """
    require_name(name)
    if _is_here(store, name, release, files):
        return Needed(True, {}, 0)
    folder = root / release
    with atomic.reported(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        os.utime(folder)  # gc looks at its age
        _tidy(folder, {*files, *(name + PART for name in files)})
        offsets = {each: _offset(folder / each, about) for each, about in files.items()}
        missing = {each: offset for each, offset in offsets.items() if offset is not None}
        _require_room(folder, sum(files[each].bytes - offset for each, offset in missing.items()))
        found = _found(store, {files[each] for each in missing})
        for each in tuple(missing):
            if files[each] in found:
                missing[each] = 0
                if _copied(found[files[each]], folder / each, files[each]):
                    del missing[each]
    return Needed(False, missing, sum(files[each].bytes - offset for each, offset in missing.items()))


def commit(store: Store, root: Path, name: str, release: str, files: Mapping[str, Expected]) -> Release | list[str]:
    """Install what was sent; or the names of files that did not arrive as they should, which are removed.

    Raises ``BundleError`` if all arrived, and are no bundle.
    """
    require_name(name)
    folder = root / release
    if not folder.is_dir() and _is_here(store, name, release, files):
        return store.release(name, release)
    with atomic.reported(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tidy(folder, {*files, *(name + PART for name in files)})
        damaged = []
        for each, about in files.items():
            if _offset(folder / each, about) is not None:
                damaged.append(each)
                (folder / (each + PART)).unlink(missing_ok=True)
        if damaged:
            return sorted(damaged)
        _tidy(folder, files)
        try:
            return store.install(name, folder)
        except BundleError:
            shutil.rmtree(folder)
            raise


_BOTH = "Use the same version of expertc on both sides."


def _is_here(store: Store, name: str, release: str, files: Mapping[str, Expected]) -> bool:
    """Whether the release is installed and whole; one that was not accepted must be the host's to the last file."""
    try:
        found = store.release(name, release)
        open_bundle(found.path)
    except (UsageError, BundleError):
        return False
    return found.accepted or all(_is(found.path / each, about) for each, about in files.items())


def _offset(path: Path, about: Expected) -> int | None:
    """How many bytes of a file are here; None if it is whole. What is wrong is removed."""
    part = path.with_name(path.name + PART)
    if path.exists():
        if _is(path, about):
            return None
        path.unlink()
    if not part.exists():
        return 0
    here = part.stat().st_size
    if here < about.bytes:
        return here
    if _is(part, about):
        os.rename(part, path)
        return None
    part.unlink()
    return 0


def _found(store: Store, wanted: set[Expected]) -> dict[Expected, Path]:
    """Where files like these are in the releases that are here, as far as their manifests say."""
    releases = (release for name in store.names() for release in store.releases(name))
    return {about: path for release in releases for path, about in _listed(release.path) if about in wanted}


def _listed(folder: Path) -> Iterable[tuple[Path, Expected]]:
    try:
        listed = read_manifest(folder)["files"]
    except BundleError:  # it will be replaced when it is deployed again
        return
    for name, about in listed.items():
        yield folder / name, Expected(about["bytes"], about["sha256"])


def _copied(source: Path, path: Path, about: Expected) -> bool:
    """Copy a file that is here already; False if it is not what it should be.

    A copy and no hard link: weights in a file with two names are refused (``graph.external``), and damage to one
    release must not be damage to another.
    """
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    try:
        shutil.copyfile(source, part, follow_symlinks=False)
    except FileNotFoundError:  # another process removed that release
        return False
    if not part.is_symlink() and _is(part, about):
        os.rename(part, path)
        return True
    part.unlink()
    return False


def _is(path: Path, about: Expected) -> bool:
    """Whether this is a plain file of that size and SHA-256."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != about.bytes:
        return False
    with path.open("rb") as file:
        return atomic.digest(file) == about.sha256


def _tidy(folder: Path, names: Iterable[str]) -> None:
    """Remove what does not belong there."""
    kept = set(names)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in kept or entry.is_symlink() or not entry.is_file():
            entry.unlink()


def _require_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted and free < wanted + MARGIN:
        needed = (wanted + MARGIN) / 1e6
        raise FileSystemError(
            f"The disk is full: the release needs {needed:.0f} MB, {free / 1e6:.0f} are free.",
            "Remove releases (expertc releases gc), or make room otherwise.",
        )
