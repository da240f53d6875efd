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
from .exits import ExitNet, Plain
from .hiernet import HierNet


def count_arch(
    name: str, classes: Taxonomy | int, size: int | None = None, arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Count the architecture ``name`` for ``classes`` (a tree, or a number) at ``size`` pixels (default: its own).

    ``arguments`` are the network's own. A HierNet has also ``groups``, the number of its categories, and
    ``macs_routed``: what its fast form computes where that is most. A network with exits is counted to its end; it has
    also ``macs_to_exit``, what a run computes that stops behind each exit, those before it included, and
    ``macs_torchinfo``, in the convention of the Gran-HBN paper. Raises ``UsageError`` for a name that timm does not
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
        whole = Plain(network) if isinstance(network, ExitNet) else network
        macs, extra = _run(whole, side)
    found = {"arch": name, "classes": getattr(network, "num_classes", classes), "size": side}
    found |= _totals(network, macs, extra)
    if isinstance(network, HierNet):
        found |= {"groups": len(network.groups), "macs_routed": max(_routes(network, macs).values())}
    if isinstance(whole, Plain):
        found |= {"macs_to_exit": _to_exits(whole, macs), "macs_torchinfo": _torchinfo(whole, side)}
    return found


def count(network: nn.Module, size: int) -> dict[str, int]:
    """``parameters``, ``macs`` and ``macs_thop`` of a network on torch's meta device, for one image of ``size`` pixels.

    Parameters are trainable values; MACs those of convolutions and matrix products; thop's are those plus what
    pytorch-OpCounter 0.1.1 counts for batch norms and global average pools: the convention of the HLFP and NHL papers.
    """
    return _totals(network, *_run(network, size))


def route_macs(network: HierNet, size: int) -> dict[str, int]:
    """MACs of the fast form by where it ends: a choice whose children are classes, some or all of them.

    For one image of ``size`` pixels; the network is on torch's meta device.
    """
    return _routes(network, _run(network, size)[0])


def _totals(network: nn.Module, macs: Mapping[str, int], extra: int) -> dict[str, int]:
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {"parameters": parameters, "macs": macs["Global"], "macs_thop": macs["Global"] + extra}


def _routes(network: HierNet, macs: Mapping[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for place in network.places:
        own = sum(macs.get(f"{type(network).__name__}.{place.path}.{part}", 0) for part in ("body", "head"))
        total[place.name] = own + (0 if place.above is None else total[place.above[0]])
    return {p.name: total[p.name] for p in network.places if any(isinstance(child, int) for child in p.children)}


def _to_exits(whole: Plain, macs: Mapping[str, int]) -> list[int]:
    """What it takes to come to each exit: the stages before it, its branch, and those that were passed."""
    network = whole.network
    ends = [stage for stage, _ in network.hanging()]
    total = 0
    found: list[int] = []
    for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
        own = [f"body.{stage}" for stage in range(start, end + 1)]
        own += [f"branches.{end}.{part}" for part in ("neck", "fine", "coarse")]
        own += [] if found else ["semantic"]  # which is asked at the first
        total += sum(macs.get(f"Plain.network.{name}", 0) for name in own)
        found.append(total)
    return found


def _torchinfo(network: nn.Module, size: int) -> int:
    """Mult-adds as torchinfo 1.8 counts them: of a convolution the values of its weight and bias times the pixels that
    come out, of any other layer, norms among them, those values.
    """
    found = []

    def layer(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        pixels = output.shape[2:].numel() if "Conv" in type(module).__name__ else 1
        found.append(pixels * sum(p.numel() for p in module.parameters()))

    leaves = [module for module in network.modules() if not any(module.children())]
    hooks = [module.register_forward_hook(layer) for module in leaves]
    with torch.device("meta"), torch.no_grad():
        network.eval()(torch.empty(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(found)


def _run(network: nn.Module, size: int) -> tuple[dict[str, int], int]:
    """MACs by the module's path, under "Global" all of them; and what thop counts beside them."""
    network.eval()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter, _thop(network) as extra:
        network(torch.empty(1, 3, size, size))
    # torch counts a multiplication and an addition
    macs = {name: sum(found.values()) // 2 for name, found in counter.get_flop_counts().items()}
    return {"Global": 0, **macs}, sum(extra)


@contextmanager
def _thop(network: nn.Module) -> Iterator[list[int]]:
    """What thop counts beside convolutions and matrix products, in torch's own classes (and in our pool)."""
    found: list[int] = []

    def norm(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        found.append(4 * inputs[0].numel())

    def pool(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((inputs[0].numel() // output.numel() + 1) * output.numel())

    alike = [m for m in network.modules() if type(m) in (nn.BatchNorm2d, nn.ReLU, nn.ELU)]
    for module in alike:
        module.forward = _same
    hooks = [m.register_forward_hook(norm) for m in alike if isinstance(m, nn.BatchNorm2d) and m.affine]
    hooks += [m.register_forward_hook(pool) for m in network.modules() if type(m) in (nn.AdaptiveAvgPool2d, GlobalPool)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for module in alike:
            del module.forward


def _same(x: Tensor) -> Tensor:
    """What stands for a layer that changes no shape, which torch takes long to find out on the meta device."""
    return x
