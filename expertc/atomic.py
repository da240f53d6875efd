"""Directories that appear whole or not at all.

A directory is filled under a temporary *sibling* name, flushed to the disk, and renamed into place. Three names stand
beside ``NAME`` while somebody works on it, and only then:

``.NAME.lock``
    held (``flock``) by the one process that may write ``NAME``. Whoever holds it knows that the other two belong to a
    process that died, and tidies them up.
``.NAME.new-xxxxxxxx``
    what is being filled; after an exchange, what was replaced.
``.NAME.old-xxxxxxxx``
    what is being replaced, where the file system cannot exchange two names at once. If ``NAME`` is missing beside it,
    the replacement was cut in half, and the next holder of the lock puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import FileSystemError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_THERE = (errno.EEXIST, errno.ENOTEMPTY)

_AT_FDCWD = -100  # <fcntl.h>
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # <linux/fs.h>

Replaceable = Callable[[Path], None]
"""Raises ``FileSystemError`` if the directory there must not be replaced."""


@contextmanager
def reported(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` from the work on ``target`` into a ``FileSystemError`` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            problem = f"The disk is full: '{target}' does not fit ({error.strerror})."
            raise FileSystemError(problem, "Free some space, or write to another disk.") from error
        if error.errno in _THERE:
            raise already_there(target) from error
        problem = f"'{target}' cannot be written ({error.strerror})."
        raise FileSystemError(problem, "Check the path and its permissions, or write somewhere else.") from error


def already_there(target: Path) -> FileSystemError:
    """The error for an output that exists and was not to be replaced."""
    return FileSystemError(f"'{target}' already exists.", "Choose another output, or replace it with --force.")


@contextmanager
def exclusive(target: Path) -> Iterator[Path]:
    """Hold the one lock on ``target`` and tidy up what killed processes left of it; yields its resolved path.

    The parent folder must exist. Raises ``FileSystemError`` if it does not, if it cannot be written, or if another
    process (or thread) holds the lock.
    """
    if target.name in ("", ".."):
        raise FileSystemError(f"'{target}' does not name a new directory.", "Give the name of a directory to create.")
    with reported(target):
        if not target.parent.is_dir():
            what = "is not a folder" if target.parent.exists() else "does not exist"
            raise FileSystemError(f"'{target.parent}' {what}.", "Create the folder first, or choose another.")
        place = target.parent.resolve() / target.name
        name = place.with_name(f".{place.name}.lock")
        lock = _lock(name, target)
    try:
        with reported(target):
            _tidy(place)
        yield place
    finally:
        with reported(target):
            try:
                os.unlink(name)  # while it is held: whoever opened it before will see that it is no longer there
            finally:
                os.close(lock)


@contextmanager
def staged(place: Path, replaceable: Replaceable | None = None) -> Iterator[Path]:
    """Yield an empty directory; when the block ends well it stands at ``place``, else nothing has changed.

    The caller holds ``exclusive(place)``. What is at ``place`` already is replaced only if ``replaceable`` is given and
    does not object. Raises ``FileSystemError``; an ``OSError`` inside the block becomes one too.
    """
    with reported(place):
        refuse_unless(place, replaceable)
        new = _temporary(place, "new")
        try:
            os.mkdir(new)
            yield new
            _flush(new)
            _publish(new, place, replaceable)
            sync(place.parent)
        finally:
            if new.exists():
                shutil.rmtree(new)


def refuse_unless(place: Path, replaceable: Replaceable | None) -> None:
    """Raise ``FileSystemError`` if something is at ``place`` that may not be replaced."""
    if os.path.lexists(place):
        if replaceable is None:
            raise already_there(place)
        replaceable(place)


def put(path: Path, content: bytes | Path) -> None:
    """Make the file ``path`` from bytes, or from a file that is moved there (copied if it is on another disk)."""
    if isinstance(content, bytes):
        with open(path, "xb") as file:
            file.write(content)
        return
    if content.is_symlink() or not content.is_file():
        raise FileSystemError(f"'{content}' is not a regular file.", "Hand over the file itself.")
    try:
        os.rename(content, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(content, path)
    os.chmod(path, path.parent.stat().st_mode & 0o666)  # a temporary file's 0600 is not meant for the result


def save(path: Path, content: bytes, *, force: bool = False) -> Path:
    """Write one file in one step, as ``saving`` does."""
    with saving(path, force=force) as place:
        place.write_bytes(content)
    return path


@contextmanager
def saving(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields a place for the content of ``path``, which is given that name when the block ends.

    A killed or failed block leaves what was there, which only ``force`` replaces. Raises ``FileSystemError``.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    with reported(path):
        refuse_unless(path, _anything if force else None)
        try:
            with open(partial, "xb"):
                yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            if force or not _renameat2(partial, path, _RENAME_NOREPLACE):
                refuse_unless(path, _anything if force else None)
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def digest(file: IO[bytes]) -> str:
    """SHA-256 of what is left to read, in hexadecimal; no more than a piece of it is in memory."""
    found = hashlib.sha256()
    while piece := file.read(2**20):
        found.update(piece)
    return found.hexdigest()


def _anything(path: Path) -> None:
    """Nothing is worth keeping."""


def _lock(name: Path, target: Path) -> int:
    while True:
        lock = os.open(name, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:  # else its last holder removed it after we had opened it: once more
                held, lock = lock, -1
                return held
        except BlockingIOError as error:
            problem = f"Another process is writing '{target}' right now."
            raise FileSystemError(problem, "Wait until it is done, or choose another output.") from error
        finally:
            if lock >= 0:
                os.close(lock)


def _temporary(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.{kind}-{secrets.token_hex(4)}")


def _tidy(place: Path) -> None:
    ours = re.compile(re.escape(f".{place.name}.") + "(new|old)-[0-9a-f]{8}")
    for entry in list(place.parent.iterdir()):
        kind = ours.fullmatch(entry.name)
        if kind is None or entry.is_symlink() or not entry.is_dir():
            continue
        if kind[1] == "old" and not os.path.lexists(place):
            os.rename(entry, place)
        else:
            shutil.rmtree(entry)


def _publish(new: Path, place: Path, replaceable: Replaceable | None) -> None:
    refuse_unless(place, replaceable)
    if not os.path.lexists(place):
        if not _renameat2(new, place, _RENAME_NOREPLACE):
            os.rename(new, place)
        return
    exchange(new, place)
    try:
        refuse_unless(new, replaceable)  # a second look, now that nobody finds it under its name
    except FileSystemError:
        exchange(new, place)
        raise


def exchange(new: Path, place: Path) -> None:
    """Exchange two directories of one folder, in one step where the file system can. Raises ``OSError``."""
    if _renameat2(new, place, _RENAME_EXCHANGE):
        return
    old = _temporary(place, "old")
    os.rename(place, old)
    try:
        os.rename(new, place)
    finally:
        os.rename(old, new if place.exists() else place)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """``renameat2(2)``; False where the C library, the kernel or the file system does not know it or its flag."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _flush(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


def sync(path: Path) -> None:
    """Be sure that a file, or the names in a folder, are on the disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
