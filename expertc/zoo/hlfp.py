"""HLFP: high-level feature partitioning. A trunk, then one branch per class.

The trunk is ResNet-50 up to conv3 (T3) or conv4 (T4). Above it stand independent branches of three projected
bottlenecks, one per class, each ending in global average pooling and one logit; the logits are concatenated in class
order. In the nested variant the first block of a branch is shared by the classes of a super-class. An expert for some
classes needs the trunk and their branches, nothing else.

Every network comes in two forms that compute the same: *separate* modules, one per branch, and *fused*, all branches
side by side in grouped convolutions. Either form loads the other's state dict.

Selective attention: the output of conv block 5, the second of a branch, counted from conv4, is multiplied by the
branch's ``gain``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..controls import GAIN, Control
from ..taxonomy import Node, Taxonomy
from .blocks import Bottleneck, GlobalPool, initialise
from .forms import FORMS, load_either_form
from .parts import IMAGE, TRUNK, Part, run
from .trunk import make_trunk

__all__ = ["HLFP", "Branches", "Design"]

Block = tuple[int, int, int]  # width, channels out, stride


@dataclass(frozen=True)
class Design:
    """What a variant is made of: trunk, blocks per super-class, blocks per class, and where the gain comes in.

    ``trunk`` is the index of the backbone's feature map: 2 for T3, 3 for T4. The gain is multiplied onto the output of
    ``blocks[attended]``. ``single``: one branch with a logit for every class.
    """

    trunk: int
    blocks: tuple[Block, ...]
    attended: int
    groups: tuple[Block, ...] = ()
    single: bool = False

    def scaled(self, width: float) -> Design:
        """The same design with every channel count multiplied by ``width``, at least one channel."""

        def thin(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
            return tuple((max(1, round(w * width)), max(1, round(out * width)), s) for w, out, s in blocks)

        return replace(self, blocks=thin(self.blocks), groups=thin(self.groups))


SMALL = Design(2, ((128, 512, 2), (64, 256, 2), (32, 128, 2)), attended=1)
BIG = Design(2, ((256, 1024, 2), (128, 512, 2), (64, 256, 2)), attended=1)
LATE = Design(3, SMALL.blocks, attended=0)
ONE_BRANCH = replace(LATE, single=True)
NESTED = Design(2, SMALL.blocks[1:], attended=0, groups=SMALL.blocks[:1])

CHANNELS = (64, 128, 256, 512)  # of ResNet-50's stages


class Branches(nn.Module):
    """One branch, or ``branches`` of them fused: bottlenecks, then pooling and ``outputs`` logits per branch if any.

    Maps ``[N, cin, H, W]`` (``shared``) or ``[N, branches * cin, H, W]`` to ``[N, branches * outputs]``, or without
    outputs to ``[N, branches * cout, H', W']``. ``gain`` is ``[branches]``.
    """

    def __init__(
        self,
        cin: int,
        blocks: Sequence[Block],
        *,
        branches: int = 1,
        shared: bool = True,
        outputs: int = 0,
        attended: int = 0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.attended = attended
        self.blocks = nn.ModuleList()
        for width, cout, stride in blocks:
            self.blocks.append(Bottleneck(cin, width, cout, stride, branches=branches, shared=shared))
            cin, shared = cout, False
        self.pool = GlobalPool(keepdim=True) if outputs else None
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Conv2d(branches * cin, branches * outputs, 1, groups=branches) if outputs else None

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """See the class."""
        for number, block in enumerate(self.blocks):
            x = block(x)
            if gain is not None and number == self.attended:
                channels = x.shape[1] // gain.shape[0]
                x = x * gain[:, None].expand(-1, channels).reshape(1, -1, 1, 1)
        if self.head is None or self.pool is None:
            return x
        return torch.flatten(self.head(self.drop(self.pool(x))), 1)


class HLFP(nn.Module):
    """Trunk and branches.

    Args:
        taxonomy: the classes; for the nested design a class's super-class is its parent.
        design: the variant.
        form: "fused" or "separate".
        width: factor on the channels of trunk and branches, for small machines; the stem stays as it is.
        drop_rate: dropout before each head.
        pretrained_backbone: start from timm's weights for ResNet-50.

    Maps images ``[N, 3, H, W]`` and, if given, ``gain`` ``[branches]`` to logits ``[N, classes]``. Without a gain
    nothing is multiplied, which is the same as ones. Raises ``ValueError`` for arguments that do not fit.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        design: Design = SMALL,
        form: str = "fused",
        width: float = 1.0,
        drop_rate: float = 0.0,
        in_chans: int = 3,
        pretrained_backbone: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is '{form}', not one of {', '.join(FORMS)}")
        if not width > 0:
            raise ValueError(f"width is {width}, not above 0")
        self.taxonomy, self.form, self.design = taxonomy, form, design.scaled(width)
        self.num_classes = len(taxonomy)
        self.owners = _owners(taxonomy) if design.groups else None
        channels = None if width == 1 else {"channels": tuple(max(1, round(c * width)) for c in CHANNELS)}
        self.trunk, self.num_features = make_trunk(
            "resnet50", design.trunk, pretrained=pretrained_backbone, in_chans=in_chans, options=channels
        )
        cin = self.num_features
        if self.owners is not None:
            self.groups = self._branches(max(self.owners) + 1, cin, self.design.groups)
            cin = self.design.groups[-1][1]
        self.branches = self._branches(
            1 if design.single else self.num_classes, cin, self.design.blocks, shared=self.owners is None,
            outputs=self.num_classes if design.single else 1, attended=design.attended, drop_rate=drop_rate,
        )  # fmt: skip
        initialise(self)
        self.register_load_state_dict_pre_hook(load_either_form)

    @property
    def counts(self) -> dict[str, int]:
        """How many branches each stack of them has, by the name it has in the state dict."""
        found = {"branches": 1 if self.design.single else self.num_classes}
        return found if self.owners is None else {"groups": max(self.owners) + 1, **found}

    def _branches(self, count: int, cin: int, blocks: Sequence[Block], **options: Any) -> nn.Module:
        if self.form == "fused":
            return Branches(cin, blocks, branches=count, **options)
        return nn.ModuleList(Branches(cin, blocks, **{**options, "shared": True}) for _ in range(count))

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's output, ``[N, num_features, H/8, W/8]`` (T3) or ``[N, num_features, H/16, W/16]`` (T4)."""
        features: Tensor = self.trunk(x)[-1]
        return features

    def forward(self, image: Tensor, gain: Tensor | None = None) -> Tensor:
        """See the class."""
        x = self.forward_features(image)
        if not self.is_separate:
            if self.owners is not None:
                y = self.groups(x).unflatten(1, (max(self.owners) + 1, -1))
                x = y.index_select(1, torch.tensor(self.owners, device=y.device)).flatten(1, 2)
            fused: Tensor = self.branches(x, gain)
            return fused
        return run(self.parts(), self.logits(), x, gain)

    @property
    def controls(self) -> tuple[Control, ...]:
        """The gain as an input of the exported model: ones by default."""
        count = self.counts["branches"]
        return (Control(GAIN, (1.0,) * count, per_class=count == self.num_classes),)

    @property
    def is_separate(self) -> bool:
        """Whether the branches are modules of their own."""
        return self.form == "separate"

    def parts(self) -> Iterator[Part]:
        """The network in pieces, each after those it reads; only of a separate one."""
        yield Part(TRUNK, self.trunk, (IMAGE,))
        assert isinstance(self.branches, nn.ModuleList)
        if self.owners is not None:
            assert isinstance(self.groups, nn.ModuleList)
            for i, group in enumerate(self.groups):
                yield Part(f"groups.{i}", group, (TRUNK,))
        for i, branch in enumerate(self.branches):
            read = TRUNK if self.owners is None else f"groups.{self.owners[i]}"
            yield Part(f"branches.{i}", branch, (read,), i)

    def logits(self) -> list[str]:
        """The parts that make the logits, in class order."""
        return [f"branches.{i}" for i in range(self.counts["branches"])]


def _owners(taxonomy: Taxonomy) -> list[int]:
    """For every class the number of its parent, in the order in which the parents stand in the tree."""
    parents: list[Node] = [node for node in taxonomy.nodes() if any(child.is_class for child in node.children)]
    found = {leaf.index: at for at, node in enumerate(parents) for leaf in node.children if leaf.index is not None}
    if len(found) < len(taxonomy):
        raise ValueError("the nested design needs a taxonomy in which every class has a super-class")
    return [found[index] for index in range(len(taxonomy))]
