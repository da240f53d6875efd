"""Networks by name, from a file that somebody handed in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InvalidArtifactError
from ..taxonomy import Taxonomy
from ..text import shown
from ._timm import import_timm
from .nhl import NHL

# A name may be a path or an address of a hub, a mapping a set of them: nothing may be fetched or read here.
_NUMBERS = (bool, int, float)
_REFUSED = {"self", "taxonomy", "pretrained_backbone"}


def create(arch: str, taxonomy: Taxonomy, arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> NHL:
    """Build a network of this room over ``taxonomy`` and give it the weights ``state``.

    Nothing larger than ``state`` is allocated. Raises ``InvalidArtifactError`` if the architecture is not ours, an
    argument is not a number, a list of numbers or a backbone timm knows, or a weight is missing, left over or of
    another shape.
    """
    timm = import_timm()
    ours = isinstance(arch, str) and timm.is_model(arch)
    if not ours or not timm.models.model_entrypoint(arch).__module__.startswith(f"{__package__}."):
        raise InvalidArtifactError(f"{shown(arch)} is not an architecture of expertc.", "Train the network again.")
    allowed = set(inspect.signature(NHL).parameters) - _REFUSED
    for key, value in arguments.items():
        known = isinstance(value, str) and ":" not in value and timm.is_model(value)
        sound = known if key == "backbone" else _is_plain(value, nested=key == "backbone_args")
        if key not in allowed or not sound:
            raise InvalidArtifactError(
                f"The architecture {shown(arch)} has the argument {shown(key)} = {shown(value)}, which is not allowed.",
                f"It may have {', '.join(sorted(allowed))}.",
            )
    try:
        with torch.device("meta"):
            skeleton = timm.create_model(arch, taxonomy=taxonomy, **arguments).state_dict()
        for name in skeleton.keys() | state.keys():
            wanted, given = (tuple(s[name].shape) if name in s else None for s in (skeleton, state))
            if wanted != given:
                raise InvalidArtifactError(
                    f"The weights {shown(name)} should be of shape {wanted}, but are of {given}.",
                    "They belong to another network: train it again.",
                )
        network: NHL = timm.create_model(arch, taxonomy=taxonomy, **arguments)
        network.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:  # what timm and torch raise for bad sizes
        raise InvalidArtifactError(
            f"The network {shown(arch)} cannot be built ({shown(error)}).", "Train the network again."
        ) from error
    return network.eval()


def _is_plain(value: Any, nested: bool) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, _NUMBERS) for item in value)
    if nested and isinstance(value, Mapping):
        return all(_is_plain(item, nested=False) for item in value.values())
    return isinstance(value, _NUMBERS)
