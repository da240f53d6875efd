"""Parameters and MACs of a network that is never given weights: torch's meta device holds shapes only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..taxonomy import Taxonomy
from ._timm import import_timm
from .arguments import build, building, check, require_arch
from .blocks import GlobalPool
from .hiernet import HierNet


def count_arch(
    name: str, classes: Taxonomy | int, size: int | None = None, arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Count the architecture ``name`` for ``classes`` (a tree, or a number) at ``size`` pixels (default: its own).

    ``arguments`` are the network's own. A HierNet has also ``groups``, the number of its categories, and
    ``macs_routed``: what its fast form computes where that is most. Raises ``UsageError`` for a name that timm does not
    know, ``InvalidArtifactError`` for arguments that do not fit.
    """
    require_arch(name)
    arguments = dict(arguments or {})
    check(name, arguments)
    timm = import_timm()
    with building(name, arguments), torch.device("meta"):
        if isinstance(classes, Taxonomy):
            network = build(name, classes, arguments)
        else:
            network = timm.create_model(name, num_classes=classes, **arguments)
        side = size or timm.data.resolve_model_data_config(network)["input_size"][-1]
        found = count(network, side)
        if isinstance(network, HierNet):
            routes = route_macs(network, side)
            found |= {"groups": len(network.groups), "macs_routed": max(routes.values())}
    return {"arch": name, "classes": getattr(network, "num_classes", classes), "size": side, **found}


def route_macs(network: HierNet, size: int) -> dict[str, int]:
    """MACs of the fast form by where it ends: a choice whose children are classes, some or all of them.

    For one image of ``size`` pixels; the network is on torch's meta device.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, size, size))
    flops = counter.get_flop_counts()
    total: dict[str, int] = {}
    for place in network.places:
        made = (flops.get(f"{type(network).__name__}.{place.path}.{part}", {}) for part in ("body", "head"))
        own = sum(sum(operations.values()) for operations in made) // 2
        total[place.name] = own + (0 if place.above is None else total[place.above[0]])
    return {p.name: total[p.name] for p in network.places if any(isinstance(child, int) for child in p.children)}


def count(network: nn.Module, size: int) -> dict[str, int]:
    """``parameters``, ``macs`` and ``macs_thop`` of a network on torch's meta device, for one image of ``size`` pixels.

    Parameters are trainable values; MACs those of convolutions and matrix products; thop's are those plus what
    pytorch-OpCounter 0.1.1 counts for batch norms and global average pools: the convention of the HLFP and NHL papers.
    """
    network.eval()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter, _thop(network) as extra:
        network(torch.empty(1, 3, size, size))
    macs = counter.get_total_flops() // 2  # torch counts a multiplication and an addition
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {"parameters": parameters, "macs": macs, "macs_thop": macs + sum(extra)}


@contextmanager
def _thop(network: nn.Module) -> Iterator[list[int]]:
    """What thop counts beside convolutions and matrix products, in torch's own classes (and in our pool)."""
    found: list[int] = []

    def norm(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        found.append(4 * inputs[0].numel())

    def pool(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((inputs[0].numel() // output.numel() + 1) * output.numel())

    hooks = [m.register_forward_hook(norm) for m in network.modules() if type(m) is nn.BatchNorm2d and m.affine]
    hooks += [m.register_forward_hook(pool) for m in network.modules() if type(m) in (nn.AdaptiveAvgPool2d, GlobalPool)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
