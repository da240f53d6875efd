"""Which rows become wide in a form, and where every tensor of theirs then lies."""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import Model, fresh_name
from .form import Form
from .packs import Pack, Row, Widened, divided, has_only_channels
from .rows import rows
from .rules import HEADS, widen
from .siblings import siblings


class Plan:
    """The rows that become wide, each with its nodes and the pack it makes, in an order in which they can be computed.

    ``entries`` are packs that have to be concatenated first, ``places`` the pack and the index in it of every tensor in
    one, ``taken`` the names in use.
    """

    def __init__(self, model: Model, form: Form) -> None:
        self.model = model
        self.wide: list[tuple[Row, Widened, Pack]] = []
        self.entries: list[Pack] = []
        self.places: dict[str, tuple[Pack, int]] = {}
        self.taken = {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}
        for node in model.nodes:
            self._place(divided(model, node))
        for nodes in siblings(model):
            entry = self._entry(nodes) if form.heads and model.nodes[nodes[0]].op in HEADS else None
            made = self._widen(nodes, form)
            if entry is not None and made:
                self.entries.append(entry)
            elif entry is not None:
                for name in entry.members:
                    del self.places[name]

    def _widen(self, nodes: Sequence[int], form: Form) -> bool:
        """Make of these siblings what can be; returns whether anything could."""
        before = len(self.wide)
        for row in rows(self.model, nodes, self.places):
            widened = widen(self.model, row, form)
            if widened:
                pack = self._pack([self.model.nodes[at].outputs[0].name for at in row.nodes])
                self.wide.append((row, widened, pack))
        return len(self.wide) > before

    def _pack(self, members: Sequence[str]) -> Pack:
        width = self.model.shapes[members[0]][1]
        assert isinstance(width, int)  # or it would not have been widened
        pack = Pack(fresh_name(f"{members[0]}.wide", self.taken), tuple(members), width)
        self._place(pack)
        return pack

    def _place(self, pack: Pack | None) -> None:
        if pack is not None:
            self.places.update((name, (pack, index)) for index, name in enumerate(pack.members))

    def _entry(self, nodes: Sequence[int]) -> Pack | None:
        """Lay side by side what the pooled branches, which stayed apart until here, hand to their heads."""
        names = [self.model.nodes[at].inputs[0].name for at in nodes]
        apart = len(set(names)) == len(names) and not any(name in self.places for name in names)
        pooled = all(name in self.model.producers and has_only_channels(self.model, name) for name in names)
        return self._pack(names) if apart and pooled else None
