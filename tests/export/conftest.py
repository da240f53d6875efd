"""One tiny network and its export, made once: the exporter takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expertc.export import export_trained
from expertc.taxonomy import Node, Taxonomy
from expertc.training import Recipe, Stage, Trained, save_trained
from expertc.zoo import NHL, import_timm

timm = import_timm()

ARGS = {
    "backbone": "resnet18",
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
    "widths": [4, 4],
    "strides": [1, 1],
    "expansion": 2,
}
SIZE = (32, 32)
TAXONOMY = Taxonomy("pets", (Node("felines", (Node("cats", index=1), Node("lynxes", index=0))), Node("dogs", index=2)))


def make_network() -> NHL:
    """The same weights every time, none of them trivial."""
    torch.manual_seed(3)
    network: NHL = timm.create_model("nhl", taxonomy=TAXONOMY, drop_rate=0.1, **ARGS)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
    return network.eval()


class Pets:
    """What the tests of this folder share; a fixture, because test folders are no packages."""

    args, size, taxonomy = ARGS, SIZE, TAXONOMY
    network = staticmethod(make_network)
    recipe = Recipe("pets", "/home/me/pets.yaml", "nhl", (Stage("only", 1, 32, 0.1),), ARGS, size=32)
    licence = "The photos' licences are unknown."


@pytest.fixture(scope="session")
def pets() -> type[Pets]:
    return Pets


@pytest.fixture(scope="session")
def network() -> NHL:
    return make_network()


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory, network: NHL) -> Path:
    """A finished training, as it is saved; only to be read."""
    history = [{"stage": "only", "loss": 1.0, "holdout": 0.5}] * 3
    facts = {"recipe": "pets", "fingerprint": Pets.recipe.fingerprint, "train_images": 8, "history": history}
    return save_trained(tmp_path_factory.mktemp("trained") / "out", Trained(network, facts), Pets.recipe, TAXONOMY)


@pytest.fixture(scope="session")
def model(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Its full model."""
    folder = tmp_path_factory.mktemp("exported")
    photo = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(photo)
    images = [photo, photo.read_bytes()]
    path = export_trained(trained_folder, folder / "full.onnx", images, weights_licence=Pets.licence)
    assert sorted(entry.name for entry in folder.iterdir()) == ["full.onnx", "photo.png"]
    return path.read_bytes()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, *SIZE, generator=torch.Generator().manual_seed(0))
