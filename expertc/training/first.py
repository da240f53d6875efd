"""A network as training starts it: with a trunk that learnt elsewhere, if the recipe says so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from ..errors import InvalidArtifactError, UsageError
from ..taxonomy import Taxonomy
from ..text import clean_text, shown
from ..zoo import ExitNet, HierNet, build, rehearse
from .recipe import Recipe

FETCHED = "pretrained_backbone"  # the argument that lets timm fetch the trunk's weights


def first_network(recipe: Recipe, taxonomy: Taxonomy, trunk: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """Build the recipe's network, seeded, and say where its trunk's weights come from.

    ``trunk``, a safetensors file with a state dict of the backbone under timm's names, takes the place of the weights
    that a recipe with ``pretrained_backbone`` lets timm fetch; a network that has no trunk is taken from it whole but
    for its classifier. Raises ``InvalidArtifactError`` if the recipe's network cannot be built for its images or the
    file is not that, ``UsageError`` if there is none or nothing can be fetched.
    """
    arguments = dict(recipe.arch_args)
    fetched = bool(arguments.pop(FETCHED, False)) and trunk is None
    rehearse(recipe.arch, taxonomy, arguments, {recipe.size, *(stage.size for stage in recipe.stages)})
    torch.manual_seed(recipe.seed)
    try:
        network = build(recipe.arch, taxonomy, arguments | ({FETCHED: True} if fetched else {}))
    except (OSError, RuntimeError, TypeError) as error:  # TypeError: a network that has nothing to fetch
        if not fetched:
            raise
        reason = clean_text(str(error).strip().partition("\n")[0]).rstrip(".")
        raise UsageError(
            f"The trunk's weights cannot be fetched ({reason}).", "Give them with --trunk FILE."
        ) from error
    if trunk is not None:
        return network, {"trunk_weights": _load_trunk(network, trunk)}
    return network, {"trunk_weights": "timm"} if fetched else {}


def _load_trunk(network: nn.Module, path: Path) -> str:
    """Fill the trunk from the file and return the file's SHA-256. The backbone's later layers may stay unread."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise UsageError(f"There is no safetensors file {shown(path.name)}.", "Give the backbone's weights.")
    content = path.read_bytes()
    try:
        given = {_plain(name): tensor for name, tensor in load(content).items()}
        trunk = getattr(network, "trunk", network)
        if isinstance(network, HierNet | ExitNet):
            own = network.origins()  # of a HierNet the same weights in the top's body, its head and every group
            if not own:
                raise UsageError("The network has no backbone to start with weights.", "Leave out --trunk.")
        else:
            own = {name: name for name in trunk.state_dict()}
            if trunk is network:
                head = str(network.pretrained_cfg["classifier"])  # type: ignore[index]
                own = {name: name for name in own if not name.startswith(f"{head}.")}
        trunk.load_state_dict({name: given[_plain(origin)] for name, origin in own.items()}, strict=False)
    except (SafetensorError, KeyError, RuntimeError) as error:  # RuntimeError: a tensor of another shape
        reason = f"no {error}" if isinstance(error, KeyError) else clean_text(" ".join(str(error).split())[:200])
        raise InvalidArtifactError(
            f"{shown(path.name)} does not hold the trunk's weights ({reason}).",
            "Give a state dict of the recipe's backbone under timm's names.",
        ) from error
    return hashlib.sha256(content).hexdigest()


def _plain(name: str) -> str:
    """A tensor's name as it is with and without timm's feature wrappers: they add "model." or turn dots into "_"."""
    return name.removeprefix("model.").replace(".", "_")
