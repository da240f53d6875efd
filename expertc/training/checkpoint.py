"""Checkpoints: tensors as safetensors, everything else as JSON; a killed run leaves the last complete pair."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..atomic import reported
from ..errors import FileSystemError, InvalidArtifactError

STEM = "checkpoint"
_GROUPS = ("model", "ema", "momentum")


class RunState:
    """What a resumed run needs: weights, averaged weights, momentum, epochs done."""

    def __init__(
        self, model: nn.Module, averaged: nn.Module, folder: Path, fingerprint: str, classes: Sequence[str]
    ) -> None:
        self.model, self.averaged, self.folder = model, averaged, folder
        self.identity = {"fingerprint": fingerprint, "classes": list(classes)}
        self.epochs_done = 0
        self.history: list[dict[str, Any]] = []
        self.momentum: dict[str, Tensor] = {}

    def save(self) -> None:
        """Write the state into the folder. Raises ``FileSystemError``."""
        groups = (self.model.state_dict(), self.averaged.state_dict(), self.momentum)
        tensors = {
            f"{group}.{name}": tensor
            for group, state in zip(_GROUPS, groups, strict=True)
            for name, tensor in state.items()
        }
        facts = self.identity | {"epochs_done": self.epochs_done, "history": self.history}
        save_pair(self.folder, STEM, tensors, facts)

    def resume(self) -> None:
        """Take the state from the folder, if there is one.

        Raises ``InvalidArtifactError`` if it is damaged or belongs to another recipe or other classes.
        """
        pair = load_pair(self.folder, STEM)
        if pair is None:
            return
        tensors, facts = pair
        for key, what in (("fingerprint", "recipe"), ("classes", "choice of classes")):
            if facts.get(key, self.identity[key]) != self.identity[key]:
                raise InvalidArtifactError(
                    f"'{self.folder}' holds a checkpoint of another {what}.", "Choose another output folder."
                )
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
        try:
            for name, tensor in tensors.items():
                group, _, rest = name.partition(".")
                groups[group][rest] = tensor
            self.epochs_done, self.history = int(facts["epochs_done"]), list(facts["history"])
            self.model.load_state_dict(groups["model"])
            self.averaged.load_state_dict(groups["ema"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: load_state_dict
            raise _damaged(self.folder / f"{STEM}.json", error) from error
        self.momentum = groups["momentum"]


def save_pair(folder: Path, stem: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write ``stem-<epochs>.safetensors`` and then ``stem.json``, which names it; older tensors are removed last.

    Raises ``FileSystemError``.
    """
    number = int(facts.get("epochs_done", 0))
    weights = folder / f"{stem}-{number}.safetensors"
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, tensors)
        save_facts(folder / f"{stem}.json", facts | {"tensors": weights.name})
        for old in folder.glob(f"{stem}-*.safetensors"):
            if old != weights:
                old.unlink()


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file in one step. Raises ``FileSystemError``."""
    partial = path.with_suffix(".partial")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    except SafetensorError as error:
        raise FileSystemError(
            f"'{path}' cannot be written ({error}).", "Free some space, or write elsewhere."
        ) from error
    os.replace(partial, path)


def save_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write a JSON file in one step."""
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load_pair(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what ``save_pair`` wrote, or None if there is nothing. Raises ``InvalidArtifactError`` if it is damaged."""
    text = folder / f"{stem}.json"
    if not text.is_file():
        return None
    try:
        facts = json.loads(text.read_text(encoding="utf-8"))
        return load_file(folder / Path(facts["tensors"]).name), facts
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(text, error) from error


def _damaged(path: Path, error: Exception) -> InvalidArtifactError:
    reason = " ".join(str(error).split())[:200]
    return InvalidArtifactError(
        f"The checkpoint '{path}' cannot be used ({reason}).", "Delete the folder to start the training over."
    )
