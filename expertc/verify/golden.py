"""The golden record of a bundle: inputs, and what the expert as it is shipped made of them where it was built.

A device has no full model to compare an expert with; there it is run on these inputs again (``agreement``). A record is
an ``.npz`` of plain arrays, ``numpy.load`` reads it::

    input                         [n, ...]   float, or uint8 where the expert takes bytes
    controls, control_0, ...      names of the inputs beside it, and the values they had
    outputs, output_0, ...        names of the outputs, and what was in them

Names of tensors are a stranger's text and stand in arrays; the members' own names are fixed. A record that is read is a
stranger's too, and nobody hashes it: what it declares is looked at before anything is made of it.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Session
from ..bundle import regular_file
from ..controls import MAX_CONTROLS
from ..errors import BundleError
from ..text import clean_text
from .running import run

INPUTS = 2
"""How many of the inputs of a verification are recorded: one could be a special case, more only make it larger."""

MAX_BYTES = 2**26
"""Of a record, as a file and unpacked: two colour images of 1600 x 1600 in single precision, and not a phone's memory.
A larger one is not made."""

MAX_INPUTS, MAX_OUTPUTS = 16, 64
_MEMBERS = 3 + MAX_CONTROLS + MAX_OUTPUTS
_DIRECTORY = 128 * _MEMBERS  # bytes: 46 for an entry (APPNOTE.TXT 4.3.12), 28 for large sizes, and its short name
_END = struct.Struct("<4s4H2LH")  # APPNOTE.TXT 4.3.16, the end of central directory record
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(\|b1|\|[iu]1|<[iu][248]|<f[248]|<U[1-9]\d{0,4})', 'fortran_order': False, "
    rb"'shape': \(([\d, ]{0,99})\), \} *\n",
    re.DOTALL,
)  # version 1.0 of numpy.lib.format, as numpy.save writes it: never evaluated
_BROKEN = (
    ValueError,
    OverflowError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip  (whatever zipfile raises for a file that is none)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Golden:
    """Inputs ``[n, ...]``, the values of the controls they were run with, flat, and every output, by name."""

    input: Array
    controls: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def to_bytes(self) -> bytes:
        """The file; the same record gives the same bytes."""
        arrays = {"input": self.input}
        for what, named in (("control", self.controls), ("output", self.outputs)):
            arrays[f"{what}s"] = np.array([*named], np.str_)
            arrays |= {f"{what}_{number}": values for number, values in enumerate(named.values())}
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:  # no date stands in it
                    np.lib.format.write_array(member, np.asarray(values, order="C"), allow_pickle=False)
        return file.getvalue()

    @classmethod
    def read(cls, path: Path) -> Golden:
        """The record in a file. Raises ``BundleError`` for whatever ``record`` does not write."""
        with regular_file(path) as file:
            data = file.read(MAX_BYTES + 1)
        try:
            return _golden(_members(data))
        except _BROKEN as error:
            raise BundleError(
                f"The golden record '{clean_text(str(path))}' is malformed: {error}.",
                "Build the bundle again, or copy it again.",
            ) from error


def record(session: Session, x: Array) -> bytes:
    """What the expert in ``session`` makes of the first ``INPUTS`` of ``x``, its controls at their defaults: a file.

    b"" where there can be none: it would be too large, or have too many outputs. Raises what the session raises.
    """
    controls = {control.name: np.array(control.default) for control in session.controls}
    found = answers(session, x[:INPUTS], controls)
    made = {name: values for name, values in found.items() if values.dtype.kind in "biuf"}  # text is not compared
    if sum(values.nbytes for values in (x[:INPUTS], *made.values())) > MAX_BYTES:
        return b""
    data = Golden(x[:INPUTS], controls, made).to_bytes()
    try:
        _golden(_members(data))
    except ValueError:  # it is beyond what is read again
        return b""
    return data


def answers(session: Session, x: Array, controls: Mapping[str, Array]) -> dict[str, Array]:
    """Every output for all inputs: one image at a time, or as many as the expert is made for.

    Always alike, because a network with exits takes one decision for all images of a call.
    """
    return run(session.run, session.input_shape[0] or 1, x, [{name: each.tolist() for name, each in controls.items()}])


def _golden(members: Mapping[str, bytes]) -> Golden:
    lists = {}
    for what, most in (("control", MAX_CONTROLS), ("output", MAX_OUTPUTS)):
        names = _names(members.get(f"{what}s", b""))
        if len(names) > most or len(set(names)) != len(names):
            raise ValueError(f"it has too many {what}s, or one twice")
        lists[what] = {name: f"{what}_{number}" for number, name in enumerate(names)}
    fixed = {"input", "controls", "outputs"}
    if members.keys() != fixed.union(*(names.values() for names in lists.values())):
        raise ValueError("its members are not those of a record")
    arrays = {what: {name: _array(members[own]) for name, own in names.items()} for what, names in lists.items()}
    x = _array(members["input"])
    if not x.ndim or not 0 < len(x) <= MAX_INPUTS or not arrays["output"]:
        raise ValueError("it has no outputs, no inputs, or too many")
    if any(values.dtype.kind != "f" or values.ndim != 1 for values in arrays["control"].values()):
        raise ValueError("a control does not hold a list of numbers")
    return Golden(x, arrays["control"], arrays["output"])


def _members(data: bytes) -> dict[str, bytes]:
    """The members of the archive without their suffix. Raises ``ValueError`` and the others of ``_BROKEN``."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    # zipfile makes an object of every entry: so the end record is looked at first, which must be the plain one.
    end = _END.unpack(data[-_END.size :]) if len(data) >= _END.size else (b"",)
    if end[0] != b"PK\x05\x06" or end[-1] or data[-42:-38] == b"PK\x06\x07":
        raise ValueError("it is no plain zip archive")
    if end[4] > _MEMBERS or end[5] > _DIRECTORY:
        raise ValueError("it has too many members")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise ValueError("it is compressed in another way than numpy does")
        made = {}
        for entry in entries:
            with archive.open(entry) as member:
                made[entry.filename.removesuffix(".npy")] = member.read(entry.file_size)  # without a size: all there is
    if len(made) != len(entries) or not all(entry.filename.endswith(".npy") for entry in entries):
        raise ValueError("its members are not those of a record")
    return made


def _array(data: bytes) -> Array:
    """Finite numbers."""
    made = _plain(data)
    if made.dtype.kind == "U" or (made.dtype.kind == "f" and not np.isfinite(made).all()):
        raise ValueError("an array holds something that is no number")
    return made


def _names(data: bytes) -> list[str]:
    made = _plain(data)
    if made.dtype.kind != "U" or made.ndim != 1 or made.view(np.uint32).max(initial=0) > 0x10FFFF:
        raise ValueError("a list of names is no text")
    names: list[str] = made.tolist()
    return names


def _plain(data: bytes) -> Array:
    """What ``numpy.save`` has written, if it is a plain array and just as long as it says."""
    found = _HEADER.match(data)
    if found is None:
        raise ValueError("an array is none that numpy.save writes for plain numbers")
    dtype = np.dtype(found[1].decode("ascii"))
    shape = tuple(int(size) for size in found[2].replace(b",", b" ").split())
    if prod(shape) * dtype.itemsize != len(data) - found.end():
        raise ValueError("an array is not as long as it says")
    return np.frombuffer(data, dtype, offset=found.end()).reshape(shape) if prod(shape) else np.empty(shape, dtype)
