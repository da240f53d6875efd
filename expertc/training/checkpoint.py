"""Checkpoints: tensors as safetensors, everything else as JSON; a killed run leaves the last complete pair."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InvalidArtifactError


def save_pair(folder: Path, stem: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write ``stem-<n>.safetensors`` and then ``stem.json``, which names it; older tensors are removed last."""
    folder.mkdir(parents=True, exist_ok=True)
    number = int(facts.get("epochs_done", 0))
    weights = folder / f"{stem}-{number}.safetensors"
    temporary = weights.with_suffix(".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, weights)
    text = folder / f"{stem}.json.partial"
    text.write_text(json.dumps(facts | {"tensors": weights.name}, indent=1) + "\n", encoding="utf-8")
    os.replace(text, folder / f"{stem}.json")
    for old in folder.glob(f"{stem}-*.safetensors"):
        if old != weights:
            old.unlink()


def load_pair(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what ``save_pair`` wrote, or None if there is nothing. Raises ``InvalidArtifactError`` if it is damaged."""
    text = folder / f"{stem}.json"
    if not text.is_file():
        return None
    try:
        facts = json.loads(text.read_text(encoding="utf-8"))
        weights = folder / Path(facts["tensors"]).name
        return load_file(weights), facts
    except Exception as error:  # safetensors raises its own type for every kind of damage
        raise InvalidArtifactError(
            f"The checkpoint '{text}' cannot be read ({error}).", "Delete the folder to start the training over."
        ) from error
