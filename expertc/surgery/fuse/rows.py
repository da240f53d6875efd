"""Which siblings can lie side by side: those that read one tensor, or the members of one pack, evenly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...graph import Constant, Model, volume
from .packs import Pack, Row, Slot

Places = Mapping[str, tuple[Pack, int]]
"""The pack that a tensor is in, and which of its members it is."""


def rows(model: Model, nodes: Sequence[int], places: Places) -> Iterator[Row]:
    """Divide siblings into rows, two or more each; those that read otherwise than the others are left out."""
    found: dict[tuple[Slot, ...], list[int]] = defaultdict(list)
    for at in nodes:
        found[tuple(_slot(tensor.name, tensor, places) for tensor in model.nodes[at].inputs)].append(at)
    for slots, members in found.items():
        row = _row(model, slots, members, places) if len(members) > 1 else None
        if row is not None:
            yield row


def _slot(name: str, tensor: object, places: Places) -> Slot:
    if isinstance(tensor, Constant) or not name:
        return Slot()
    return Slot(pack=places[name][0]) if name in places else Slot(shared=name)


def _row(model: Model, slots: tuple[Slot, ...], nodes: Sequence[int], places: Places) -> Row | None:
    """The nodes in the order of what they read, if they read every member of each pack equally often."""
    packed = [position for position, slot in enumerate(slots) if slot.pack is not None]
    if not packed:
        return Row(tuple(nodes), slots)
    main = max(packed, key=lambda position: volume(model.shapes.get(model.nodes[nodes[0]].inputs[position].name, ())))
    index = {position: {at: places[model.nodes[at].inputs[position].name][1] for at in nodes} for position in packed}
    nodes = sorted(nodes, key=lambda at: (index[main][at], at))
    straight = tuple(index[main][at] for at in nodes)
    fitted = list(slots)
    for position in packed:
        pack, order = slots[position].pack, tuple(index[position][at] for at in nodes)
        times = Counter(order)
        assert pack is not None
        if len(times) < len(pack.members) or len(set(times.values())) > 1 or len(times) != len(set(straight)):
            return None
        if order != straight:
            fitted[position] = replace(slots[position], order=order)
    return Row(tuple(nodes), tuple(fitted), slots[main].pack, len(nodes) // len(set(straight)))
