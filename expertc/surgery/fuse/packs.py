"""Packs: tensors that lie side by side in one wide tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pack:
    """Tensors of one shape as parts of the tensor ``wide``, one after the other along axis 1.

    ``width`` is how long each of them is there.
    """

    wide: str
    members: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Slot:
    """What sibling nodes read at one of their inputs: a constant each, one tensor for all, or the members of a pack."""

    pack: Pack | None = None
    shared: str | None = None

    @property
    def constant(self) -> bool:
        """Whether each reads a constant."""
        return self.pack is None and self.shared is None


@dataclass(frozen=True)
class Row:
    """Sibling nodes in the order in which they will lie side by side, and what they read.

    Every member of a pack that they read is read by ``children`` of them, one after the other.
    """

    nodes: tuple[int, ...]
    slots: tuple[Slot, ...]
    children: int

    def packs(self) -> Sequence[Pack]:
        """The packs they read, by input."""
        return [slot.pack for slot in self.slots if slot.pack is not None]
