"""HierNet's two full models: *slow*, every classifier, and *fast*, at each category only the likeliest branch.

Both give log-probabilities of the classes, in the order of their indices, and beside them the routers' probabilities.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import atomic
from ..card import Card, Routes
from ..errors import UsageError
from ..graph import read_model, to_bytes, with_batch
from ..surgery.route import FLOOR, route
from ..text import shown
from ..zoo import HierNet
from .checking import answers, compare
from .exporter import OPSETS, export, export_file

SLOW, FAST = "slow", "fast"
FORMS = (SLOW, FAST)
ROUTES = "routes"


class Slow(nn.Module):
    """The joint distribution of a HierNet and its routers' probabilities: log-probabilities ``[N, classes]``, and
    ``[N, columns]``, the children of each category that is not all classes, those of the top first.
    """

    def __init__(self, network: HierNet) -> None:
        super().__init__()
        self.network = network
        self.places = {place.name: place for place in network.places}
        order = self._order("")
        self.rows = [order.index(index) for index in range(network.num_classes)]

    @property
    def columns(self) -> tuple[str, ...]:
        """The taxonomy's nodes that the columns are about."""
        classes = self.network.taxonomy.classes
        children = [child for place in self.places.values() if not place.is_leaf for child in place.children]
        return tuple(classes[child] if isinstance(child, int) else child for child in children)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logs = self.network.decisions(x)
        routers = [logs[name].exp() for name, place in self.places.items() if not place.is_leaf]
        return self.ordered(self._below("", logs)), torch.cat(routers, 1)

    def ordered(self, scores: Tensor) -> Tensor:
        """The classes in the order of their indices, from that in which the tree has them."""
        return scores.index_select(1, torch.tensor(self.rows, device=scores.device))

    def _order(self, name: str) -> list[int]:
        below = (self._order(child) if isinstance(child, str) else [child] for child in self.places[name].children)
        return [index for own in below for index in own]

    def _below(self, name: str, logs: dict[str, Tensor]) -> Tensor:
        """Log-probabilities of the classes below a category, given that category."""
        place, own = self.places[name], logs[name]
        if place.is_leaf:
            return own
        parts = []
        for at, child in enumerate(place.children):
            column = own[:, at : at + 1]
            parts.append(column + self._below(child, logs) if isinstance(child, str) else column)
        return torch.cat(parts, 1)


class Fast(Slow):
    """What the fast form gives: of a category the likeliest child alone, the classes of the others ``FLOOR`` below it.

    It computes all of it, to compare with.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logs = self.network.decisions(x)
        routes = torch.zeros(len(x), len(self.columns), device=x.device)
        starts, at = {}, 0
        for name, place in self.places.items():
            starts[name] = at
            at += 0 if place.is_leaf else len(place.children)

        def below(name: str, row: int) -> Tensor:
            place, own = self.places[name], logs[name][row]
            if place.is_leaf:
                return own
            routes[row, starts[name] : starts[name] + len(own)] = own.exp()
            parts = []
            for number, child in enumerate(place.children):
                width = len(self._order(child)) if isinstance(child, str) else 1
                if number != int(own.argmax()):
                    parts.append((own[number] - FLOOR).expand(width))
                else:
                    parts.append(own[number] + (below(child, row) if isinstance(child, str) else own.new_zeros(1)))
            return torch.cat(parts)

        return self.ordered(torch.stack([below("", row) for row in range(len(x))])), routes


def is_routed(network: nn.Module) -> bool:
    """Whether there is a category to route from: both forms are the same without."""
    return isinstance(network, HierNet) and any(not place.is_leaf for place in network.places)


def require_routed(network: nn.Module, form: str) -> HierNet:
    """``network``. Raises ``UsageError`` if it has no such ``form``, "" standing for any."""
    if not isinstance(network, HierNet) or not is_routed(network):
        raise UsageError(f"The network has no form {shown(form)}: it has no routers.", "Leave out --form.")
    if form not in ("", *FORMS):
        raise UsageError(f"A HierNet has no form {shown(form)}.", f"Choose from {', '.join(FORMS)}.")
    return network


def with_routes(network: HierNet, card: Card) -> tuple[Slow, Card]:
    """The network in its slow form, and the card that says so."""
    slow = Slow(network)
    return slow, replace(card, routes=Routes(ROUTES, slow.columns))


def export_hiernet(
    network: HierNet,
    card: Card,
    size: tuple[int, int],
    images: Tensor,
    path: Path,
    *,
    form: str = SLOW,
    batch: int | None = 1,
    opset: int = OPSETS[-1],
) -> Path:
    """Export ``network`` in its slow or fast ``form``; ``card`` has no routes yet.

    The slow form takes any number of images, the fast one a single one, or with ``batch=None`` any number too: each
    branch then computes those that are sent there. Otherwise as ``export_file``.
    """
    slow, card = with_routes(network, card)
    if form == SLOW:
        return export_file(slow, card, size, images, path, opset=opset)
    expected = answers(Fast(network), images, ())
    model = read_model(export(slow, card, size, opset=opset))
    routed = to_bytes(route(model if batch is None else with_batch(model, batch), card))
    compare(routed, expected)
    with atomic.saving(path, force=True) as place:
        place.write_bytes(routed)
    return path
