"""Parameters and MACs of a network that is never given weights: torch's meta device holds shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ._timm import import_timm
from .arguments import require_arch
from .blocks import GlobalPool


def count_arch(name: str, classes: int, size: int | None = None, **arguments: Any) -> dict[str, Any]:
    """Count the architecture ``name`` for ``classes`` classes at ``size`` pixels (default: its own, or 224).

    ``arguments`` go to ``timm.create_model``. Raises ``UsageError`` for a name that timm does not know.
    """
    require_arch(name)
    timm = import_timm()
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=classes, **arguments)
    side = size or timm.data.resolve_model_data_config(network)["input_size"][-1]
    return {"arch": name, "classes": classes, "size": side, **count(network, side)}


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
