"""What a stage of training minimises, and what of the network learns from it.

A network with early exits learns from all of them at once, each with a weight of its own, fine and coarse logits alike
(BranchyNet, Gran-HBN). AG-HBN's semantic exit learns afterwards and alone, from what the others answer by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import UsageError
from ..text import shown
from ..zoo import ExitNet, import_timm
from ..zoo.exits import SEMANTIC, Plain

FINE = 1.5  # what a right fine answer counts against a right coarse one (the authors' code)
CERTAIN = 5.0  # the weight of the semantic exit's cross-entropy beside the granular entropy (likewise)


@dataclass(frozen=True)
class Objective:
    """``module`` maps images to what ``loss`` reads, with targets ``[N, classes]``, a distribution per image.

    ``learns`` says of a parameter's name in the network whether it is to change.
    """

    module: nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    learns: Callable[[str], bool]


def objective(network: nn.Module, part: str = "", weights: Sequence[float] = ()) -> Objective:
    """The objective of a stage that trains only ``part`` of ``network``, "" standing for all of it.

    ``weights`` are those of the exits in running order; none is 1 for each. Raises ``UsageError`` if the network has no
    such part, or not as many exits.
    """
    if part and part not in dict(network.named_children()):
        known = ", ".join(name for name, _ in network.named_children())
        raise UsageError(f"The network has no part {shown(part)} to train alone.", f"It has {known}.")

    later = f"{SEMANTIC}." if isinstance(network, ExitNet) else None  # which learns when the others have

    def learns(name: str) -> bool:
        return name.startswith(f"{part}.") if part else later is None or not name.startswith(later)

    if isinstance(network, ExitNet):
        losses = ExitLosses(network, weights)
        return Objective(Plain(network), losses.semantic if part == SEMANTIC else losses.joint, learns)
    if weights:
        raise UsageError("The recipe weighs exits, but its network has none.", "Leave out exit_weights.")
    import_timm()
    from timm.loss import SoftTargetCrossEntropy

    loss = SoftTargetCrossEntropy()
    return Objective(network, lambda logits, y: loss(logits.float(), y), learns)


class ExitLosses:
    """The losses of an ``ExitNet``, from what its ``plain`` made of a batch, and the classes' targets."""

    def __init__(self, network: ExitNet, weights: Sequence[float] = ()) -> None:
        self.exits, self.names = network.about().placed(network.taxonomy), network.names
        count = len(self.exits.exits)
        if len(weights) not in (0, count):
            raise UsageError(
                f"The recipe weighs {len(weights)} exits, but the network has {count}.", "Correct exit_weights."
            )
        self.weights = tuple(weights) or (1.0,) * count
        self.above = torch.eye(len(self.exits.categories))[list(self.exits.of)]  # [classes, categories], one-hot

    def joint(self, made: Sequence[Tensor], target: Tensor) -> Tensor:
        """The weighted sum of the exits' cross-entropies; a category is as likely as its classes together."""
        logits = self._named(made)
        losses = [
            weight * cross_entropy(logits[name], target if name == one.fine else target @ self.above.to(target))
            for weight, one in zip(self.weights, self.exits.exits, strict=True)
            for name in one.names
        ]
        return torch.stack(losses).sum()

    def semantic(self, made: Sequence[Tensor], target: Tensor) -> Tensor:
        """The semantic exit's cross-entropy against ``suited``, weighted, plus the granular entropy.

        That entropy is the mean one of the fine exits, weighted, plus that of the coarse exits: a number to look at,
        for while the semantic exit learns alone it does not change.
        """
        logits = self._named(made)
        assert self.exits.semantic is not None
        error = cross_entropy(logits[self.exits.semantic], self.suited(made, target))
        fine, coarse = (torch.stack([_entropy(logits[name]) for name in names]).mean() for names in self._kinds())
        return CERTAIN * error + (FINE * fine + coarse).detach()

    def suited(self, made: Sequence[Tensor], target: Tensor) -> Tensor:
        """The granularity that suits each image, int64 ``[N]``: fine (1) if the exits whose fine answer is right, times
        ``FINE``, are more than those whose coarse one is; else coarse (0).
        """
        logits, truths = self._named(made), (target.argmax(1), (target @ self.above.to(target)).argmax(1))
        fine, coarse = (
            torch.stack([logits[name].argmax(1) == truth for name in names]).sum(0)
            for names, truth in zip(self._kinds(), truths, strict=True)
        )
        return (FINE * fine > coarse).long()

    def _named(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        return {name: logits.float() for name, logits in zip(self.names, made, strict=True)}

    def _kinds(self) -> tuple[list[str], list[str]]:
        """The names of all fine and of all coarse logits."""
        exits = self.exits.exits
        return [one.fine for one in exits if one.fine], [one.coarse for one in exits if one.coarse]


def _entropy(logits: Tensor) -> Tensor:
    """The mean over the batch of the entropy of softmax(``logits``), in nats."""
    logs = torch.log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1).mean()
