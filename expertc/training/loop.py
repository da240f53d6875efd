"""The training loop: stages of a recipe, one after another, resumable after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..intervals import wilson
from ..runtime.dataset import LabelledImages
from ..taxonomy import Taxonomy
from ..zoo import import_timm
from .checkpoint import RunState
from .data import (
    Decoded,
    Photos,
    eval_transform,
    label_map,
    require_images,
    seed_all,
    split,
    train_loader,
    train_transform,
)  # fmt: skip
from .first import first_network
from .holdout import count_exits, count_hits
from .objective import objective
from .processes import Processes, is_main
from .progress import Clock, Progress
from .recipe import Recipe
from .stage import StageRun


@dataclass(frozen=True)
class Trained:
    """The outcome: the averaged weights in a network in eval mode, and what is known about them."""

    network: nn.Module
    facts: dict[str, Any]


def train(
    recipe: Recipe,
    taxonomy: Taxonomy,
    images: LabelledImages,
    folder: Path,
    *,
    trunk: Path | None = None,
    workers: int = 1,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train ``recipe`` for the classes of ``taxonomy`` and return the network with its averaged (EMA) weights.

    Images of other classes are left out, so a taxonomy restricted to two classes trains on those two alone. A run that
    was killed goes on after its last complete epoch when called with the same ``folder``, and ends in the same weights
    as one that was not. ``trunk`` is what ``first_network`` says.

    Under ``accelerate launch`` the processes share the work (see ``processes``); the first alone writes and reports,
    all return the same network. Raises ``DataError`` for images that do not fit or cannot be decoded,
    ``InvalidArtifactError`` if ``folder`` holds another run or a damaged one, ``FileSystemError`` if it cannot be
    written, ``UsageError`` if the processes cannot share a batch.
    """
    timm = import_timm()
    processes = Processes(device)
    labels = label_map(images, taxonomy)
    train_indices, held_indices = split(images, labels, recipe.holdout)
    require_images(images, labels, train_indices, taxonomy)
    processes.require_even_shares(recipe, len(train_indices))
    network, origin = first_network(recipe, taxonomy, trunk)
    model = network.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    aims = [objective(model, stage.train_only, recipe.exit_weights) for stage in recipe.stages]
    averaged = timm.utils.ModelEmaV3(model, decay=recipe.stages[0].ema_decay, use_warmup=True)
    state = RunState(model, averaged.module, folder, recipe.fingerprint, taxonomy.classes)
    state.resume()  # before the images are decoded: a folder of another run is refused at once
    seen, unseen = Decoded(images, train_indices, labels), Decoded(images, held_indices, labels)

    clock = Clock(recipe, state.epochs_done)
    show = report if is_main() else lambda progress: None
    first_epoch = 0
    for stage, aim in zip(recipe.stages, aims, strict=True):
        schedule = range(first_epoch, first_epoch + stage.epochs)
        first_epoch += stage.epochs
        if state.epochs_done >= first_epoch:
            continue
        run = StageRun(recipe, stage, model, aim, averaged, processes, len(taxonomy), autocast, schedule.start)
        if state.epochs_done > schedule.start:
            run.restore(state.momentum)
        elif stage.train_only:
            model.load_state_dict(averaged.module.state_dict())  # what learns no more is what will be kept
        photos = Photos(seen, train_transform(recipe, stage))
        held = Photos(unseen, eval_transform(recipe, stage.size))
        for epoch in range(max(schedule.start, state.epochs_done), schedule.stop):
            at = (stage.name, epoch - schedule.start + 1, stage.epochs)
            seed = recipe.seed * 100_003 + epoch
            seed_all(seed, processes.index)
            loader = processes.accelerator.prepare_data_loader(
                train_loader(photos, stage.batch, seed, workers, processes.index)
            )
            loss = 0.0
            for step, value in enumerate(run.epoch(loader, epoch)):
                loss = value if step == 0 else 0.98 * loss + 0.02 * value
                show(Progress(*at, loss, None, clock.left(epoch, (step + 1) / len(loader))))
            loss = processes.total(loss) / processes.count
            processes.agree(model, averaged.module)
            accuracy = count_hits(averaged.module, held, recipe, processes) / max(1, len(held))
            state.epochs_done = epoch + 1
            state.history.append({"stage": stage.name, "loss": round(loss, 4), "holdout": round(accuracy, 4)})
            state.momentum = run.momentum()
            if is_main():
                state.save()
            show(Progress(*at, loss, accuracy, clock.left(epoch, 1.0)))

    final = averaged.module.eval()
    held = Photos(unseen, eval_transform(recipe, recipe.size))
    hits = count_hits(final, held, recipe, processes)
    low, high = wilson(hits, len(held))
    exits = count_exits(final, held, recipe, processes)
    facts = {
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint,
        "seed": recipe.seed,
        **origin,
        "train_images": len(train_indices),
        "holdout": {"images": len(held), "hits": hits, "wilson95": [round(low, 4), round(high, 4)], **exits},
        "history": state.history,
    }
    return Trained(final, facts)
