"""The networks' names in timm's registry: ``timm.create_model("hlfp_small", num_classes=100)``.

Each takes ``num_classes`` (and makes up the published tree, or none) or ``taxonomy``, and the arguments of its class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..taxonomy import Taxonomy
from . import trees
from ._timm import import_timm
from .hlfp import BIG, HLFP, LATE, NESTED, ONE_BRANCH, SMALL, Design
from .nhl import NHL

import_timm()

from timm.models import register_model  # noqa: E402  (timm must be imported through import_timm first)

__all__: list[str] = []  # register_model adds the names it registers

_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # what timm hands to every model


def _arguments(pretrained: bool, tree: Callable[[int], Taxonomy], given: dict[str, Any]) -> dict[str, Any]:
    """The network's arguments, with its taxonomy, from what ``timm.create_model`` was given."""
    if pretrained:
        raise ValueError("there are no pretrained weights; use pretrained_backbone=True for the trunk")
    arguments = {key: value for key, value in given.items() if key not in _OF_TIMM}
    number = arguments.pop("num_classes", None)
    if arguments.get("taxonomy") is None:
        arguments["taxonomy"] = tree(1000 if number is None else number)
    found = len(arguments["taxonomy"])
    if number not in (None, found):
        raise ValueError(f"num_classes is {number}, but the taxonomy has {found} classes")
    return arguments


def _hlfp(design: Design, pretrained: bool, given: dict[str, Any]) -> HLFP:
    tree = trees.hlfp_nested if design.groups else trees.flat
    return HLFP(design=design, **_arguments(pretrained, tree, given))


@register_model
def hlfp_small(pretrained: bool = False, **kwargs: Any) -> HLFP:
    """HLFP-small: ResNet-50 to conv3, then three blocks of 512, 256 and 128 channels per class."""
    return _hlfp(SMALL, pretrained, kwargs)


@register_model
def hlfp_big(pretrained: bool = False, **kwargs: Any) -> HLFP:
    """HLFP-big: as HLFP-small with twice the channels in the branches."""
    return _hlfp(BIG, pretrained, kwargs)


@register_model
def hlfp_late_sp(pretrained: bool = False, **kwargs: Any) -> HLFP:
    """HLFP late-SP: the branches part after conv4."""
    return _hlfp(LATE, pretrained, kwargs)


@register_model
def hlfp_1b_late_sp(pretrained: bool = False, **kwargs: Any) -> HLFP:
    """One branch of late-SP with a logit for every class: what late-SP is compared with."""
    return _hlfp(ONE_BRANCH, pretrained, kwargs)


@register_model
def hlfp_nested(pretrained: bool = False, **kwargs: Any) -> HLFP:
    """HLFP-nested: as HLFP-small, but the classes of a super-class share the first block."""
    return _hlfp(NESTED, pretrained, kwargs)


@register_model
def nhl(pretrained: bool = False, **kwargs: Any) -> NHL:
    """NHL on any timm backbone with feature maps: ``timm.create_model("nhl", backbone=..., taxonomy=...)``."""
    return NHL(**_arguments(pretrained, trees.flat, kwargs))


@register_model
def nhl_resnet50(pretrained: bool = False, **kwargs: Any) -> NHL:
    """NHL on ResNet-50 without conv5, as published for 100 classes."""
    return NHL(**{"backbone": "resnet50", **_arguments(pretrained, trees.nhl_resnet50, kwargs)})


@register_model
def nhl_convnextv2_tiny(pretrained: bool = False, **kwargs: Any) -> NHL:
    """NHL on ConvNeXtV2-tiny without its last stage, as published for 1000 classes."""
    published: dict[str, Any] = {
        "backbone": "convnextv2_tiny", "block": "convnext", "expansion": 1, "strides": (1, 2, 2), "depths": (3, 3, 1),
    }  # fmt: skip
    return NHL(**{**published, **_arguments(pretrained, trees.nhl_convnextv2_tiny, kwargs)})


@register_model
def nhl_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> NHL:
    """A small NHL: EfficientNet-Lite0 up to its last layers of stride 16, 112 channels."""
    return NHL(**{"backbone": "efficientnet_lite0", **_arguments(pretrained, trees.flat, kwargs)})
