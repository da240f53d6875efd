"""The training loop: stages of a recipe, one after another, resumable after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError, InvalidArtifactError
from ..intervals import wilson
from ..runtime.dataset import LabelledImages
from ..taxonomy import Taxonomy
from ..zoo import NHL, import_timm
from .checkpoint import load_pair, save_pair
from .data import Decoded, Photos, eval_transform, normalise, split, train_loader, train_transform
from .recipe import Recipe, Stage

STEM = "checkpoint"


@dataclass(frozen=True)
class Progress:
    """What the display shows: ``done`` of ``total`` images over the whole run, the running loss and accuracy."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None  # on the holdout, after an epoch; None within one
    seconds_left: float


class TrunkClassifier(nn.Module):
    """The trunk under global average pooling and one linear layer: the cheap way to teach a trunk."""

    def __init__(self, network: NHL) -> None:
        super().__init__()
        self.network = network
        self.flat_head = nn.Linear(network.num_features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.flat_head(self.network.forward_features(x).mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Trained:
    """The outcome: the averaged weights in a network in eval mode, and what is known about them."""

    network: NHL
    facts: dict[str, Any]


def train(
    recipe: Recipe,
    taxonomy: Taxonomy,
    images: LabelledImages,
    folder: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train ``recipe`` for the classes of ``taxonomy`` and return the network with its averaged (EMA) weights.

    Images of other classes are left out, so a taxonomy restricted to two classes trains on those two alone. A run that
    was killed goes on after its last complete epoch when called with the same ``folder``.
    """
    timm = import_timm()
    label_of = {name: index for index, name in enumerate(taxonomy.classes)}
    labels = {k: label_of[name] for k, name in enumerate(images.classes) if name in label_of}
    missing = sorted(set(taxonomy.classes) - set(images.classes))
    if missing:
        raise DataError(f"The images have no class '{missing[0]}'.", "Use the taxonomy that belongs to the images.")
    train_indices, held_indices = split(images, labels, recipe.holdout)
    seen, unseen = Decoded(images, train_indices, labels), Decoded(images, held_indices, labels)
    torch.manual_seed(recipe.seed)
    network: NHL = timm.create_model(recipe.arch, taxonomy=taxonomy, **recipe.arch_args)
    model = TrunkClassifier(network).to(device, memory_format=torch.channels_last)
    averaged = timm.utils.ModelEmaV3(model, decay=recipe.stages[0].ema_decay, use_warmup=True)
    state = _State(model, averaged.module, folder, recipe)
    state.resume()

    clock = _Clock(recipe, state.epochs_done)
    first_epoch = 0
    for stage in recipe.stages:
        schedule = range(first_epoch, first_epoch + stage.epochs)
        first_epoch += stage.epochs
        if state.epochs_done >= first_epoch:
            continue
        run = _StageRun(recipe, stage, model, averaged, device, autocast)
        if state.epochs_done > schedule.start:
            run.optimizer_restore(state.momentum)
        photos = Photos(seen, train_transform(recipe, stage))
        for epoch in range(max(schedule.start, state.epochs_done), schedule.stop):
            torch.manual_seed(recipe.seed * 100_003 + epoch)
            loader = train_loader(photos, stage.batch, recipe.seed * 100_003 + epoch, workers)
            loss = 0.0
            for step, value in enumerate(run.epoch(loader, epoch - schedule.start)):
                loss = value if step == 0 else 0.98 * loss + 0.02 * value
                left = clock.left(epoch, (step + 1) / len(loader), stage)
                report(Progress(stage.name, epoch - schedule.start + 1, stage.epochs, loss, None, left))
            forward = averaged.module if stage.part == "trunk" else averaged.module.network
            held = Photos(unseen, eval_transform(recipe, stage.size))
            hits = count_hits(forward, held, recipe, device)
            accuracy = hits / max(1, len(held))
            state.epochs_done = epoch + 1
            state.history.append({"stage": stage.name, "loss": round(loss, 4), "holdout": round(accuracy, 4)})
            state.momentum = run.optimizer_state()
            state.save()
            left = clock.left(epoch, 1.0, stage)
            report(Progress(stage.name, epoch - schedule.start + 1, stage.epochs, loss, accuracy, left))

    final = averaged.module.network.eval()
    held = Photos(unseen, eval_transform(recipe, recipe.size))
    hits = count_hits(final, held, recipe, device)
    low, high = wilson(hits, len(held))
    facts = {
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint,
        "seed": recipe.seed,
        "train_images": len(train_indices),
        "holdout": {"images": len(held), "hits": hits, "wilson95": [round(low, 4), round(high, 4)]},
        "history": state.history,
    }
    return Trained(final, facts)


def count_hits(model: nn.Module, photos: Photos, recipe: Recipe, device: str) -> int:
    """Number of images whose highest logit is their label."""
    model.eval()
    hits = 0
    with torch.inference_mode():
        for x, y in torch.utils.data.DataLoader(photos, 128):
            hits += int((model(normalise(x, recipe, device)).argmax(1).cpu() == y).sum())
    return hits


class _StageRun:
    """Optimiser, schedule and loss of one stage."""

    def __init__(
        self, recipe: Recipe, stage: Stage, model: nn.Module, averaged: Any, device: str, autocast: torch.dtype | None
    ) -> None:
        import_timm()
        from timm.data import Mixup
        from timm.loss import SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2

        self.recipe, self.stage, self.averaged = recipe, stage, averaged
        self.device, self.autocast = device, autocast
        self.model = model
        self.forward = model if stage.part == "trunk" else model.network
        averaged.decay = stage.ema_decay
        classes = model.network.num_classes
        self.mixup = Mixup(
            mixup_alpha=0.2, cutmix_alpha=1.0, prob=stage.mix, switch_prob=0.5,
            label_smoothing=recipe.smoothing, num_classes=classes,
        )  # fmt: skip
        self.loss = SoftTargetCrossEntropy()
        self.optimizer = create_optimizer_v2(
            self.forward, opt="sgd", lr=stage.lr, weight_decay=recipe.weight_decay, momentum=0.9
        )

    def epoch(self, loader: Any, epoch: int) -> Iterator[float]:
        """Train one epoch; yields the loss of every step."""
        from timm.scheduler import CosineLRScheduler

        steps = len(loader)
        schedule = CosineLRScheduler(
            self.optimizer, t_initial=max(1, self.stage.epochs * steps), t_in_epochs=False, lr_min=self.stage.lr * 0.01,
            warmup_t=int(self.stage.warmup_epochs * steps), warmup_lr_init=self.stage.lr * 0.05,
        )  # fmt: skip
        self.model.train()
        for step, (x, y) in enumerate(loader):
            schedule.step_update(epoch * steps + step)
            x = normalise(x, self.recipe, self.device)
            if len(x) % 2:
                x, y = x[:-1], y[:-1]  # timm's Mixup pairs the batch with itself reversed
            x, y = self.mixup(x, y.to(self.device))
            kind = torch.device(self.device).type
            with torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None):
                logits = self.forward(x)
            loss = self.loss(logits.float(), y)
            if not torch.isfinite(loss):
                raise DataError(
                    f"The loss became {loss.item()} in stage '{self.stage.name}'.", "Lower the learning rate."
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.averaged.update(self.model)
            yield loss.item()

    def optimizer_state(self) -> dict[str, Tensor]:
        state = self.optimizer.state
        named = dict(self.forward.named_parameters())
        return {n: state[p]["momentum_buffer"] for n, p in named.items() if "momentum_buffer" in state.get(p, {})}

    def optimizer_restore(self, momentum: dict[str, Tensor]) -> None:
        named = dict(self.forward.named_parameters())
        for name, buffer in momentum.items():
            self.optimizer.state[named[name]]["momentum_buffer"] = buffer.to(named[name].device)


class _State:
    """What a resumed run needs: weights, averaged weights, momentum, epochs done."""

    def __init__(self, model: nn.Module, averaged: nn.Module, folder: Path, recipe: Recipe) -> None:
        self.model, self.averaged, self.folder, self.recipe = model, averaged, folder, recipe
        self.epochs_done = 0
        self.history: list[dict[str, Any]] = []
        self.momentum: dict[str, Tensor] = {}

    def save(self) -> None:
        groups = {"model": self.model.state_dict(), "ema": self.averaged.state_dict(), "momentum": self.momentum}
        tensors = {f"{group}.{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
        facts = {"fingerprint": self.recipe.fingerprint, "epochs_done": self.epochs_done, "history": self.history}
        save_pair(self.folder, STEM, tensors, facts)

    def resume(self) -> None:
        pair = load_pair(self.folder, STEM)
        if pair is None:
            return
        tensors, facts = pair
        if facts.get("fingerprint") != self.recipe.fingerprint:
            raise InvalidArtifactError(
                f"'{self.folder}' holds a checkpoint of another recipe.", "Choose another output folder."
            )
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "momentum": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.model.load_state_dict(groups["model"])
        self.averaged.load_state_dict(groups["ema"])
        self.momentum, self.epochs_done, self.history = groups["momentum"], facts["epochs_done"], facts["history"]


class _Clock:
    """Time left, from the pixels still to be seen: an epoch's cost goes with its images' area."""

    def __init__(self, recipe: Recipe, epochs_done: int) -> None:
        full = {"trunk": 1.0, "full": 1.9}  # measured: the nest nearly doubles the cost of a step
        self.costs = [s.size**2 * full[s.part] for s in recipe.stages for _ in range(s.epochs)]
        self.start, self.before = time.monotonic(), sum(self.costs[:epochs_done])

    def left(self, epoch: int, share: float, stage: Stage) -> float:
        seen = sum(self.costs[:epoch]) + share * self.costs[epoch] - self.before
        spent = time.monotonic() - self.start
        return spent / max(seen, 1e-9) * (sum(self.costs) - self.before - seen)
