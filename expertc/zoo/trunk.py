"""The trunk under the branches: a timm backbone up to one of its feature maps, nothing behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..text import shown
from ._timm import import_timm

timm = import_timm()

from timm.models._features import FeatureDictNet, FeatureGetterNet  # noqa: E402  (timm must be imported first)


def make_trunk(
    backbone: str, at: int, *, pretrained: bool = False, in_chans: int = 3, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int]:
    """Return timm's ``backbone`` up to feature map ``at`` (as in ``out_indices``) and that map's channels.

    The module maps ``[N, in_chans, H, W]`` to a list of one tensor. ``options`` are further arguments for
    ``timm.create_model``. Raises ``UsageError`` for a backbone without feature maps.
    """
    arguments: dict[str, Any] = {"features_only": True, "out_indices": (at,), "in_chans": in_chans, **(options or {})}
    try:
        with torch.device("meta"):
            probe = timm.create_model(backbone, **arguments)
        if not isinstance(probe, (FeatureDictNet, FeatureGetterNet)):
            # Some families bring a feature network of their own, which keeps the layers that nobody reads.
            arguments["feature_cls"] = "getter"
        trunk = timm.create_model(backbone, pretrained=pretrained, **arguments)
        return trunk, int(trunk.feature_info.channels()[-1])
    except (RuntimeError, AttributeError, AssertionError, IndexError) as error:
        if pretrained and isinstance(error, RuntimeError):
            raise  # what could not be fetched is another matter
        raise UsageError(
            f"The backbone {shown(backbone)} has no feature maps to put branches on.",
            "Choose a convolutional one: timm.list_models(module='resnet'), for example.",
        ) from error
