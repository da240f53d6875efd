"""The training loop: stages of a recipe, one after another, resumable after every epoch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import DataError
from ..intervals import wilson
from ..runtime.dataset import LabelledImages
from ..taxonomy import Taxonomy
from ..zoo import NHL, import_timm
from .checkpoint import RunState
from .data import Decoded, Photos, eval_transform, normalise, split, train_loader, train_transform
from .first import first_network
from .progress import Clock, Progress
from .recipe import Recipe
from .stage import StageRun


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
    trunk_weights: Path | None = None,
    workers: int = 1,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train ``recipe`` for the classes of ``taxonomy`` and return the network with its averaged (EMA) weights.

    Images of other classes are left out, so a taxonomy restricted to two classes trains on those two alone. A run that
    was killed goes on after its last complete epoch when called with the same ``folder``, and ends in the same weights
    as one that was not. ``trunk_weights`` is what ``first_network`` says. Raises ``DataError`` for images that do not
    fit or cannot be decoded, ``InvalidArtifactError`` if ``folder`` holds another run or a damaged one,
    ``FileSystemError`` if it cannot be written.
    """
    timm = import_timm()
    label_of = {name: index for index, name in enumerate(taxonomy.classes)}
    labels = {k: label_of[name] for k, name in enumerate(images.classes) if name in label_of}
    missing = sorted(set(taxonomy.classes) - set(images.classes))
    if missing:
        raise DataError(f"The images have no class '{missing[0]}'.", "Use the taxonomy that belongs to the images.")
    train_indices, held_indices = split(images, labels, recipe.holdout)
    if len(train_indices) < 2:
        raise DataError("There are fewer than two images to train on.", "Give more images, or a smaller holdout.")
    network, origin = first_network(recipe, taxonomy, trunk_weights)
    model = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = timm.utils.ModelEmaV3(model, decay=recipe.stages[0].ema_decay, use_warmup=True)
    state = RunState(model, averaged.module, folder, recipe.fingerprint, taxonomy.classes)
    state.resume()  # before the images are decoded: a folder of another run is refused at once
    seen, unseen = Decoded(images, train_indices, labels), Decoded(images, held_indices, labels)

    clock = Clock(recipe, state.epochs_done)
    first_epoch = 0
    for stage in recipe.stages:
        schedule = range(first_epoch, first_epoch + stage.epochs)
        first_epoch += stage.epochs
        if state.epochs_done >= first_epoch:
            continue
        run = StageRun(recipe, stage, model, averaged, device, autocast)
        if state.epochs_done > schedule.start:
            run.restore(state.momentum)
        photos = Photos(seen, train_transform(recipe, stage))
        held = Photos(unseen, eval_transform(recipe, stage.size))
        for epoch in range(max(schedule.start, state.epochs_done), schedule.stop):
            at = (stage.name, epoch - schedule.start + 1, stage.epochs)
            _seed(recipe.seed * 100_003 + epoch)
            loader = train_loader(photos, stage.batch, recipe.seed * 100_003 + epoch, workers)
            loss = 0.0
            for step, value in enumerate(run.epoch(loader, epoch - schedule.start)):
                loss = value if step == 0 else 0.98 * loss + 0.02 * value
                report(Progress(*at, loss, None, clock.left(epoch, (step + 1) / len(loader))))
            accuracy = count_hits(averaged.module, held, recipe, device) / max(1, len(held))
            state.epochs_done = epoch + 1
            state.history.append({"stage": stage.name, "loss": round(loss, 4), "holdout": round(accuracy, 4)})
            state.momentum = run.momentum()
            state.save()
            report(Progress(*at, loss, accuracy, clock.left(epoch, 1.0)))

    final = averaged.module.eval()
    held = Photos(unseen, eval_transform(recipe, recipe.size))
    hits = count_hits(final, held, recipe, device)
    low, high = wilson(hits, len(held))
    facts = {
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint,
        "seed": recipe.seed,
        **origin,
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


def _seed(seed: int) -> None:
    """Seed all three generators that an epoch draws from: dropout, timm's transforms, timm's mixup."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
