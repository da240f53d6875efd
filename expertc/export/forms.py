"""The forms that a network can be exported in, by what it is: a tree of classifiers, one with exits, or any other."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..card import Card
from ..errors import UsageError
from .early import NESTED, export_early, has_exits, weighs
from .exporter import OPSETS, export_file
from .hierarchical import SLOW, export_hiernet, is_routed, require_routed


def form_of(network: nn.Module, form: str = "") -> str:
    """The form that it is exported in if ``form`` is asked for; "" of a network that has but one."""
    return form or (NESTED if has_exits(network) else SLOW if is_routed(network) else "")


def export_form(
    network: nn.Module,
    card: Card,
    size: tuple[int, int],
    images: Tensor,
    path: Path,
    *,
    form: str = "",
    batch: int | None = 1,
    strict_coarse: bool = False,
    opset: int = OPSETS[-1],
) -> Path:
    """Export ``network`` in ``form``, by default nested with early exits and slow for a HierNet; others have none.

    ``batch`` is how many images a HierNet's fast form takes, None for any number; ``strict_coarse`` is for exits that
    weigh a class against a category. Otherwise as ``export_file``. Raises ``UsageError`` for a form that the network
    has not, and for exits.
    """
    if strict_coarse and not weighs(network):
        raise UsageError("No exit of this network weighs a class against a category.", "Leave out --strict-coarse.")
    if has_exits(network):
        return export_early(
            network, card, size, images, path, form=form or NESTED, strict_coarse=strict_coarse, opset=opset
        )
    if form or is_routed(network):
        routed = require_routed(network, form)
        return export_hiernet(routed, card, size, images, path, form=form or SLOW, batch=batch, opset=opset)
    return export_file(network, card, size, images, path, opset=opset)
