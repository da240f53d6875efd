"""From the folder of a finished training to the full model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from ..card import Card, Output
from ..errors import DataError, InvalidArtifactError
from ..preprocessing import Preprocess, required
from ..runtime.images import Source, load_image
from ..runtime.preprocess import apply
from ..taxonomy import Taxonomy
from ..text import clean_text, parse_json, read_text
from ..zoo import HLFP, create
from .exporter import OPSETS
from .forms import export_form

WEIGHTS = "model.safetensors"
FACTS = "model.json"
SCHEMA = 1
NOISE_IMAGES = 8

_KEYS = ["schema", "arch", "arch_args", "taxonomy", "preprocess", "training", "versions", "sha256"]


class TrainedNetwork(NamedTuple):
    """A network in eval mode; ``facts`` is what ``model.json`` says beyond its taxonomy and preprocessing."""

    network: nn.Module
    facts: Mapping[str, Any]
    taxonomy: Taxonomy
    preprocess: Preprocess


def load_trained(folder: Path) -> TrainedNetwork:
    """Load what ``training.save_trained`` wrote.

    Raises ``InvalidArtifactError`` if a file is missing or damaged, the weights are not those the facts were written
    for, or they do not fit the architecture strictly; ``TaxonomyError`` and ``CardError`` for those parts of the facts.
    """
    source = f"The file '{clean_text(str(folder / FACTS))}'"
    facts = parse_json(read_text(folder / FACTS, "The file", InvalidArtifactError), source, InvalidArtifactError)
    if facts.get("schema") != SCHEMA:
        raise InvalidArtifactError(f"{source} is not of schema {SCHEMA}.", "Train the network again.")
    required(facts, _KEYS, source)
    for key in ("arch_args", "training", "versions"):
        if not isinstance(facts[key], dict):
            raise InvalidArtifactError(f"{source} holds no object '{key}'.", "Train the network again.")
    taxonomy = Taxonomy.from_mapping(facts.pop("taxonomy"))
    preprocess = Preprocess.from_mapping(facts.pop("preprocess"))
    weights = f"The weights '{clean_text(str(folder / WEIGHTS))}'"
    try:
        data = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise InvalidArtifactError(
                f"{weights} are not those that {FACTS} was written for.",
                "Run the training again: it only repeats what is missing.",
            )
        state = load(data)
    except (OSError, SafetensorError) as error:
        raise InvalidArtifactError(f"{weights} cannot be read ({error}).", "Run the training again.") from error
    return TrainedNetwork(create(facts["arch"], taxonomy, facts["arch_args"], state), facts, taxonomy, preprocess)


def export_trained(
    folder: Path,
    output: Path,
    images: Sequence[Source] = (),
    *,
    weights_licence: str = "",
    gain: bool = True,
    form: str = "",
    batch: int | None = 1,
    strict_coarse: bool = False,
    opset: int = OPSETS[-1],
) -> Path:
    """Export the network in ``folder`` as the full model ``output`` and return that path.

    ``gain``: an HLFP gets its input for selective attention. ``form`` is that of a HierNet, "slow" (by default) or
    "fast", and ``batch`` how many images its fast form takes; or that of a network with exits, "nested" or "plain".
    ``strict_coarse`` is as in ``export_form``.
    It is checked against torch on ``images`` (on noise if there are none) before anything is written. Raises what
    ``load_trained`` and ``export_file`` raise, and ``DataError`` for an image that cannot be read.
    """
    trained = load_trained(folder)
    card = describe(trained, weights_licence)
    if gain and isinstance(trained.network, HLFP):
        card = replace(card, controls=trained.network.controls)
    probes = tensors(images, trained.preprocess)
    size = trained.preprocess.size
    return export_form(
        trained.network, card, size, probes, output,
        form=form, batch=batch, strict_coarse=strict_coarse, opset=opset,
    )  # fmt: skip


def describe(trained: TrainedNetwork, weights_licence: str = "") -> Card:
    """The card of the network's full model; it names no paths."""
    training = {key: value for key, value in trained.facts["training"].items() if key != "history"}
    training["epochs"] = len(trained.facts["training"].get("history", ()))
    provenance = {
        "arch": trained.facts["arch"],
        "arch_args": trained.facts["arch_args"],
        "training": training | dict(trained.facts["versions"]),
    }
    name = str(training.get("recipe", trained.taxonomy.name))
    return Card(name, trained.taxonomy, (Output("logits"),), "image", trained.preprocess, weights_licence, provenance)


def tensors(images: Sequence[Source], preprocess: Preprocess, count: int = NOISE_IMAGES) -> torch.Tensor:
    """The images, or ``count`` of noise, as the network's input ``[N, 3, H, W]``."""
    if preprocess.layout != "NCHW" or preprocess.dtype != "float32":
        raise DataError("torch networks take NCHW float32.", "Correct the preprocessing.")
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (*preprocess.size, 3), dtype=np.uint8) for _ in range(count)]
    return torch.from_numpy(np.stack([apply(load_image(image), preprocess) for image in images or noise]))
