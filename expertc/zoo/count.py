"""Parameters and core MACs of a network that is never given weights: torch's meta device holds shapes only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..text import shown
from ._timm import import_timm


def count_arch(name: str, classes: int, size: int | None = None) -> dict[str, Any]:
    """Count the architecture ``name`` for ``classes`` classes at ``size`` pixels (default: its own, or 224).

    Parameters are trainable values; MACs those of convolutions and linear layers for one image. Raises ``UsageError``
    for a name that timm does not know.
    """
    timm = import_timm()
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        hint = f"Try {near}." if near else "See timm.list_models()."
        raise UsageError(f"There is no architecture {shown(name)}.", hint)
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name, num_classes=classes).eval()
        side = size or timm.data.resolve_model_data_config(network)["input_size"][-1]
        total = 0

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total
            weight: Any = module.weight
            total += output.numel() * weight[0].numel()

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(add)
        with torch.inference_mode():
            network(torch.empty(1, 3, side, side))
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {"arch": name, "classes": classes, "size": side, "parameters": parameters, "macs": total}
