"""A timm backbone as a row of stages, of which any stretch can be had any number of times.

A stage is what lies between two of the feature maps that the backbone lists (``feature_info``); the first one has the
stem in it. What follows the last feature map is left out.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UsageError
from ..text import shown
from ._timm import import_timm

timm = import_timm()

from timm.models._features import FeatureDictNet  # noqa: E402  (timm must be imported through import_timm first)


class Stretch(nn.Sequential):
    """Stages of a backbone one after another, their layers under the names that timm's ``FeatureDictNet`` gives them:
    the backbone's own with "_" for the first dot. Without any it is the identity.
    """


@dataclass(frozen=True)
class Stages:
    """A backbone: per stage its layers by name, the channels before the first stage and after each, and timm's
    facts about its images.
    """

    layers: tuple[tuple[tuple[str, nn.Module], ...], ...]
    channels: tuple[int, ...]
    config: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.layers)

    def stretch(self, start: int, stop: int) -> Stretch:
        """A copy of the stages ``start`` to ``stop - 1``, which begins with the same weights as any other."""
        return Stretch(OrderedDict(copy.deepcopy([pair for stage in self.layers[start:stop] for pair in stage])))


def make_stages(
    backbone: str, *, pretrained: bool = False, in_chans: int = 3, options: Mapping[str, Any] | None = None
) -> Stages:
    """timm's ``backbone`` in stages; ``options`` are further arguments for ``timm.create_model``.

    Raises ``UsageError`` for a backbone that is not a row of layers with feature maps between them.
    """
    arguments: dict[str, Any] = {"features_only": True, "out_indices": (-1,), "in_chans": in_chans, **(options or {})}
    try:
        net = timm.create_model(backbone, pretrained=pretrained, **arguments)
        if type(net).__name__ in _OWN:
            arguments["feature_cfg"] = {"feature_cls": "dict", "flatten_sequential": True}
            net = timm.create_model(backbone, pretrained=pretrained, **arguments)
        if not isinstance(net, FeatureDictNet):
            raise AttributeError(backbone)
    except (RuntimeError, AttributeError, AssertionError, IndexError) as error:
        if pretrained and isinstance(error, RuntimeError):
            raise  # what could not be fetched is another matter
        raise UsageError(
            f"The backbone {shown(backbone)} is no row of stages that could be parted.",
            "Choose a convolutional one: timm.list_models(module='resnet'), for example.",
        ) from error
    ends = {fact["module"].replace(".", "_"): fact["num_chs"] for fact in net.feature_info.info}
    layers: list[list[tuple[str, nn.Module]]] = [[]]
    channels = [in_chans]
    for name, layer in net.items():
        layers[-1].append((name, layer))
        if name in ends:
            layers.append([])
            channels.append(ends[name])
    return Stages(tuple(map(tuple, layers[:-1])), tuple(channels), net.pretrained_cfg)


# Feature networks of families that are plain rows of layers, but bring a class that would not say where a stage ends.
_OWN = ("EfficientNetFeatures", "MobileNetV3Features")


def origins(network: nn.Module) -> dict[str, str]:
    """For every tensor of the state dict that is in a ``Stretch``, the name that it has in the backbone."""
    found: dict[str, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, Stretch):
            found |= {f"{name}.{own}": own for own in module.state_dict()}
    return found
