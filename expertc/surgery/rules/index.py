"""What an index tensor says, where it says it along one axis only.

Exporters write ``o[:, a:b] = x`` with indices computed at run time from the batch (Range, Expand, Concat of coordinates
that depend on one axis each). Such a tensor is followed back to the numbers it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph import Dim, Model, Shape
from ..site import Site

Rows = np.ndarray[Any, Any]
_STEPS = 32  # exporters need a dozen


@dataclass(frozen=True)
class Along:
    """An integer tensor that varies along one axis (counted from the right, -1 is the last).

    ``rows`` are its values there, one alone for a tensor that is the same everywhere; a size, a symbol too, stands for
    0, 1, 2 and so on below it.
    """

    axis: int
    rows: Rows | Dim

    def counts(self, size: Dim) -> bool:
        """Whether the values are 0, 1, 2 and so on, ``size`` of them."""
        if isinstance(self.rows, np.ndarray):
            return isinstance(size, int) and np.array_equal(self.rows, np.arange(size))
        return self.rows is not None and self.rows == size


def constant_along(values: Rows) -> Along | None:
    """The axis along which a constant varies, if it is one alone."""
    varying = [
        axis for axis, size in enumerate(values.shape) if size > 1 and bool((np.diff(values, axis=axis) != 0).any())
    ]
    if len(varying) > 1 or not values.size:
        return None
    if not varying:
        longest = max(range(values.ndim), key=lambda axis: values.shape[axis], default=-1)
        return Along(longest - values.ndim if values.ndim else -1, values.reshape(-1)[:1])
    axis = varying[0]
    return Along(axis - values.ndim, np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)[:, 0])


def along(model: Model, name: str) -> Along | None:
    """What the integer tensor ``name`` says, if it varies along one axis only and that can be followed."""
    moves: list[Site] = []  # from ``name`` downwards: where the axis goes
    for _ in range(_STEPS):
        value = model.value(name)
        if value is not None:
            return _raised(constant_along(value), moves)
        at = model.producers.get(name)
        if at is None:
            return None
        site = Site(model, at, model.nodes[at])
        if site.op == "Range":
            return _raised(_range(site), moves)
        if site.op not in ("Identity", "Cast", "Expand", "Unsqueeze", "Reshape", "Slice"):
            return None
        moves.append(site)
        name = site.inputs[0]
    return None


def _raised(found: Along | None, moves: Sequence[Site]) -> Along | None:
    """``found`` seen through the operators above it, the last of ``moves`` first."""
    for site in reversed(moves):
        if found is None:
            return None
        if site.op == "Slice":
            found = _sliced(site, found)
        elif site.op in ("Unsqueeze", "Reshape"):
            found = _turned(site, found)
    return found


def _range(site: Site) -> Along | None:
    start, step = site.constant(0), site.constant(2)
    if start is None or step is None or int(start.reshape(-1)[0]) != 0 or int(step.reshape(-1)[0]) != 1:
        return None
    sizes = sizes_of(site.model, site.inputs[1])
    size = sizes[0] if sizes is not None and len(sizes) == 1 else None
    return Along(-1, np.arange(size) if isinstance(size, int) else size)


def sizes_of(model: Model, name: str, steps: int = _STEPS) -> Shape | None:
    """A scalar or vector of sizes that is computed from shapes: numbers and symbols; None if it is something else."""
    value = model.value(name)
    if value is not None:
        return tuple(int(size) for size in value.reshape(-1)) if value.size <= _STEPS else None
    at = model.producers.get(name)
    if at is None or not steps:
        return None
    site = Site(model, at, model.nodes[at])
    if site.op == "Shape":
        shape = site.shape(0)
        return None if shape is None else shape[site.attribute("start", 0) : site.attribute("end", len(shape))]
    if site.op not in ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Gather", "Slice", "Concat"):
        return None
    parts = [sizes_of(model, part, steps - 1) for part in site.inputs[: None if site.op == "Concat" else 1]]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    whole: Shape = tuple(dim for part in known for dim in part)
    if site.op == "Gather":
        index = site.constant(1)
        inside = index is not None and bool((abs(index + 0.5) < len(whole)).all())
        return tuple(whole[int(i)] for i in index.reshape(-1)) if inside and index is not None else None
    if site.op == "Slice":
        bounds = _bounds(site)
        return None if bounds is None else whole[bounds]
    return whole


def _bounds(site: Site) -> slice | None:
    """Which part of a vector a Slice takes; None if that is computed or backwards."""
    given = [site.constant(i) if site.has(i) else None for i in range(1, 5)]
    if site.opset < 10 or any(site.has(i + 1) and bound is None for i, bound in enumerate(given)):
        return None
    start, end, _, step = (None if bound is None else int(bound.reshape(-1)[0]) for bound in given)
    return slice(start, end, step) if step is None or step > 0 else None


def _sliced(site: Site, found: Along) -> Along | None:
    """A vector of known values, sliced."""
    bounds, shape = _bounds(site), site.shape(0)
    if bounds is None or shape is None or len(shape) != 1 or not isinstance(found.rows, np.ndarray):
        return None
    return Along(-1, found.rows[bounds])


def _turned(site: Site, found: Along) -> Along | None:
    """A vector stood up along another axis: [n] to [n, 1], as Unsqueeze or Reshape."""
    before, after = site.shape(0), site.out_shape()
    target = site.constant(1) if site.op == "Reshape" else None
    if site.op == "Unsqueeze":
        given = site.attribute("axes") if site.opset < 13 else site.constant(1)
        if given is None or before is None:
            return None
        rank = len(before) + len(given)
        new = {site.axis(int(axis), rank) for axis in np.asarray(given).reshape(-1)}
        stay = [axis for axis in range(rank) if axis not in new]
        return Along((stay[found.axis] if stay else 0) - rank, found.rows)
    if target is None or before is None or len(before) != 1 or after is None or len(after) != len(target):
        return None
    long = [axis for axis, size in enumerate(target.tolist()) if size != 1]
    return Along(long[0] - len(target), found.rows) if len(long) == 1 else None


def coordinates(site: Site, index: int) -> list[Along] | None:
    """The coordinates in the last axis of an index tensor ``[..., q]``, each without that axis."""
    value, name = site.constant(index), site.inputs[index]
    if value is not None:
        parts = [constant_along(value[..., k]) for k in range(value.shape[-1])]
        return None if any(part is None for part in parts) else [part for part in parts if part is not None]
    at = site.model.producers.get(name)
    if at is None:
        return None
    node = Site(site.model, at, site.model.nodes[at])
    names, rank = [name], len(node.out_shape() or ())
    if node.op == "Concat" and node.attribute("axis") in (-1, rank - 1):
        names = node.inputs
    elif (node.out_shape() or (None,))[-1] != 1:
        return None
    found = []
    for part in names:
        shape: Shape | None = site.model.shapes.get(part)
        seen = along(site.model, part)
        if shape is None or shape[-1] != 1 or seen is None or (seen.axis == -1 and not _same(seen)):
            return None
        found.append(Along(seen.axis + 1 if seen.axis < -1 else -1, seen.rows))
    return found


def _same(found: Along) -> bool:
    return isinstance(found.rows, np.ndarray) and len(found.rows) == 1
