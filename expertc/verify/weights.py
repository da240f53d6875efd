"""Weights: an expert's are the full model's, bit for bit, or rows of them; what was removed is not in the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from ..graph import Constant, Model, volume
from ..text import shown
from .branches import constants_within
from .certificate import Mismatch

Array = np.ndarray[Any, Any]
Mark = tuple[str, tuple[int, ...], bytes]

_COUNTS = (TensorProto.INT32, TensorProto.INT64)  # shapes and indices, which a cut writes anew
_TINY = 8  # elements; a smaller tensor says nothing about where it comes from


def is_part(part: Array, whole: Array) -> bool:
    """Whether ``part`` is ``whole[np.ix_(...)]`` for ascending indices per axis, as bits."""
    return part_of(part, whole) is not None


def part_of(part: Array, whole: Array) -> dict[int, list[int]] | None:
    """The indices, for every axis on which ``part`` is shorter than ``whole``; None if it is no part of it."""
    if part.dtype != whole.dtype or part.ndim != whole.ndim:
        return None
    if any(small > large for small, large in zip(part.shape, whole.shape, strict=True)):
        return None
    return _rows(part, whole, [axis for axis in range(part.ndim) if part.shape[axis] != whole.shape[axis]])


def _rows(part: Array, whole: Array, axes: Sequence[int]) -> dict[int, list[int]] | None:
    """Ascending indices per axis in ``axes`` that make ``part`` out of ``whole``; on other axes they are equal long.

    With several axes, one slab of the part is looked for in every slab of the whole; what it says about the other
    axes is then tried on all. The slab with the most different values is the least likely to mislead.
    """
    if not axes:
        return {} if part.tobytes() == whole.tobytes() else None
    axis, rest = axes[0], axes[1:]
    if not rest:
        found = _ascending(part, whole, axis)
        return None if found is None else {axis: found}
    slabs = [part.take(row, axis) for row in range(part.shape[axis])]
    if not slabs:
        return None
    lead = max(slabs, key=lambda slab: len(np.unique(slab)))
    for row in range(whole.shape[axis]):
        below = _rows(lead, whole.take(row, axis), [a - (a > axis) for a in rest])
        if below is None:
            continue
        inner = {a + (a >= axis): indices for a, indices in below.items()}
        narrowed = whole
        for a, indices in inner.items():
            narrowed = narrowed.take(indices, a)
        found = _ascending(part, narrowed, axis)
        if found is not None:
            return {axis: found, **inner}
    return None


def _ascending(part: Array, whole: Array, axis: int) -> list[int] | None:
    """Ascending rows of ``whole`` along ``axis`` that are the rows of ``part``; the earliest ones that will do."""
    rows = [slab.tobytes() for slab in np.moveaxis(whole, axis, 0)]
    found: list[int] = []
    for slab in np.moveaxis(part, axis, 0):
        try:
            found.append(rows.index(slab.tobytes(), found[-1] + 1 if found else 0))
        except ValueError:
            return None
    return found


def require_absent(full: Model, kept: Iterable[str], *experts: Model) -> int:
    """Check that no weight of ``full`` outside ``kept`` (names) is in an expert, under whatever name.

    Only contents that could be told apart count: not tiny, not one value throughout, not equal to a kept one; indices
    and shapes (int32, int64) are no weights. Returns how many were removed. Raises ``Mismatch``.
    """
    kept = set(kept)
    weights = _weights(full)
    present = [constant for expert in experts for constant in _weights(expert).values()]
    held = _by_mark(present)
    own = _by_mark(constant for name, constant in weights.items() if name in kept)
    gone = {name: constant for name, constant in weights.items() if name not in kept}
    forms = {_form(constant) for constant in present}
    for name, constant in gone.items():
        if _form(constant) not in forms or volume(tuple(constant.shape)) < _TINY:
            continue  # most need not even be read
        values = np.asarray(constant.values)
        if _among(values, held) and not _among(values, own) and not _is_uniform(values):
            raise Mismatch("structure", f"The removed weights {shown(name)} are still in the expert.")
    return len(gone)


def _weights(model: Model) -> dict[str, Constant]:
    return {name: constant for name, constant in constants_within(model) if constant.kind not in _COUNTS}


def _form(constant: Constant) -> tuple[int, tuple[int, ...]]:
    return constant.kind, constant.shape


def _by_mark(constants: Iterable[Constant]) -> dict[Mark, list[Array]]:
    found: dict[Mark, list[Array]] = {}
    for constant in constants:
        values = np.asarray(constant.values)
        found.setdefault(_mark(values), []).append(values)
    return found


def _mark(values: Array) -> Mark:
    """Equal for equal arrays, and quickly made."""
    return values.dtype.str, values.shape, values.reshape(-1)[:_TINY].tobytes()


def _among(values: Array, table: Mapping[Mark, list[Array]]) -> bool:
    return any(values.tobytes() == other.tobytes() for other in table.get(_mark(values), ()))


def _is_uniform(values: Array) -> bool:
    return bool((values == values.reshape(-1)[0]).all())
