"""What every process of ``test_processes.py`` runs: two trainings and a resumed one; leaves ``rank-<n>.json``.

accelerate launch --num_processes 2 shared_run.py FOLDER
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image

from expertc.taxonomy import Taxonomy
from expertc.training import Recipe, Stage, train
from expertc.training.checkpoint import save_tensors
from expertc.training.data import Photos

CLASSES = ("reds", "greens", "blues", "greys")
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120))
STAGE = Stage("only", epochs=2, size=32, lr=0.05, batch=8, colour_jitter=0.0, ema_decay=0.8)

# Layer norms, no dropout: what it learns from a batch does not depend on how the batch is divided.
PLAIN = Recipe("plain", "t", "test_convnext", (STAGE,), size=32, holdout=0.2)
NESTED = Recipe(
    "nested", "t", "nhl", (replace(STAGE, mix=0.5, auto_augment="rand-m9-n2"), STAGE), size=32, holdout=0.2,
    arch_args={
        "backbone": "resnet18", "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
        "widths": [4], "strides": [1], "drop_rate": 0.1,
    },
)  # fmt: skip


@dataclass(frozen=True)
class Plain:
    """``LabelledImages`` of one colour each, which no crop and no flip changes."""

    classes: tuple[str, ...] = CLASSES
    count: int = 60

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def open(self, index: int) -> io.BytesIO:
        out = io.BytesIO()
        red, green, blue = COLOURS[index % 4]
        Image.new("RGB", (32, 32), (red + index % 7, green + index % 5, blue + index % 3)).save(out, "png")
        return io.BytesIO(out.getvalue())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = PartialState(cpu=not torch.accelerator.is_available()).process_index
    seen: list[int] = []
    reports: list[str] = []
    load = Photos.__getitem__

    def recorded(photos: Photos, item: int) -> Any:
        seen.append(photos.source.indices[item])
        return load(photos, item)

    Photos.__getitem__ = recorded  # type: ignore[method-assign]
    found: dict[str, Any] = {}
    for recipe in (PLAIN, NESTED):

        def report(progress: Any, recipe: Recipe = recipe) -> None:
            reports.append(recipe.name)
            if progress.accuracy is not None and not (folder / f"{recipe.name}-copy").exists():
                shutil.copytree(folder / recipe.name, folder / f"{recipe.name}-copy")  # as a kill would leave it

        seen.clear()
        trained = train(recipe, Taxonomy.flat(CLASSES), Plain(), folder / recipe.name, workers=0, report=report)
        found[recipe.name] = {"facts": trained.facts, "seen": list(seen)}
        save_tensors(folder / f"{recipe.name}-{rank}.safetensors", trained.network.state_dict())
    found["reports"] = len(reports)
    PartialState().wait_for_everyone()
    resumed = train(NESTED, Taxonomy.flat(CLASSES), Plain(), folder / "nested-copy", workers=0)
    save_tensors(folder / f"resumed-{rank}.safetensors", resumed.network.state_dict())
    found["resumed"] = resumed.facts
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
