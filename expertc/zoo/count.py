"""Parameters and core MACs of a network that is never given weights: torch's meta device holds shapes only."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UsageError
from ..text import shown
from ._timm import import_timm


def count_arch(name: str, classes: int, size: int | None = None) -> dict[str, Any]:
    """Count the architecture ``name`` for ``classes`` classes at ``size`` pixels (default: its own, or 224).

    Parameters are trainable values; MACs those of convolutions and matrix products for one image. Raises ``UsageError``
    for a name that timm does not know.
    """
    timm = import_timm()
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        hint = f"Try {near}." if near else "See timm.list_models()."
        raise UsageError(f"There is no architecture {shown(name)}.", hint)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = timm.create_model(name, num_classes=classes).eval()
        side = size or timm.data.resolve_model_data_config(network)["input_size"][-1]
        network(torch.empty(1, 3, side, side))
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    macs = counter.get_total_flops() // 2  # torch counts a multiplication and an addition
    return {"arch": name, "classes": classes, "size": side, "parameters": parameters, "macs": macs}
