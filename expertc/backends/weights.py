"""Weights in other files: they stay beside the model, whatever the model says.

A model may name any path as the home of its weights, and older runtimes read it without a question (onnxruntime 1.23,
the last for Python 3.10, follows ``..``), so this is settled before a runtime sees the model.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..text import shown

_KEY = b"location"  # every tensor with weights elsewhere has an entry of this name
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def refuse_foreign_weights(model: Path | bytes, name: str) -> None:
    """Raise ``ModelError`` if ``model`` keeps weights anywhere but in plain files beside its own file.

    ``name`` is what the error calls the model. A model given as bytes has no place, so it may not have any. Models
    without such weights are not parsed, only searched.
    """
    data = model if isinstance(model, bytes) else _suspect(model)
    if _KEY not in data:
        return
    from ..graph import parse  # only here: a device that runs an ordinary expert never needs it

    for location in sorted(set(_locations(parse(data, name)))):
        if isinstance(model, bytes) or not _is_beside(model, location):
            raise ModelError(
                f"{name} keeps weights in {shown(location)}, which is not a plain file beside it.",
                "Save it as one file: onnx.save(model, path, save_as_external_data=False).",
            )


def _suspect(path: Path) -> bytes:
    """The file's bytes if it may name other files, else nothing."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return b"" if mapped.find(_KEY) < 0 else mapped[:]


def _is_beside(model: Path, location: str) -> bool:
    if not _PLAIN.fullmatch(location):
        return False
    file = model.parent / location
    facts = os.lstat(file) if os.path.lexists(file) else None
    return facts is not None and stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1  # no link of either kind


def _locations(proto: Any) -> Iterator[str]:
    """Where the tensors anywhere in a protobuf message say that their weights are."""
    stack = [proto]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == "TensorProto":
            yield from (entry.value for entry in message.external_data if entry.key == _KEY.decode())
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend([value] if hasattr(value, "DESCRIPTOR") else value)
