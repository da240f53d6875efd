"""What branches are made of: blocks that stand for one branch, or for several side by side as grouped convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._timm import import_timm

import_timm()

from timm.layers import LayerNorm2d  # noqa: E402  (timm must be imported through import_timm first)
from timm.models.convnext import ConvNeXtBlock  # noqa: E402


class Bottleneck(nn.Module):
    """B(cin, w, out, s): 1x1, 3x3 with the stride, 1x1, each with batch norm, plus a *projected* shortcut; ReLU.

    Maps ``[N, cin, H, W]`` to ``[N, out, ceil(H/s), ceil(W/s)]``. The projection is there even where cin = out. With
    ``branches`` > 1 it is that many blocks whose channels lie side by side, branch by branch: ``[N, branches * out,
    ...]`` from ``[N, branches * cin, ...]``, or from one ``shared`` tensor ``[N, cin, ...]``, which the first 1x1 and
    the projection then read densely.
    """

    def __init__(
        self, cin: int, width: int, cout: int, stride: int = 1, *, branches: int = 1, shared: bool = True
    ) -> None:
        super().__init__()
        read, entry = (cin, 1) if shared else (branches * cin, branches)
        width, cout = branches * width, branches * cout
        self.conv1 = nn.Conv2d(read, width, 1, groups=entry, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=branches, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, groups=branches, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Conv2d(read, cout, 1, stride, groups=entry, bias=False)
        self.shortcut_bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        shortcut = self.shortcut_bn(
            self.shortcut(x)
        )  # first: its weights are the largest, and nothing else is there yet
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + shortcut)


class ConvNeXtLevel(nn.Module):
    """LayerNorm, a convolution of the level's stride, then ``depth`` ConvNeXt V2 blocks.

    Maps ``[N, cin, H, W]`` to ``[N, width, H // stride, W // stride]``; the convolution is 3x3 (padding 1) at stride 1,
    2x2 at stride 2.
    """

    def __init__(self, cin: int, width: int, stride: int, depth: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(cin)
        self.conv = nn.Conv2d(cin, width, 3, 1, 1) if stride == 1 else nn.Conv2d(cin, width, stride, stride)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, use_grn=True, ls_init_value=None) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.blocks(self.conv(self.norm(x)))
        return y


class GlobalPool(nn.Module):
    """The mean over all pixels: ``[N, C]``, or ``[N, C, 1, 1]`` with ``keepdim``, from ``[N, C, H, W]``."""

    def __init__(self, keepdim: bool = False) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean((2, 3), keepdim=self.keepdim)


def initialise(module: nn.Module) -> None:
    """Draw the first weights of bottlenecks: a residual branch starts at zero, so at first its projection speaks."""
    for part in module.modules():
        if isinstance(part, Bottleneck):
            for conv in (part.conv1, part.conv2, part.conv3, part.shortcut):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(part.bn3.weight)
