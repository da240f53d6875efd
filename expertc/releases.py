"""The releases of a device's experts: which are here, which one is active, and how another one becomes it.

::

    ~/.local/share/expertc/experts/NAME/
      current -> releases/ID     what runs; replaced in one step, so that it always names a whole release
      releases/ID/               a bundle, never written to again; ID begins the SHA-256 of its manifest
      records/ID.json            what is known of it here: whether it was accepted, and what was measured
      history.json               the releases that were active, oldest first; what follows the active one was taken back
      .lock                      held (``flock``) by whoever changes any of that

Reading takes no lock. Whenever a change is cut short, what was active is active still, and whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import atomic
from .bundle import GOLDEN, MANIFEST, REPORT, Bundle, open_bundle
from .errors import BundleError, FileSystemError, UsageError
from .text import parse_json, read_text, shown

ROOT = Path("~/.local/share/expertc/experts")
KEEP = 3
"""Releases that are kept of an expert, beside the active one: one to go back to, should that be no good either, and
one more that a host may be deploying. A choice of ours."""

ACCEPTED, INSTALLED = "accepted", "installed"
"""Keys of a record: whether its checks on this device were passed, and when it came here (UTC, ISO 8601)."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGITS = 16
"""Of an ID."""

_ID = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
_HISTORY = 100  # entries
_STRAYS = (".gone-*", ".current-*", "*.partial", "records/*.partial", "releases/.*")


def require_name(name: str) -> str:
    """``name``, if an expert on a device may have it; else ``UsageError``."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{shown(name)} is not a name for an expert on a device.",
            "Take 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first.",
        )
    return name


def require_id(release: str) -> str:
    """``release``, if it is written as the ID of a release; else ``UsageError``."""
    if not _ID.fullmatch(release):
        raise UsageError(f"{shown(release)} is not the ID of a release.", "It has 16 of 0-9 and a-f: see the list.")
    return release


def release_id(manifest: bytes) -> str:
    """The ID of the bundle with this ``manifest.json``."""
    return sha256(manifest).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Release:
    """One release on this device; ``path`` is the bundle. ``facts`` is its record."""

    name: str
    id: str
    path: Path
    active: bool
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether it passed its checks here."""
        return self.facts.get(ACCEPTED) is True

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**self.facts, "name": self.name, "id": self.id, "active": self.active, "path": str(self.path)}


