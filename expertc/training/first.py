"""A network as training starts it: with a trunk that learnt elsewhere, if the recipe says so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from ..errors import InvalidArtifactError, UsageError
from ..taxonomy import Taxonomy
from ..text import clean_text, shown
from ..zoo import NHL, import_timm
from .recipe import Recipe

FETCHED = "pretrained_backbone"  # the argument that lets timm fetch the trunk's weights


def first_network(recipe: Recipe, taxonomy: Taxonomy, trunk_weights: Path | None) -> tuple[NHL, dict[str, Any]]:
    """Build the recipe's network, seeded, and say where its trunk's weights come from.

    ``trunk_weights``, a safetensors file with a state dict of the backbone under timm's names, takes the place of the
    weights that a recipe with ``pretrained_backbone`` lets timm fetch. Raises ``InvalidArtifactError`` if the file is
    not that, ``UsageError`` if there is none or nothing can be fetched.
    """
    arguments = dict(recipe.arch_args)
    fetched = bool(arguments.pop(FETCHED, False)) and trunk_weights is None
    torch.manual_seed(recipe.seed)
    try:
        network: NHL = import_timm().create_model(
            recipe.arch, taxonomy=taxonomy, **arguments, **({FETCHED: True} if fetched else {})
        )
    except (OSError, RuntimeError) as error:
        if not fetched:
            raise
        reason = clean_text(str(error).strip().partition("\n")[0]).rstrip(".")
        raise UsageError(
            f"The trunk's weights cannot be fetched ({reason}).", "Give them with --trunk-weights FILE."
        ) from error
    if trunk_weights is not None:
        return network, {"trunk_weights": _load_trunk(network.trunk, trunk_weights)}
    return network, {"trunk_weights": "timm"} if fetched else {}


def _load_trunk(trunk: torch.nn.Module, path: Path) -> str:
    """Fill ``trunk`` from the file and return the file's SHA-256. The backbone's later layers may stay unread."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise UsageError(f"There is no safetensors file {shown(path.name)}.", "Give the backbone's weights.")
    content = path.read_bytes()
    try:
        given = {_plain(name): tensor for name, tensor in load(content).items()}
        trunk.load_state_dict({name: given[_plain(name)] for name in trunk.state_dict()})
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
