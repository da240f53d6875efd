"""Packs: tensors that lie side by side in one wide tensor; rows of nodes that read them; what takes a row's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph import Model, Node

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pack:
    """Tensors of one shape as parts of the tensor ``wide``, one after the other along ``axis``.

    ``width`` is how long each of them is there. The axis is that of the channels, 1, but 0 for vectors.
    """

    wide: str
    members: tuple[str, ...]
    width: int
    axis: int = 1


@dataclass(frozen=True)
class Slot:
    """What sibling nodes read at one of their inputs: a constant each, one tensor for all, or the members of a pack.

    ``order`` says which member each of them reads, if that is not simply the order in which they lie in the pack.
    """

    pack: Pack | None = None
    shared: str | None = None
    order: tuple[int, ...] | None = None

    @property
    def constant(self) -> bool:
        """Whether each reads a constant."""
        return self.pack is None and self.shared is None


@dataclass(frozen=True)
class Row:
    """Sibling nodes in the order in which they will lie side by side, and what they read.

    Every member of the pack ``main``, the largest that they read, is read by ``children`` of them, one after the other.
    """

    nodes: tuple[int, ...]
    slots: tuple[Slot, ...]
    main: Pack | None = None
    children: int = 1


@dataclass(frozen=True)
class Wide:
    """One of the nodes that take the place of a row: its operator, attributes and inputs.

    An input is the name of a tensor, new values, "" for one left out, or None for what the node before it made.
    """

    op: str
    attrs: Mapping[str, Any]
    inputs: tuple[str | Array | None, ...]


Widened = tuple[Wide, ...]
"""The nodes that take a row's place, each but the first reading the one before; none if it stays as it is."""


def divided(model: Model, node: Node) -> Pack | None:
    """The pack that a ``Split`` into equal parts reads: of channels, or of a vector's elements."""
    if node.op != "Split" or node.domain not in ("", "ai.onnx"):
        return None
    names = tuple(tensor.name for tensor in node.outputs)
    shapes = {model.shapes.get(name, ()) for name in names}
    rank = len(next(iter(shapes)))
    axis = 1 if rank > 1 else 0
    if len(names) == 1 or len(shapes) > 1 or rank == 0 or node.attrs.get("axis", 0) not in (axis, axis - rank):
        return None
    width = shapes.pop()[axis]
    return Pack(node.inputs[0].name, names, width, axis) if isinstance(width, int) else None


def has_only_channels(model: Model, name: str) -> bool:
    """Whether a tensor is ``[N, C]`` or ``[N, C, 1, ...]``: what pooling leaves."""
    shape = model.shapes.get(name, ())
    return len(shape) > 1 and isinstance(shape[1], int) and all(dim == 1 for dim in shape[2:])