class Store:
    """The releases under ``root``. Names are checked wherever they are given: ``UsageError``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (ROOT if root is None else root).expanduser()

    # -- reading -------------------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """The experts that are here, by name."""
        try:
            found = [each for each in self.root.iterdir() if _NAME.fullmatch(each.name) and each.is_dir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unreadable(self.root, error) from error
        return tuple(sorted(each.name for each in found))

    def every(self, name: str | None = None) -> tuple[Release, ...]:
        """The releases of one expert, or of all."""
        names = self.names() if name is None else (name,)
        return tuple(release for each in names for release in self.releases(each))

    def current(self, name: str) -> Path | None:
        """The bundle that is active, None if none is; what it is called changes with every release."""
        active = self._active(name)
        return None if active is None else self._folder(name) / "releases" / active

    def releases(self, name: str) -> tuple[Release, ...]:
        """All of an expert: the active one, those before it, then the others, the newest first."""
        folder, active = self._folder(name), self._active(name)
        try:
            found = [each.name for each in (folder / "releases").iterdir() if _ID.fullmatch(each.name)]
        except FileNotFoundError:
            found = []
        except OSError as error:
            raise _unreadable(folder, error) from error
        order = {release: place for place, release in enumerate(self._past(name, active))}
        every = [self._release(name, release, active) for release in found]
        every.sort(key=lambda each: str(each.facts.get(INSTALLED)), reverse=True)
        return tuple(sorted(every, key=lambda each: (each.active, order.get(each.id, -1)), reverse=True))

    def release(self, name: str, release: str) -> Release:
        """The one with this ID; ``UsageError`` if it is not here."""
        if not (self._folder(name) / "releases" / require_id(release)).is_dir():
            raise UsageError(f"There is no release {release} of {name} here.", "See the list of its releases.")
        return self._release(name, release, self._active(name))

    # -- changing ------------------------------------------------------------------------------------------------------

    def install(self, name: str, folder: Path, facts: Mapping[str, Any] | None = None) -> Release:
        """Move a bundle, on the same disk, to where it stays; it is not active yet.

        One that is here already is left as it is, and ``folder`` removed; unless it is damaged or was not accepted:
        then it is replaced, as its golden record may be another one.
        Raises ``BundleError`` if ``folder`` is not a whole bundle and nothing else, ``FileSystemError``.
        """
        _require_plain(open_bundle(folder))
        release = release_id((folder / MANIFEST).read_bytes())
        with self._changing(name, make=True) as home:
            place = home / "releases" / release
            if not place.exists():
                _seal(folder)
                os.rename(folder, place)
            elif not (self._release(name, release, None).accepted and _is_whole(place)):
                _seal(folder)
                atomic.exchange(folder, place)  # it may be the active one
            atomic.sync(place.parent)
            if folder.exists():
                shutil.rmtree(folder)
            if not self._record(name, release):
                self._note(name, release, {INSTALLED: _now(), ACCEPTED: False})
            self._note(name, release, facts or {})
            return self.release(name, release)

    def note(self, name: str, release: str, facts: Mapping[str, Any]) -> Release:
        """Add to what is known of a release."""
        with self._changing(name):
            self.release(name, release)
            self._note(name, release, facts)
            return self.release(name, release)

    def activate(self, name: str, release: str, *, force: bool = False) -> Release:
        """Make a release the active one, in one step. ``UsageError`` if it was not accepted, unless ``force``.

        Raises ``BundleError`` if it is damaged.
        """
        with self._changing(name) as home:
            found, active = self.release(name, release), self._active(name)
            if not (found.accepted or force):
                raise UsageError(
                    f"Release {release} of {name} was not accepted on this device.",
                    "Deploy it again; on the device itself --force takes it all the same.",
                )
            open_bundle(found.path)
            past = [*self._past(name, active), *([] if active is None else [active])]
            point(home / "current", f"releases/{release}")
            history = [*(each for each in past if each != release), release]
            _write(home / "history.json", {"active": history[-_HISTORY:]})
            return self.release(name, release)

    def rollback(self, name: str) -> Release:
        """Activate what was active before: the last one that was accepted, is still here, and whole.

        ``UsageError`` if there is none. What is taken back is not gone back to later.
        """
        with self._changing(name) as home:
            here = {each.id: each.path for each in self.releases(name) if each.accepted and not each.active}
            earlier = reversed(self._past(name, self._active(name)))
            before = next((each for each in earlier if each in here and _is_whole(here[each])), None)
            if before is None:
                raise UsageError(
                    f"There is no earlier release of {name} to go back to.", "See the list of its releases."
                )
            point(home / "current", f"releases/{before}")
            return self.release(name, before)

    def remove(self, name: str, release: str | None = None) -> tuple[Release, ...]:
        """Remove a release that is not active, or with None the whole expert; what was removed."""
        with self._changing(name) as home:
            if release is None:
                gone = self.releases(name)
                _discard(home, self.root)
                return tuple(replace(each, active=False) for each in gone)
            found = self.release(name, release)
            if found.active:
                raise UsageError(f"Release {release} of {name} is active.", "Activate another one first.")
            self._drop(found)
            return (found,)

    def gc(self, name: str, keep: int = KEEP) -> tuple[Release, ...]:
        """Remove all but the active release and ``keep`` >= 0 more, those that were active last; what was removed."""
        if keep < 0:
            raise UsageError(f"{keep} releases cannot be kept.", "Keep 0 or more, beside the active one.")
        with self._changing(name) as home:
            idle = [each for each in self.releases(name) if not each.active]
            idle.sort(key=lambda each: not each.accepted)  # what was refused goes first
            for each in reversed(idle[keep:]):
                self._drop(each)
            strays = [stray for pattern in _STRAYS for stray in home.glob(pattern)]
            for stray in (*strays, *self.root.glob(".gone-*")):  # of processes that were killed
                _clear(stray)
            return tuple(idle[keep:])

    # -- files ---------------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self.root / require_name(name)

    def _active(self, name: str) -> str | None:
        link = self._folder(name) / "current"
        try:
            target = Path(os.readlink(link))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(link, error) from error
        if target.parent != Path("releases") or not _ID.fullmatch(target.name):
            raise FileSystemError(f"'{link}' does not point to a release.", "Activate one.")
        return target.name

    def _release(self, name: str, release: str, active: str | None) -> Release:
        path = self._folder(name) / "releases" / release
        return Release(name, release, path, release == active, self._record(name, release))

    def _record(self, name: str, release: str) -> dict[str, Any]:
        try:
            return _read(self._folder(name) / "records" / f"{release}.json")
        except FileSystemError:  # a power cut damaged it: nothing is known, so it does not count as accepted
            return {}

    def _note(self, name: str, release: str, facts: Mapping[str, Any]) -> None:
        _write(self._folder(name) / "records" / f"{release}.json", {**self._record(name, release), **facts})

    def _past(self, name: str, active: str | None) -> list[str]:
        """What was active before ``active``, oldest first."""
        found = _read(self._folder(name) / "history.json").get("active", [])
        past = [each for each in found if isinstance(each, str) and _ID.fullmatch(each)]
        return past[: past.index(active)] if active in past else past

    def _drop(self, release: Release) -> None:
        (self._folder(release.name) / "records" / f"{release.id}.json").unlink(missing_ok=True)
        _discard(release.path, self._folder(release.name))

    @contextmanager
    def _changing(self, name: str, *, make: bool = False) -> Iterator[Path]:
        """Hold the lock on an expert; ``FileSystemError`` if it is taken, ``UsageError`` if there is none."""
        home = self._folder(name)
        with atomic.reported(home):
            lock = _locked(home, make)
            try:
                yield home
            finally:
                os.close(lock)


def _locked(home: Path, make: bool) -> int:
    """Take the lock in ``home``; the open file that holds it."""
    while True:
        if not (make or home.is_dir()):
            raise UsageError(f"There is no expert {home.name} here.", "See the list of what is here.")
        for folder in (home, home / "releases", home / "records"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = home / ".lock"
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        held = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # else the expert was removed after its lock was opened: once more
                held = os.path.samestat(os.stat(place), os.fstat(lock))
            if held:
                return lock
        except BlockingIOError as error:
            raise FileSystemError(
                f"Another process changes the releases of {home.name} right now.", "Try again when it is done."
            ) from error
        finally:
            if not held:
                os.close(lock)


def _require_plain(bundle: Bundle) -> None:
    """Raise ``BundleError`` if anything is in the folder that the manifest does not list."""
    listed = {MANIFEST, REPORT, GOLDEN, *bundle.manifest["files"]}
    for entry in bundle.path.iterdir():
        if entry.name not in listed or entry.is_symlink() or not entry.is_file():
            raise BundleError(
                f"'{bundle.path}' holds {shown(entry.name)}, which its manifest does not list.", "Deploy it again."
            )


def _is_whole(folder: Path) -> bool:
    try:
        open_bundle(folder)
    except BundleError:
        return False
    return True


def point(place: Path, target: str) -> None:
    """Let the link at ``place`` point to ``target``, in one step. Raises ``OSError``."""
    made = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
    os.symlink(target, made)
    try:
        os.replace(made, place)
    except BaseException:
        os.unlink(made)
        raise
    atomic.sync(place.parent)


def _seal(folder: Path) -> None:
    """Make the files of a bundle private and read-only, and be sure that they are on the disk."""
    os.chmod(folder, 0o700)
    for entry in folder.iterdir():
        os.chmod(entry, 0o400)
        atomic.sync(entry)
    atomic.sync(folder)


def _discard(folder: Path, aside: Path) -> None:
    """Move a folder ``aside`` before it is removed: nobody finds half of it, and ``gc`` finds what a kill leaves."""
    gone = aside / f".gone-{secrets.token_hex(4)}"
    os.rename(folder, gone)
    _clear(gone)


def _clear(stray: Path) -> None:
    """Remove a file or folder, which another process may be removing too."""
    while os.path.lexists(stray):
        with suppress(FileNotFoundError):
            if stray.is_dir() and not stray.is_symlink():
                shutil.rmtree(stray)
            else:
                os.unlink(stray)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file is not there."""
    if not path.exists():
        return {}
    return parse_json(read_text(path, "The file", FileSystemError), f"'{path}'", FileSystemError)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    atomic.save(path, text.encode("ascii"), force=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _unreadable(path: Path, error: OSError) -> FileSystemError:
    return FileSystemError(f"'{path}' cannot be read ({error.strerror}).", "Check its permissions.")
