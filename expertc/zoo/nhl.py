"""NHL: a nest of hierarchical levels on a convolutional trunk.

A backbone without its last stage and classifier is the trunk. Above it stands one block per node of the taxonomy: a
level-1 block reads the trunk, a level-2 block reads its parent's output, and so on; a class's block ends in global
average pooling and one linear layer with one output, the logit of that class. The logits are concatenated in class
order. An expert for some classes needs the trunk and the nodes on the paths to them, nothing else.

Blocks are projected post-activation bottlenecks B(cin, w, out, s) with out = expansion * w, one per level, widths
128/64/32 and strides 1/1/2 by default, expansion 4 (the published ResNet50-NHL).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..taxonomy import Node, Taxonomy
from ._timm import import_timm

timm = import_timm()

from timm.models import register_model  # noqa: E402  (timm must be imported through import_timm first)

__all__ = ["NHL", "Bottleneck", "NestNode"]  # register_model adds the names it registers


class Bottleneck(nn.Module):
    """B(cin, w, out, s): 1x1, 3x3 with the stride, 1x1, each with batch norm, plus a *projected* shortcut; ReLU.

    Maps ``[N, cin, H, W]`` to ``[N, out, ceil(H/s), ceil(W/s)]``. The projection is there even where cin = out.
    """

    def __init__(self, cin: int, width: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.shortcut_bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut_bn(self.shortcut(x)))


class NestNode(nn.Module):
    """One taxonomy node: its block, and either its children or, for a class, the head of one logit."""

    def __init__(
        self,
        node: Node,
        cin: int,
        widths: Sequence[int],
        strides: Sequence[int],
        expansion: int,
        drop_rate: float,
        level: int = 0,
    ) -> None:
        super().__init__()
        # A class may hang higher than the deepest level and a tree may be deeper than the widths: the last width holds.
        at = min(level, len(widths) - 1)
        cout = widths[at] * expansion
        self.block = Bottleneck(cin, widths[at], cout, strides[at])
        self.index = node.index
        if node.is_class:
            self.drop = nn.Dropout(drop_rate)
            self.head = nn.Linear(cout, 1)
        else:
            self.children_by_name = nn.ModuleDict(
                {
                    _module_name(child.name): NestNode(child, cout, widths, strides, expansion, drop_rate, level + 1)
                    for child in node.children
                }
            )

    def forward(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """Return ``(class index, logit [N, 1])`` of every class at or below this node."""
        y = self.block(x)
        if self.index is not None:
            return [(self.index, self.head(self.drop(y.mean((2, 3)))))]
        return [pair for child in self.children_by_name.values() for pair in child(y)]


class NHL(nn.Module):
    """Trunk plus nest.

    Args:
        taxonomy: the class tree; logit ``i`` belongs to the class with index ``i``.
        backbone: name of a timm convolutional model with feature info; its last stage and classifier are left out.
        widths, strides: per level of the tree, the bottleneck width and stride; the last entry holds for deeper levels.
        expansion: output channels of a block divided by its width.
        drop_rate: dropout before each head.
        pretrained_backbone: start from timm's weights for the backbone, which timm fetches.
        backbone_args: further arguments for ``timm.create_model`` of the backbone.

    Maps images ``[N, 3, H, W]`` float to logits ``[N, classes]``.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        backbone: str = "resnet50",
        widths: Sequence[int] = (128, 64, 32),
        strides: Sequence[int] = (1, 1, 2),
        expansion: int = 4,
        drop_rate: float = 0.0,
        in_chans: int = 3,
        pretrained_backbone: bool = False,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(widths) != len(strides) or not widths:
            raise ValueError(f"widths {tuple(widths)} and strides {tuple(strides)} must be as long as each other")
        self.taxonomy = taxonomy
        self.num_classes = len(taxonomy)
        self.trunk = timm.create_model(
            backbone,
            pretrained=pretrained_backbone,
            features_only=True,
            out_indices=(-2,),
            in_chans=in_chans,
            **(backbone_args or {}),
        )
        self.num_features = int(self.trunk.feature_info.channels()[-1])
        self.nest = nn.ModuleDict(
            {
                _module_name(root.name): NestNode(root, self.num_features, widths, strides, expansion, drop_rate)
                for root in taxonomy.roots
            }
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.nest.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                # The residual branch starts at zero, so at first the nest is a stack of its projections.
                nn.init.zeros_(module.bn3.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's output, ``[N, num_features, H/16, W/16]`` for a ResNet."""
        features: Tensor = self.trunk(x)[-1]
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 3, H, W]``."""
        x = self.forward_features(x)
        logits = dict(pair for root in self.nest.values() for pair in root(x))
        return torch.cat([logits[i] for i in range(self.num_classes)], dim=1)


def _module_name(name: str) -> str:
    """A taxonomy name as a torch module name, different for different names.

    A dot would be read as a path, and a class may be called "pop", like a method of the container.
    """
    name = name.replace("%", "%25").replace(".", "%2E")
    return f"{name}%" if hasattr(_EMPTY, name) else name


_EMPTY = nn.ModuleDict()


def _flat(num_classes: int) -> Taxonomy:
    return Taxonomy.flat([f"class-{i}" for i in range(num_classes)])


@register_model
def nhl(pretrained: bool = False, **kwargs: Any) -> NHL:
    """NHL on any timm backbone: ``timm.create_model("nhl", backbone=..., taxonomy=...)``."""
    if pretrained:
        raise ValueError("NHL has no pretrained weights of its own; use pretrained_backbone=True for the trunk")
    num_classes = kwargs.pop("num_classes", None)
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(unused, None)
    taxonomy = kwargs.pop("taxonomy", None) or _flat(num_classes or 1000)
    if num_classes not in (None, len(taxonomy)):
        raise ValueError(f"num_classes is {num_classes}, but the taxonomy has {len(taxonomy)} classes")
    return NHL(taxonomy, **kwargs)


@register_model
def nhl_resnet50(pretrained: bool = False, **kwargs: Any) -> NHL:
    """NHL on ResNet-50 without conv5, as published."""
    return nhl(pretrained, **({"backbone": "resnet50"} | kwargs))


@register_model
def nhl_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> NHL:
    """A small NHL: EfficientNet-Lite0 up to its last layers of stride 16, 112 channels."""
    # timm's feature network for this family keeps the layers nobody reads; its getter takes them out.
    return nhl(pretrained, **({"backbone": "efficientnet_lite0", "backbone_args": {"feature_cls": "getter"}} | kwargs))
