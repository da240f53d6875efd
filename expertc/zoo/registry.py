"""The networks' names in timm's registry: ``timm.create_model("hlfp_small", num_classes=100)``.

Each takes ``num_classes`` (and makes up the published tree, or none) or ``taxonomy``, and the arguments of its class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..taxonomy import Taxonomy
from . import trees
from ._timm import import_timm
from .branchy import alexnet, attached
from .cifar import CifarResNet
from .exits import ExitNet
from .hiernet import HierNet
from .hlfp import BIG, HLFP, LATE, NESTED, ONE_BRANCH, SMALL, Design
from .nhl import NHL

import_timm()

from timm.models import build_model_with_cfg, register_model  # noqa: E402  (timm must be imported through import_timm first)

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


# Of CIFAR-100, whose pixels are HierNet's inputs; "classifier" is what a trained backbone does not hand on.
_CIFAR = {
    "input_size": (3, 32, 32), "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762),
    "interpolation": "bilinear", "crop_pct": 1.0, "first_conv": "stem.0", "classifier": "head",
}  # fmt: skip

# n, and for ReLU and ELU where the top's body ends and how many blocks its head has: the paper's.
_PUBLISHED = {3: ((5, 2), (6, 2)), 5: ((9, 3), (9, 3)), 7: ((12, 4), (15, 2)), 9: ((16, 5), (19, 5)),
              18: ((38, 4), (38, 4))}  # fmt: skip


@register_model
def hiernet(pretrained: bool = False, **kwargs: Any) -> HierNet:
    """HierNet on any timm row of stages: ``timm.create_model("hiernet", backbone=..., taxonomy=...)``."""
    return HierNet(**_arguments(pretrained, trees.hiernet, kwargs))


def _register_published(n: int, elu: bool, split: int, add: int) -> None:
    """``cifar_resnet20`` and ``hiernet_resnet20``, or with "elu_" in their names, for one n."""
    kind = f"{'elu_' if elu else ''}resnet{6 * n + 2}"
    backbone = f"cifar_{kind}"

    def resnet(pretrained: bool = False, **kwargs: Any) -> Any:
        arguments = {"n": n, "elu": elu, **_arguments(pretrained, trees.flat, kwargs)}
        return build_model_with_cfg(
            CifarResNet, backbone, False, pretrained_cfg=_CIFAR, kwargs_filter=("num_classes", "global_pool"),
            feature_cfg={"flatten_sequential": True}, **arguments,
        )  # fmt: skip

    def hierarchical(pretrained: bool = False, **kwargs: Any) -> HierNet:
        published = {"backbone": backbone, "split": split, "add": add}
        return HierNet(**{**published, **_arguments(pretrained, trees.hiernet, kwargs)})

    for entry, name in ((resnet, backbone), (hierarchical, f"hiernet_{kind}")):
        entry.__name__ = name
        register_model(entry)


for _n, _kinds in _PUBLISHED.items():
    for _elu, _at in enumerate(_kinds):
        _register_published(_n, bool(_elu), *_at)


@register_model
def exits(pretrained: bool = False, **kwargs: Any) -> ExitNet:
    """Early exits on any timm row of stages: ``timm.create_model("exits", backbone=..., at=(1, 2), taxonomy=...)``."""
    return attached(**_arguments(pretrained, trees.hbn, kwargs))


# Which exits of the paper's AlexNet are fine, which coarse, whether there is a semantic one; AG-HBN's own thresholds.
_EXITS: dict[str, dict[str, Any]] = {
    "hbn_alexnet": {"fine": (0, 0, 1), "coarse": (0, 0, 0)},
    "b_alexnet": {"fine": (1, 1, 1), "coarse": (0, 0, 0)},
    "sem_hbn": {"fine": (0, 0, 1), "coarse": (1, 1, 0)},
    "gran_hbn": {"fine": (1, 1, 1), "coarse": (1, 1, 1)},
    "ag_hbn": {"fine": (1, 1, 1), "coarse": (1, 1, 1), "semantic": True, "thresholds": (0.5, 0.3)},
}


def _register_exits(name: str, published: dict[str, Any]) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> ExitNet:
        return alexnet(**{**published, **_arguments(pretrained, trees.hbn, kwargs)})

    entry.__name__ = name
    register_model(entry)


for _name, _published in _EXITS.items():
    _register_exits(_name, _published)
