"""Which siblings can lie side by side: those that read one tensor, or the members of one pack, evenly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ...graph import Constant, Model
from .packs import Pack, Row, Slot

Places = Mapping[str, tuple[Pack, int]]
"""The pack that a tensor is in, and which of its members it is."""


def rows(model: Model, nodes: Sequence[int], places: Places) -> Iterator[Row]:
    """Divide siblings into rows, two or more each; those that read otherwise than the others are left out."""
    found: dict[tuple[Slot, ...], list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for at in nodes:
        read: list[Slot] = []
        indices = []
        for tensor in model.nodes[at].inputs:
            if isinstance(tensor, Constant) or not tensor.name:
                read.append(Slot())
            elif tensor.name in places:
                pack, index = places[tensor.name]
                read.append(Slot(pack=pack))
                indices.append(index)
            else:
                read.append(Slot(shared=tensor.name))
        found[tuple(read)].append((tuple(indices), at))
    for slots, members in found.items():
        row = _row(slots, members)
        if row is not None:
            yield row


def _row(slots: tuple[Slot, ...], members: list[tuple[tuple[int, ...], int]]) -> Row | None:
    """The members in the order of what they read, if they read every member of a pack equally often."""
    members = sorted(members)
    nodes = tuple(at for _, at in members)
    packs = [slot.pack for slot in slots if slot.pack is not None]
    if len(nodes) < 2:
        return None
    if not packs:
        return Row(nodes, slots, 1)
    times = Counter(indices[0] for indices, _ in members)
    together = all(len(set(indices)) == 1 for indices, _ in members)  # both terms of a sum are of one branch
    even = len(times) == len(packs[0].members) and len(set(times.values())) == 1
    return Row(nodes, slots, times[0]) if together and even else None
