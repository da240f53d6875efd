"""Networks by name, from a file that somebody handed in: those of this room, and timm's own as their baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from ..errors import InvalidArtifactError, UsageError
from ..taxonomy import Taxonomy
from ..text import shown
from ._timm import import_timm

# A name may be a path or an address of a hub, a mapping a set of them: nothing may be fetched or read here.
_NUMBERS = (bool, int, float)
_CHOICES = {"form", "block"}  # which of a few kinds this room has
_REFUSED = {"self", "taxonomy", "num_classes", "features_only", "checkpoint_path", "cache_dir"}

# What timm and torch raise for sizes that do not fit, arguments that are not known, backbones without feature info.
_UNBUILDABLE = (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError)


def check(arch: str, arguments: Mapping[str, Any]) -> None:
    """Raise ``InvalidArtifactError`` unless timm knows ``arch`` (this room's networks among them) and each argument is
    a number, a list of numbers, a kind or a backbone that timm knows, none of which makes timm read or fetch anything.
    """
    if not _is_known(arch):
        raise InvalidArtifactError(f"{shown(arch)} is not an architecture of expertc or timm.", "Name another one.")
    for key, value in arguments.items():
        if not _is_sound(key, value):
            raise InvalidArtifactError(
                f"The architecture {shown(arch)} has the argument {shown(key)} = {shown(value)}, which is not allowed.",
                "Give numbers, lists of numbers, and the name of a backbone in timm.",
            )


def require_arch(name: str) -> None:
    """Raise ``UsageError``, with names that are near, unless timm knows the architecture ``name``."""
    if not _is_known(name):
        near = ", ".join(get_close_matches(name, import_timm().list_models(), 5))
        hint = f"Try {near}." if near else "See timm.list_models()."
        raise UsageError(f"There is no architecture {shown(name)}.", hint)


def build(arch: str, taxonomy: Taxonomy, arguments: Mapping[str, Any]) -> nn.Module:
    """The network ``arch`` with one logit per class; those of this room are given the whole tree."""
    timm = import_timm()
    ours = timm.models.model_entrypoint(arch).__module__.startswith(f"{__package__}.")
    classes = {"taxonomy": taxonomy} if ours else {"num_classes": len(taxonomy)}
    network: nn.Module = timm.create_model(arch, **classes, **arguments)
    return network


def rehearse(arch: str, taxonomy: Taxonomy, arguments: Mapping[str, Any], sizes: Iterable[int]) -> None:
    """Build the network without weights and run it without computing, for images of each of ``sizes`` pixels.

    Raises ``InvalidArtifactError`` if that fails or it does not map ``[N, 3, H, W]`` to ``[N, classes]``.
    """
    check(arch, arguments)
    with building(arch, arguments), torch.device("meta"), torch.no_grad():
        network = build(arch, taxonomy, arguments).eval()
        for size in sizes:
            logits = network(torch.empty(2, 3, size, size))
            if not isinstance(logits, torch.Tensor) or logits.shape != (2, len(taxonomy)):
                raise ValueError(f"it does not give {len(taxonomy)} logits for an image of {size} pixels")


def create(arch: str, taxonomy: Taxonomy, arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build a network over ``taxonomy``, give it the weights ``state``, and return it in eval mode.

    Nothing larger than ``state`` is allocated. Raises ``InvalidArtifactError`` for what ``check`` refuses, and if a
    weight is missing, left over or of another shape.
    """
    check(arch, arguments)
    with building(arch, arguments):
        with torch.device("meta"):
            skeleton = build(arch, taxonomy, arguments).state_dict()
        for name in skeleton.keys() | state.keys():
            wanted, given = (tuple(s[name].shape) if name in s else None for s in (skeleton, state))
            if wanted != given:
                raise InvalidArtifactError(
                    f"The weights {shown(name)} should be of shape {wanted}, but are of {given}.",
                    "They belong to another network: train it again.",
                )
        network = build(arch, taxonomy, arguments)
        network.load_state_dict(state)
    return network.eval()


@contextmanager
def building(arch: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Turn what timm and torch raise inside into an ``InvalidArtifactError`` that says which network it is."""
    try:
        yield
    except _UNBUILDABLE as error:
        backbone = arguments.get("backbone")
        other = ", or name a convolutional network with feature info, such as resnet50" if backbone else ""
        hint = f"Correct its arguments or the size of the images{other}."
        raise InvalidArtifactError(f"The network {shown(arch)} cannot be built ({shown(error)}).", hint) from error


def _is_known(name: Any) -> bool:
    return isinstance(name, str) and ":" not in name and bool(import_timm().is_model(name))


def _is_sound(key: str, value: Any, nested: bool = False) -> bool:
    if key in _REFUSED or key.startswith("pretrained"):
        return False
    if key == "backbone" and not nested:
        return _is_known(value)
    if key in _CHOICES and isinstance(value, str):
        return value.isidentifier()
    if key == "backbone_args" and not nested and isinstance(value, Mapping):
        return all(_is_sound(k, v, nested=True) for k, v in value.items())
    return all(isinstance(item, _NUMBERS) for item in (value if isinstance(value, (list, tuple)) else [value]))
