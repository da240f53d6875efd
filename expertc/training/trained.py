"""Writing a finished training: the weights and what is needed to build, export and describe the network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ..atomic import reported
from ..export.trained import FACTS, SCHEMA, WEIGHTS
from ..taxonomy import Taxonomy
from ..zoo import import_timm
from .checkpoint import save_facts, save_tensors
from .first import FETCHED
from .loop import Trained
from .recipe import Recipe


def save_trained(folder: Path, trained: Trained, recipe: Recipe, taxonomy: Taxonomy) -> Path:
    """Write ``model.safetensors`` and then ``model.json``, which holds its hash; ``export.load_trained`` reads them.

    Raises ``FileSystemError``.
    """
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / WEIGHTS
        save_tensors(weights, trained.network.state_dict())
        facts = {
            "schema": SCHEMA,
            "arch": recipe.arch,
            # Where the trunk's first weights came from is no part of the network, and nothing to be fetched again.
            "arch_args": {key: value for key, value in recipe.arch_args.items() if key != FETCHED},
            "taxonomy": taxonomy.to_mapping(),
            "preprocess": recipe.preprocess.to_mapping(),
            "training": trained.facts,
            "versions": {"torch": torch.__version__, "timm": import_timm().__version__},
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        save_facts(folder / FACTS, facts)
    return folder
