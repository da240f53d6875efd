"""One stage of a recipe: its optimiser and schedule, timm's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..zoo import import_timm
from .data import normalise
from .objective import Objective
from .processes import Processes
from .recipe import Recipe, Stage

# What an optimiser remembers of a parameter, and what is put behind its name in a checkpoint.
_REMEMBERED = {"momentum_buffer": "", "exp_avg": ":exp_avg", "exp_avg_sq": ":exp_avg_sq", "step": ":step"}


class StageRun:
    """Trains ``model`` on what ``aim``, of the same network, says, and moves its ``ModelEmaV3`` along.

    ``start`` is the number of epochs of the run before this stage.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        model: nn.Module,
        aim: Objective,
        averaged: Any,
        processes: Processes,
        classes: int,
        autocast: torch.dtype | None,
        start: int,
    ) -> None:
        import_timm()
        from timm.data import Mixup
        from timm.optim import create_optimizer_v2

        self.recipe, self.stage, self.averaged, self.start = recipe, stage, averaged, start
        self.device, self.autocast = processes.device, autocast
        self.model, self.processes, self.loss = model, processes, aim.loss
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(aim.learns(name))
        self.parallel = processes.accelerator.prepare_model(aim.module)  # for several processes
        averaged.decay = stage.ema_decay
        self.mixup = Mixup(
            mixup_alpha=0.2, cutmix_alpha=1.0, prob=stage.mix, switch_prob=0.5,
            label_smoothing=recipe.smoothing, num_classes=classes,
        )  # fmt: skip
        optimizer = create_optimizer_v2(
            model, opt=recipe.optimizer, lr=stage.lr, weight_decay=recipe.weight_decay, momentum=0.9,
            fused=recipe.optimizer == "adam",  # a fifth of a step on a processor; SGD has little to do
        )  # fmt: skip
        self.optimizer = processes.accelerator.prepare_optimizer(optimizer)

    def epoch(self, loader: Any, epoch: int) -> Iterator[float]:
        """Train epoch number ``epoch`` of the run; yields the loss of every step."""
        from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler

        steps = len(loader)
        length = max(1, self.stage.epochs * steps)
        warm_up = {"warmup_t": int(self.stage.warmup_epochs * steps), "warmup_lr_init": self.stage.lr * 0.05}
        if self.stage.drops:
            # timm looks one step ahead.
            at = [round(drop * length) + 1 for drop in self.stage.drops]
            schedule = MultiStepLRScheduler(self.optimizer, at, 0.1, t_in_epochs=False, **warm_up)
        else:
            schedule = CosineLRScheduler(
                self.optimizer, length, t_in_epochs=False, lr_min=self.stage.lr * 0.01, **warm_up
            )
        kind = torch.device(self.device).type
        self.parallel.train()
        if self.stage.train_only:  # the rest answers as it will, without dropout, and its norms count no more images
            self.model.eval().get_submodule(self.stage.train_only).train()
        for step, (x, y) in enumerate(loader):
            schedule.step_update((epoch - self.start) * steps + step)
            x = normalise(x, self.recipe, self.device)
            if len(x) % 2:
                x, y = x[:-1], y[:-1]  # timm's Mixup pairs the batch with itself reversed
            x, y = self.mixup(x, y.to(self.device))
            with torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None):
                made = self.parallel(x)
            loss = self.loss(made, y)
            if not torch.isfinite(loss):
                raise DataError(
                    f"The loss became {loss.item()} in stage '{self.stage.name}'.", "Lower the learning rate."
                )
            self.optimizer.zero_grad(set_to_none=True)
            self.processes.accelerator.backward(loss)
            self.optimizer.step()
            self.averaged.update(self.model, epoch * steps + step)  # without the step timm does not warm the average up
            yield loss.item()

    def momentum(self) -> dict[str, Tensor]:
        """What the optimiser remembers, by parameter name and kind."""
        state = self.optimizer.state
        return {
            f"{name}{suffix}": state[parameter][kind]
            for name, parameter in self.model.named_parameters()
            for kind, suffix in _REMEMBERED.items()
            if kind in state.get(parameter, {})
        }

    def restore(self, momentum: dict[str, Tensor]) -> None:
        """Put back what ``momentum`` returned, in the parameters' memory layout."""
        for name, parameter in self.model.named_parameters():
            for kind, suffix in _REMEMBERED.items():
                if (held := momentum.get(f"{name}{suffix}")) is not None:
                    alike = torch.empty_like(parameter, requires_grad=False) if held.dim() else held.clone()
                    self.optimizer.state[parameter][kind] = alike.copy_(held)
