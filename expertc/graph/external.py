"""Weights that a model keeps in files beside it: found safely, mapped, and read only where somebody asks.

The names of the files come from a stranger. They are opened step by step below the model's folder, never through a
link, and only regular files with one name are taken: a hard link could be any file of the machine.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from onnx import TensorProto

from ..errors import ModelError
from ..text import shown
from .scopes import GivenTensor
from .tensors import Array, from_bytes, stored_bytes

KEYS = frozenset({"location", "offset", "length", "checksum"})
"""What the specification lets a tensor say about its file."""


class External:
    """A tensor whose values lie in a file: where, and a map of that file."""

    __slots__ = ("data", "kind", "offset", "shape")

    def __init__(self, kind: int, shape: tuple[int, ...], data: mmap.mmap | bytes, offset: int) -> None:
        self.kind, self.shape, self.data, self.offset = kind, shape, data, offset

    def values(self) -> Array:
        """The values, mapped where a value has whole bytes."""
        return from_bytes(memoryview(self.data)[self._range], self.kind, self.shape)

    def stored(self) -> memoryview:
        """The values as they are stored."""
        return memoryview(self.data)[self._range]

    @property
    def _range(self) -> slice:
        return slice(self.offset, self.offset + stored_bytes(self.kind, self.shape))


class Files:
    """The files beside a model in ``folder``, each opened once; a model in memory has none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._open: dict[str, mmap.mmap | bytes] = {}

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file that was opened, by location."""
        return {location: len(data) for location, data in sorted(self._open.items())}

    def find(self, given: GivenTensor, model: str) -> External:
        """The values of a tensor. Raises ``ModelError`` if they are not where it says, or must not be read there."""
        try:
            return self._find(given.proto, given.kind, given.shape)
        except _Wrong as error:
            raise ModelError(f"{model}: the weights {shown(given.name)} {error}.", error.hint) from None

    def _find(self, proto: TensorProto, kind: int, shape: tuple[int, ...]) -> External:
        if proto.raw_data or proto.data_location != TensorProto.EXTERNAL:
            raise _Wrong("are said to be both in the model and in a file")
        entries = _entries(proto)
        location = entries["location"]
        data = self._open.get(location)
        if data is None:
            data = self._open[location] = self._map(location)
        offset, length = _number(entries, "offset") or 0, _number(entries, "length")
        needed = stored_bytes(kind, shape)
        if length not in (None, needed) or offset + needed > len(data):
            raise _Wrong(f"do not fit their file {shown(location)}")
        return External(kind, shape, data, offset)

    def _map(self, location: str) -> mmap.mmap | bytes:
        if self.folder is None:
            raise _Wrong("are in a file, but the model was given in memory", "Give the model as a file.")
        try:
            return _map(_open_below(self.folder, location))
        except OSError as error:
            raise _Wrong(
                f"cannot be read from {shown(location)} ({error.strerror})",
                "Keep the file beside the model; links are not followed.",
            ) from error


class _Wrong(Exception):
    """What is wrong with a tensor, as the rest of a sentence, and what to do."""

    def __init__(self, text: str, hint: str = "Export the model again, or save it as one file.") -> None:
        super().__init__(text)
        self.hint = hint


def _entries(proto: TensorProto) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in proto.external_data[:]:
        key = entry.key
        if key in entries or key not in KEYS:
            raise _Wrong(f"describe their file by an unknown or repeated {shown(key)}")
        entries[key] = entry.value
    if "location" not in entries:
        raise _Wrong("do not say which file they are in")
    return entries


def _number(entries: Mapping[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Wrong(f"have the {key} {shown(text)}, which is not a number of bytes")
    return int(text)


def _open_below(folder: Path, location: str) -> int:
    """Open ``location`` below ``folder`` without following a link at any step; returns a descriptor."""
    if not isinstance(location, str):  # protobuf hands on as bytes what is not UTF-8
        raise _Wrong("are said to be in a file whose name is not UTF-8 text")
    steps = location.split("/")
    if any(step in ("", ".", "..") or "\0" in step or "\\" in step or ":" in step for step in steps):
        raise _Wrong(f"are said to be in {shown(location)}, outside the model's folder")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in steps[:-1]:
            inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        return os.open(steps[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)


def _map(descriptor: int) -> mmap.mmap | bytes:
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
            raise _Wrong(
                "are in something that is no ordinary file of its own (a device, a pipe, a hard link)",
                "Copy the file, so that it has one name.",
            )
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if about.st_size else b""
    finally:
        os.close(descriptor)
