"""NHL: a nest of hierarchical levels on a convolutional trunk.

A backbone without its last stage and classifier is the trunk. Above it stands one block per node of the taxonomy: a
level-1 block reads the trunk, a level-2 block reads its parent's output, and so on; a class's block ends in global
average pooling and one linear layer with one output, the logit of that class. The logits are concatenated in class
order. An expert for some classes needs the trunk and the nodes on the paths to them, nothing else.

Blocks, one per level: projected post-activation bottlenecks B(cin, w, out, s) with out = expansion * w, widths
128/64/32 and strides 1/1/2 by default, expansion 4 (the published ResNet50-NHL); or ConvNeXt V2 levels (the published
ConvNeXtV2-tiny-NHL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..taxonomy import Node, Taxonomy
from .blocks import Bottleneck, ConvNeXtLevel, GlobalPool, initialise
from .parts import IMAGE, TRUNK, Part, run
from .trunk import make_trunk

__all__ = ["NHL", "ClassNode", "GroupNode"]

BLOCKS = ("bottleneck", "convnext")


@dataclass(frozen=True)
class Level:
    """How the blocks of one level of the tree are made; ``depth`` counts the ConvNeXt V2 blocks of one."""

    block: str
    width: int
    stride: int
    expansion: int
    depth: int

    def make(self, cin: int) -> tuple[nn.Module, int]:
        """A block that reads ``cin`` channels, and the channels it gives."""
        cout = self.width * self.expansion
        if self.block == "convnext":
            return ConvNeXtLevel(cin, cout, self.stride, self.depth), cout
        return Bottleneck(cin, self.width, cout, self.stride), cout


class ClassNode(nn.Module):
    """A class of the tree: its block, global average pooling, one logit. Maps ``[N, cin, H, W]`` to ``[N, 1]``."""

    def __init__(self, index: int, cin: int, level: Level, drop_rate: float) -> None:
        super().__init__()
        self.index = index
        self.block, cout = level.make(cin)
        self.pool = GlobalPool()
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logit: Tensor = self.head(self.drop(self.pool(self.block(x))))
        return logit


class GroupNode(nn.Module):
    """A category of the tree: its block, and the nodes below, which read what the block gives."""

    def __init__(self, nodes: Sequence[Node], cin: int, levels: Sequence[Level], depth: int, drop_rate: float) -> None:
        super().__init__()
        self.block, cout = _level(levels, depth).make(cin)
        self.children_by_name = nest(nodes, cout, levels, depth + 1, drop_rate)


def nest(nodes: Sequence[Node], cin: int, levels: Sequence[Level], depth: int, drop_rate: float) -> nn.ModuleDict:
    """The modules of sibling nodes, by name."""
    made = nn.ModuleDict()
    for node in nodes:
        if node.index is not None:
            made[module_name(node.name)] = ClassNode(node.index, cin, _level(levels, depth), drop_rate)
        else:
            made[module_name(node.name)] = GroupNode(node.children, cin, levels, depth, drop_rate)
    return made


def _level(levels: Sequence[Level], depth: int) -> Level:
    """A class may hang higher than the deepest level, and a tree be deeper than the levels: the last one holds."""
    return levels[min(depth, len(levels) - 1)]


class NHL(nn.Module):
    """Trunk plus nest.

    Args:
        taxonomy: the class tree; logit ``i`` belongs to the class with index ``i``.
        backbone: name of a timm convolutional model with feature info; its last stage and classifier are left out.
        widths, strides: per level of the tree, the bottleneck width and stride; the last entry holds for deeper levels.
        expansion: output channels of a block divided by its width.
        block: "bottleneck" or "convnext".
        depths: per level, how many ConvNeXt V2 blocks one holds (bottlenecks stand alone).
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
        block: str = "bottleneck",
        depths: Sequence[int] = (1, 1, 1),
        drop_rate: float = 0.0,
        in_chans: int = 3,
        pretrained_backbone: bool = False,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"block is '{block}', not one of {', '.join(BLOCKS)}")
        if block == "bottleneck":
            depths = (1,) * len(widths)
        if not len(widths) == len(strides) == len(depths) or not widths:
            raise ValueError(f"widths {tuple(widths)} and strides {tuple(strides)} must be as long as each other")
        levels = [Level(block, w, s, expansion, d) for w, s, d in zip(widths, strides, depths, strict=True)]
        self.taxonomy = taxonomy
        self.num_classes = len(taxonomy)
        self.trunk, self.num_features = make_trunk(
            backbone, -2, pretrained=pretrained_backbone, in_chans=in_chans, options=backbone_args
        )
        self.nest = nest(taxonomy.roots, self.num_features, levels, 0, drop_rate)
        initialise(self.nest)

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's output, ``[N, num_features, H/16, W/16]`` for a ResNet."""
        features: Tensor = self.trunk(x)[-1]
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 3, H, W]``."""
        return run(self.parts(), self.logits(), self.forward_features(x))

    is_separate = True

    def parts(self) -> Iterator[Part]:
        """The network in pieces, each after those it reads."""
        yield Part(TRUNK, self.trunk, (IMAGE,))
        stack = [(f"nest.{name}", node, TRUNK) for name, node in self.nest.items()]
        while stack:
            name, node, read = stack.pop()
            if isinstance(node, ClassNode):
                yield Part(name, node, (read,))
            elif isinstance(node, GroupNode):
                yield Part(f"{name}.block", node.block, (read,))
                below = node.children_by_name.items()
                stack += [(f"{name}.children_by_name.{key}", child, f"{name}.block") for key, child in below]

    def logits(self) -> list[str]:
        """The part that makes each class's logit ``[N, 1]``, in class order."""
        found = {part.module.index: part.name for part in self.parts() if isinstance(part.module, ClassNode)}
        return [found[index] for index in range(self.num_classes)]


def module_name(name: str) -> str:
    """A taxonomy name as a torch module name, different for different names.

    A dot would be read as a path, and a class may be called "pop", like a method of the container.
    """
    name = name.replace("%", "%25").replace(".", "%2E")
    return f"{name}%" if hasattr(_EMPTY, name) else name


_EMPTY = nn.ModuleDict()
