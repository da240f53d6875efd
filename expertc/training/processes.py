"""The processes that share a training: one alone, or those that ``accelerate launch`` started.

A recipe's batch is that of all processes together, so their number changes neither the steps nor the learning rate.
Each process holds the whole network, works on its part of every batch, and averages the gradients with the others.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import broadcast
from torch import nn

from ..errors import UsageError
from .recipe import Recipe

# Unless it is told so, accelerate takes several processes on a machine without GPUs for as many single ones.
_CPU = not torch.accelerator.is_available()


class Processes:
    """This process among the others. ``device`` is where it computes: as given if alone, else as accelerate says."""

    def __init__(self, device: str) -> None:
        loading = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False)
        self.accelerator = Accelerator(device_placement=False, cpu=_CPU, dataloader_config=loading)
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = device if self.count == 1 else str(self.accelerator.device)

    def require_even_shares(self, recipe: Recipe, images: int) -> None:
        """Raise ``UsageError`` unless every process gets as much of every batch, in pairs: timm's Mixup wants pairs."""
        for stage in recipe.stages if self.count > 1 else ():
            if stage.batch % (2 * self.count) or stage.batch > images:
                raise UsageError(
                    f"{self.count} processes cannot share batches of {stage.batch} images (stage '{stage.name}').",
                    f"Make the batch a multiple of {2 * self.count}, and no larger than the {images} images.",
                )

    def agree(self, *modules: nn.Module) -> None:
        """Give all the first one's batch-norm statistics, as each has counted its own part of the images."""
        for module in modules:
            broadcast(list(module.buffers()))  # in place

    def total(self, value: float) -> float:
        """The sum of ``value`` over all."""
        return float(self.accelerator.reduce(torch.tensor(value, device=self.device), "sum"))


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return bool(PartialState(_CPU).is_main_process)
