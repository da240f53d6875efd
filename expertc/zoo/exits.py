"""Networks with early exits: several classifiers along one body, each over the classes, their categories, or both.

The *body* is a row of stages. Behind some of them hangs a *branch*: its neck makes a vector of the stage's output, and
a linear layer per granularity reads that vector, ``fine`` one logit per class, ``coarse`` one per category. A further
linear layer on the first neck, the *semantic* one, may say which granularity suits the image (AG-HBN).

Run to the end, the network gives all of these logits, and decides nothing: which exit answers is ``expertc.exits``'s
rule, and it can be changed afterwards. So a run may stop behind any exit, and an expert keep any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..exits import Exit, Exits, two_levels
from ..taxonomy import Taxonomy
from .stages import origins

__all__ = ["Branch", "ExitNet", "Plain"]

SEMANTIC = "semantic"


class Branch(nn.Module):
    """What hangs behind a stage: ``neck`` makes ``[N, channels]`` of its output, ``fine`` and ``coarse`` logits of
    that; a granularity without labels has no layer.
    """

    def __init__(self, neck: nn.Module, channels: int, classes: int, categories: int) -> None:
        super().__init__()
        self.neck = neck
        self.fine = nn.Linear(channels, classes) if classes else None
        self.coarse = nn.Linear(channels, categories) if categories else None


class ExitNet(nn.Module):
    """See the module.

    Args:
        taxonomy: fine logit ``i`` belongs to the class with index ``i``, coarse ones to the categories right above the
            classes, in the order of the tree.
        body: the stages; each maps what the one before gives, the first ``[N, in_chans, H, W]`` images.
        necks: for each stage a module that makes ``[N, channels]`` of its output, and ``channels``; one whose exit has
            neither granularity is left out.
        fine, coarse: whether there are logits of that granularity, per stage or for all.
        semantic: whether the first neck says which granularity suits.
        thresholds: nats, of each exit but the last, until somebody says otherwise (default: those of the rule).
        config: timm's facts about the images.

    Raises ``UsageError`` if there are coarse logits and ``taxonomy`` has not two levels, ``ValueError`` for exits and
    ``CardError`` for thresholds that make no sense.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        body: Sequence[nn.Module],
        necks: Sequence[tuple[nn.Module, int]],
        fine: bool | Sequence[bool],
        coarse: bool | Sequence[bool],
        semantic: bool = False,
        thresholds: Sequence[float] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        flags = [_each(given, len(body)) for given in (fine, coarse)]
        if not flags[0][-1]:
            raise ValueError("the last exit has no fine logits")
        if semantic and not all(f and c for f, c in zip(*flags, strict=True)):
            raise ValueError("a semantic exit chooses between fine and coarse, and an exit has not both")
        self.taxonomy, self.num_classes, self.pretrained_cfg = taxonomy, len(taxonomy), dict(config or {})
        self.categories = two_levels(taxonomy) if any(flags[1]) else ()
        self.body = nn.ModuleList(body)
        self.branches = nn.ModuleDict()  # by the number of the stage, so that weights keep their names without an exit
        for stage, ((neck, channels), has_fine, has_coarse) in enumerate(zip(necks, *flags, strict=True)):
            if has_fine or has_coarse:
                labels = (self.num_classes * has_fine, len(self.categories) * has_coarse)
                self.branches[str(stage)] = Branch(neck, channels, *labels)
        self.num_features = necks[-1][1]
        first = necks[int(next(iter(self.branches)))][1]
        self.semantic = nn.Linear(first, 2) if semantic else None
        self.thresholds = tuple(thresholds)
        self.about()  # raises CardError

    def forward(self, x: Tensor) -> Tensor:
        """The last exit's fine logits ``[N, classes]`` of images ``[N, in_chans, H, W]``; no other exit is run."""
        for stage in self.body:
            x = stage(x)
        *_, (_, last) = self.hanging()
        assert last.fine is not None
        logits: Tensor = last.fine(last.neck(x))
        return logits

    def plain(self, x: Tensor) -> tuple[Tensor, ...]:
        """What ``names`` says, of images ``[N, in_chans, H, W]``: logits ``[N, classes]`` and ``[N, categories]``."""
        made: list[Tensor] = []
        branches = dict(self.hanging())
        for number, stage in enumerate(self.body):
            x = stage(x)
            if number in branches:
                branch = branches[number]
                vector = branch.neck(x)
                layers = (None if made else self.semantic, branch.fine, branch.coarse)
                made += [layer(vector) for layer in layers if layer is not None]
        return tuple(made)

    @property
    def names(self) -> tuple[str, ...]:
        """What ``plain`` gives, in its order: "semantic" (``[N, 2]``: coarse, fine), "exit1.fine", "exit1.coarse", …"""
        return self.about().tensors

    def about(self) -> Exits:
        """The exits as a card describes them."""
        exits = [
            Exit(f"exit{number}.fine" if branch.fine else None, f"exit{number}.coarse" if branch.coarse else None)
            for number, (_, branch) in enumerate(self.hanging(), 1)
        ]
        semantic = None if self.semantic is None else SEMANTIC
        return Exits(self.categories, tuple(exits), semantic, thresholds=self.thresholds)

    def hanging(self) -> Iterator[tuple[int, Branch]]:
        """The branches in running order, with the numbers of their stages."""
        for stage, branch in self.branches.items():
            assert isinstance(branch, Branch)
            yield int(stage), branch

    def origins(self) -> dict[str, str]:
        """For every tensor of the state dict that is a backbone's, the name that ``Stretch`` gives it."""
        return origins(self)


class Plain(nn.Module):
    """A network with exits run to the end, to be counted, trained or exported: what its ``plain`` gives."""

    def __init__(self, network: ExitNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.network.plain(x)


def _each(flags: bool | Sequence[bool], number: int) -> list[bool]:
    found = [flags] * number if isinstance(flags, bool | int) else list(flags)
    if len(found) != number:
        raise ValueError(f"there are {number} exits, but {len(found)} are said to be fine or coarse")
    return [bool(flag) for flag in found]
