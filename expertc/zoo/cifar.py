"""The residual networks for images of 32 pixels that HierNet is built on (He et al. 2016, section 4.2).

A stem of 16 channels, then ``n`` blocks each of 16, 32 and 64 channels, global average pooling, one linear layer: a
network of 6n + 2 layers. Two kinds: with ReLU, and with ELU as HierNet's authors have it, where a block has no batch
norm behind its first convolution and no activation behind the addition, and one ELU stands before the pooling. Where
a block has a stride its shortcut is a projection with batch norm, everywhere else the identity.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..taxonomy import Taxonomy
from .blocks import GlobalPool

__all__ = ["BasicBlock", "CifarResNet"]

CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``[N, cout, ceil(H/s), ceil(W/s)]`` from ``[N, cin, H, W]``."""

    def __init__(self, cin: int, cout: int, stride: int = 1, elu: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.Identity() if elu else nn.BatchNorm2d(cout)
        self.act1 = nn.ELU() if elu else nn.ReLU()
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        self.act2 = nn.Identity() if elu else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        made: Tensor = self.act2(y + self.shortcut(x))
        return made


class CifarResNet(nn.Module):
    """See the module. ``n``: blocks of one width; ``drop_rate``: dropout before the linear layer.

    Maps images ``[N, in_chans, H, W]`` float to logits ``[N, classes]``. Every block is one of timm's feature maps.
    Raises ``ValueError`` for ``n`` below 1.
    """

    def __init__(
        self, taxonomy: Taxonomy, n: int = 3, elu: bool = False, drop_rate: float = 0.0, in_chans: int = 3
    ) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"n is {n}, not 1 or more")
        self.taxonomy, self.num_classes = taxonomy, len(taxonomy)
        self.num_features = self.head_hidden_size = CHANNELS[-1]
        cin = CHANNELS[0]
        act = nn.ELU() if elu else nn.ReLU()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, cin, 3, 1, 1, bias=False), nn.BatchNorm2d(cin), act)
        self.blocks = nn.Sequential()
        self.feature_info = []
        reduction = 1
        for number in range(3 * n):
            cout = CHANNELS[number // n]
            stride = 1 if cin == cout else 2
            self.blocks.append(BasicBlock(cin, cout, stride, elu))
            reduction, cin = reduction * stride, cout
            self.feature_info.append({"num_chs": cout, "reduction": reduction, "module": f"blocks.{number}"})
        self.act = nn.ELU() if elu else nn.Identity()
        self.feature_info[-1]["module"] = "act"
        self.pool = GlobalPool()
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(cin, self.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # fan in, as HierNet's authors start

    def forward_features(self, x: Tensor) -> Tensor:
        """What is pooled: ``[N, 64, ceil(H/4), ceil(W/4)]``."""
        features: Tensor = self.act(self.blocks(self.stem(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.head(self.drop(self.pool(self.forward_features(x))))
        return logits
