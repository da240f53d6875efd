"""HierNet: a tree of small classifiers, each over the children of one category.

The top classifier says which group an image belongs to, the classifier of each group which of its members; the
probability of a class is the product of those on the way to it. So it is with trees of any depth.

The parts are made of a backbone's stages: the *body* of the top category is the backbone up to ``split``, its *head*
``add`` further stages of its own, global average pooling and a linear layer over the groups. A group whose children
are all classes reads the body above it, and its own body is the rest of the backbone, so that its head is pooling and a
linear layer over its classes. In deeper trees a category between them has a body and a head of its own, from its
entries of ``split`` and ``add``. No two parts share weights.

What comes out are logarithms of probabilities, which a softmax leaves as they are: whatever trains on logits trains the
joint distribution.

There are two ways to run it, from the same weights: *slow*, all classifiers, the joint distribution (``forward``); and
*fast*, the arg-max child alone at each category, about the backbone's cost (``routed``). An expert for some classes
needs the categories on the paths to them, and every head on the way whole, as it normalises over all its children.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..taxonomy import Node, Taxonomy
from .blocks import GlobalPool
from .nhl import module_name
from .parts import IMAGE, Part
from .stages import Stretch, make_stages, origins

__all__ = ["Choice", "HierNet", "Place"]


class Head(nn.Module):
    """Stages of its own, global average pooling, a linear layer: log-probabilities ``[N, outputs]``."""

    def __init__(self, body: Stretch, channels: int, outputs: int, drop_rate: float) -> None:
        super().__init__()
        self.body = body
        self.pool = GlobalPool()
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.log_softmax(self.linear(self.drop(self.pool(self.body(x)))), 1)


class Choice(nn.Module):
    """The classifier of one category: ``body`` makes the features that its head and the categories below it read."""

    def __init__(self, body: Stretch, head: Head) -> None:
        super().__init__()
        self.body = body
        self.head = head


@dataclass(frozen=True)
class Place:
    """Where a choice stands in the tree.

    ``name`` is the category's ("" for the whole tree), ``path`` that of the module in the network. ``above`` is the
    name of the choice above and the place among that one's children, None for the top. ``children``, in the order of
    the head's outputs, are names of choices or indices of classes.
    """

    name: str
    path: str
    above: tuple[str, int] | None
    children: tuple[str | int, ...]

    @property
    def is_leaf(self) -> bool:
        """Whether all children are classes."""
        return not any(isinstance(child, str) for child in self.children)


class HierNet(nn.Module):
    """See the module.

    Args:
        taxonomy: the class tree; output ``i`` belongs to the class with index ``i``. A category with one child decides
            nothing, so there is nothing for it in the network.
        backbone: name of a timm model that is a row of stages (``make_stages``), such as cifar_resnet20, whose stages
            are its blocks, or vgg16_bn.
        split: how many stages there are in the top's body, or a list with an entry per level of the tree: where the
            bodies of that level end. The last entry holds for deeper levels. By default half of them, at most 5.
        add: how many stages a head has of its own, per level likewise. By default 2, if as many are left.
        drop_rate: dropout before each linear layer.
        pretrained_backbone: start from timm's weights for the backbone, in every part.
        backbone_args: further arguments for ``timm.create_model`` of the backbone.

    Maps images ``[N, in_chans, H, W]`` float to log-probabilities ``[N, classes]``. Raises ``ValueError`` if split and
    add do not fit the backbone.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        backbone: str = "cifar_resnet20",
        split: int | Sequence[int] | None = None,
        add: int | Sequence[int] | None = None,
        drop_rate: float = 0.0,
        in_chans: int = 3,
        pretrained_backbone: bool = False,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        stages = make_stages(backbone, pretrained=pretrained_backbone, in_chans=in_chans, options=backbone_args)
        splits, adds = _stretches(split, add, len(stages))
        self.taxonomy, self.num_classes = taxonomy, len(taxonomy)
        self.num_features, self.pretrained_cfg = stages.channels[-1], stages.config
        self.places = tuple(places(taxonomy))
        self.groups = nn.ModuleDict()
        ends: dict[str, tuple[int, int]] = {}  # by choice: its level, and where its body ends
        for place in self.places:
            level, start = (0, 0) if place.above is None else ends[place.above[0]]
            at, extra = (each[min(level, len(each) - 1)] for each in (splits, adds))
            stop, end = (len(stages), len(stages)) if place.is_leaf else (at, at + extra)
            head = Head(stages.stretch(stop, end), stages.channels[end], len(place.children), drop_rate)
            choice = Choice(stages.stretch(start, stop), head)
            if place.above is None:
                self.top = choice
            else:
                self.groups[place.path.partition(".")[2]] = choice
            ends[place.name] = level + 1, stop
        columns = {child: at for at, child in enumerate(child for place in self.places for child in place.children)}
        self.columns = [columns[index] for index in range(self.num_classes)]

    def choice(self, place: Place) -> Choice:
        """The module at ``place``."""
        found = self.get_submodule(place.path)
        assert isinstance(found, Choice)
        return found

    def decisions(self, x: Tensor) -> dict[str, Tensor]:
        """Log-probabilities ``[N, children]`` of every choice by its name, the order that of ``places``."""
        bodies: dict[str, Tensor] = {}
        made: dict[str, Tensor] = {}
        for place in self.places:
            choice = self.choice(place)
            bodies[place.name] = choice.body(x if place.above is None else bodies[place.above[0]])
            made[place.name] = choice.head(bodies[place.name])
        return made

    def joint(self, decisions: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities ``[N, classes]`` from what ``decisions`` gives: sums along the paths."""
        sums: dict[str, Tensor] = {}
        for place in self.places:
            own = decisions[place.name]
            if place.above is not None:
                name, at = place.above
                own = own + sums[name][:, at : at + 1]
            sums[place.name] = own
        whole = torch.cat(list(sums.values()), 1)
        return whole.index_select(1, torch.tensor(self.columns, device=whole.device))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.joint(self.decisions(x))

    def routed(self, x: Tensor) -> Tensor:
        """As ``forward``, but as the fast form answers: at each category above a leaf all probability goes to the
        likeliest child, and the others are not computed. What is not on an image's way has -inf.
        """
        made = x.new_full((len(x), self.num_classes), -torch.inf, dtype=torch.float32)
        by_name = {place.name: place for place in self.places}
        waiting = [(by_name[""], torch.arange(len(x), device=x.device), x)]
        while waiting:
            place, rows, read = waiting.pop()
            choice = self.choice(place)
            body = choice.body(read)
            own = choice.head(body).float()
            if place.is_leaf:
                made[rows[:, None], torch.tensor(place.children, device=x.device)] = own
                continue
            likeliest = own.argmax(1)
            for at, child in enumerate(place.children):
                chosen = likeliest == at
                if isinstance(child, int):
                    made[rows[chosen], child] = 0.0
                elif chosen.any():
                    waiting.append((by_name[child], rows[chosen], body[chosen]))
        return made

    def parts(self) -> Iterator[Part]:
        """The network in pieces, each after those it reads: the body and then the head of every choice."""
        paths = {place.name: place.path for place in self.places}
        for place in self.places:
            choice = self.choice(place)
            read = IMAGE if place.above is None else f"{paths[place.above[0]]}.body"
            yield Part(f"{place.path}.body", choice.body, (read,))
            yield Part(f"{place.path}.head", choice.head, (f"{place.path}.body",))

    def origins(self) -> dict[str, str]:
        """For every tensor of the state dict that is the backbone's, the name that ``Stretch`` gives it."""
        return origins(self)


def places(taxonomy: Taxonomy) -> Iterator[Place]:
    """The choices of a tree, each after the one above it."""
    top = _chosen(taxonomy.roots)
    waiting: list[tuple[str, str, tuple[str, int] | None, Sequence[Node]]] = [("", "top", None, top)]
    while waiting:
        name, path, above, nodes = waiting.pop(0)
        children: list[str | int] = []
        for at, node in enumerate(nodes):
            below = _chosen((node,))
            if below[0].index is not None and len(below) == 1:
                children.append(below[0].index)
            else:
                children.append(node.name)
                waiting.append((node.name, f"groups.{module_name(node.name)}", (name, at), below))
        yield Place(name, path, above, tuple(children))


def _chosen(nodes: Sequence[Node]) -> Sequence[Node]:
    """What there is to choose from at or below ``nodes``: a category alone is no choice."""
    while len(nodes) == 1 and not nodes[0].is_class:
        nodes = nodes[0].children
    return nodes


def _stretches(
    split: int | Sequence[int] | None, add: int | Sequence[int] | None, stages: int
) -> tuple[list[int], list[int]]:
    """Where the parts end, an entry per level of the tree. Raises ``ValueError`` if a backbone of ``stages`` has not
    as many.
    """
    splits = _listed(min(5, (stages + 1) // 2) if split is None else split)
    adds = _listed(min(2, max(0, stages - max(splits, default=0))) if add is None else add)
    if not splits or not adds or sorted(splits) != splits or splits[0] < 0 or min(adds) < 0:
        raise ValueError(f"split {list(splits)} and add {list(adds)} are not numbers from 0 on, the first rising")
    level = max(len(splits), len(adds))
    for at in range(level):
        end = splits[min(at, len(splits) - 1)] + adds[min(at, len(adds) - 1)]
        if end > stages:
            raise ValueError(f"split and add come to {end}, but the backbone has {stages} stages")
    return splits, adds


def _listed(given: int | Sequence[int]) -> list[int]:
    return [given] if isinstance(given, int) else list(given)
