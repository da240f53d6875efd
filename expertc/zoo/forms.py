"""The two forms of a branched network, and state dicts between them.

Separate branches have names with their number, ``branches.3.head.weight``; fused ones lie one after another along the
first axis of a single tensor, ``branches.head.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

FORMS = ("separate", "fused")


def fuse_state(state: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The fused form of a separate state dict; ``counts`` says how many branches each stack of them has.

    Raises ``KeyError`` if a branch lacks a tensor that the first one has.
    """
    fused = dict(state)
    for stack, count in counts.items():
        for name in [name.removeprefix(f"{stack}.0.") for name in state if name.startswith(f"{stack}.0.")]:
            parts = [fused.pop(f"{stack}.{i}.{name}") for i in range(count)]
            # A counter of batches is one number for all.
            fused[f"{stack}.{name}"] = torch.cat(parts) if parts[0].dim() else parts[0]
    return fused


def split_state(state: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The separate form of a fused state dict. The tensors are copies. Raises ``ValueError`` if one does not divide."""
    separate = dict(state)
    for stack, count in counts.items():
        for name in [name for name in state if name.startswith(f"{stack}.")]:
            tensor = separate.pop(name)
            if tensor.dim() and len(tensor) % count:
                raise ValueError(f"{name} of shape {tuple(tensor.shape)} is not {count} branches")
            parts = tensor.chunk(count) if tensor.dim() else [tensor] * count
            for i, part in enumerate(parts):
                separate[f"{stack}.{i}.{name.removeprefix(f'{stack}.')}"] = part.clone()
    return separate


def load_either_form(module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
    """A hook before ``load_state_dict``: the other form's state becomes this one's. Left alone is what is neither."""
    counts: dict[str, int] = module.counts  # type: ignore[assignment]
    inner = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    is_separate = any(name.startswith("branches.0.") for name in inner)
    if is_separate == module.is_separate:
        return
    try:
        inner = fuse_state(inner, counts) if is_separate else split_state(inner, counts)
    except (KeyError, ValueError):
        return  # load_state_dict says what is missing
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]
    state.update((prefix + name, tensor) for name, tensor in inner.items())
