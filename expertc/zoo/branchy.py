"""Exits on two kinds of body: the AlexNet for images of 32 pixels of the Gran-HBN paper, and any timm row of stages.

The AlexNet has no layer sizes in the paper; they are those of its authors' code. Convolutions are 3x3 with padding 1
and a bias, without norms; ReLU follows max pooling. Weights start as torch has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..taxonomy import Taxonomy
from .blocks import GlobalPool
from .exits import ExitNet
from .stages import make_stages

__all__ = ["alexnet", "attached"]

VECTOR = 2048  # what an exit of the AlexNet reads
_IMAGES = {"input_size": (3, 32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
           "interpolation": "bilinear", "crop_pct": 1.0}  # fmt: skip


def alexnet(
    taxonomy: Taxonomy,
    fine: Sequence[bool],
    coarse: Sequence[bool],
    semantic: bool = False,
    thresholds: Sequence[float] = (),
    drop_rate: float = 0.5,
    in_chans: int = 3,
) -> ExitNet:
    """The paper's body of three stages for ``[N, in_chans, 32, 32]``, with the exits that ``fine`` and ``coarse`` name.

    ``drop_rate`` is that of the dropout before each hidden linear layer. The rest, and what is raised: see ``ExitNet``.
    """
    body = [
        _Row().conv(in_chans, 64, stride=2).pool(),
        _Row().conv(64, 192).pool().conv(192, 384).relu(),
        _Row().conv(384, 256).relu().conv(256, 256).pool(),
    ]
    necks = [
        _Row().conv(64, 256).pool().conv(256, 128).pool().flat().linear(512, drop_rate),
        _Row().conv(384, 256, stride=2).pool().flat().linear(256, drop_rate),
        _Row().flat().linear(1024, drop_rate).linear(VECTOR, drop_rate),
    ]
    hung = [(neck, VECTOR) for neck in necks]
    return ExitNet(taxonomy, body, hung, fine, coarse, semantic, thresholds, _IMAGES)


class _Row(nn.Sequential):
    """Layers, each added by its name."""

    def conv(self, cin: int, cout: int, stride: int = 1) -> _Row:
        return self._with(nn.Conv2d(cin, cout, 3, stride, 1))

    def relu(self) -> _Row:
        return self._with(nn.ReLU())

    def pool(self) -> _Row:
        return self._with(nn.MaxPool2d(2), nn.ReLU())

    def flat(self) -> _Row:
        return self._with(nn.Flatten())

    def linear(self, channels: int, drop_rate: float) -> _Row:
        return self._with(nn.Dropout(drop_rate), nn.Linear(channels, VECTOR), nn.ReLU())

    def _with(self, *layers: nn.Module) -> _Row:
        self.extend(layers)
        return self


def attached(
    taxonomy: Taxonomy,
    backbone: str = "resnet18",
    at: Sequence[int] = (1, 2),
    fine: bool | Sequence[bool] = True,
    coarse: bool | Sequence[bool] = True,
    semantic: bool = False,
    width: int = 256,
    thresholds: Sequence[float] = (),
    drop_rate: float = 0.0,
    in_chans: int = 3,
    pretrained_backbone: bool = False,
    backbone_args: Mapping[str, Any] | None = None,
) -> ExitNet:
    """Exits on timm's ``backbone``: early ones behind its feature maps number ``at``, the last behind its last.

    The numbers are those of timm's ``out_indices``, rising. An early neck is a 3x3 convolution of stride 2 to ``width``
    channels with batch norm and ReLU, and global average pooling; the last neck is the pooling alone, as in the
    backbone. ``drop_rate`` is that of a dropout behind the pooling, ``backbone_args`` are further arguments for
    ``timm.create_model``. The rest, and what is raised: see ``ExitNet``; ``UsageError`` also for a backbone that is not
    a row of layers with feature maps between them.
    """
    stages = make_stages(backbone, pretrained=pretrained_backbone, in_chans=in_chans, options=backbone_args)
    ends = [number + 1 for number in at] + [len(stages)]
    if ends[0] < 1 or sorted(set(ends)) != ends:
        raise ValueError(f"at is {list(at)}, not rising numbers of feature maps before the last, number {ends[-1] - 1}")
    body = [stages.stretch(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    drop = nn.Dropout(drop_rate)
    necks: list[tuple[nn.Module, int]] = [
        (
            nn.Sequential(
                nn.Conv2d(stages.channels[end], width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                GlobalPool(), drop,
            ),
            width,
        )
        for end in ends[:-1]
    ]  # fmt: skip
    necks.append((nn.Sequential(GlobalPool(), drop), stages.channels[-1]))
    return ExitNet(taxonomy, body, necks, fine, coarse, semantic, thresholds, stages.config)
