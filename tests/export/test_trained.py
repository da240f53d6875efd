from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from expertc.errors import CardError, DataError, ExpertcError, InvalidArtifactError, TaxonomyError
from expertc.export import export_trained, load_trained
from expertc.training import Trained, save_trained


@pytest.fixture
def folder(tmp_path: Path, trained_folder: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(trained_folder, tmp_path / "out"))


def test_what_is_saved_is_loaded(trained_folder: Path, pets: Any, network: Any) -> None:
    loaded, facts, taxonomy, preprocess = load_trained(trained_folder)
    assert sorted(path.name for path in trained_folder.iterdir()) == ["model.json", "model.safetensors"]
    assert not loaded.training
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert taxonomy == pets.taxonomy
    assert preprocess == pets.recipe.preprocess
    assert facts["training"]["fingerprint"] == pets.recipe.fingerprint
    assert facts["versions"]["torch"] == torch.__version__


def test_where_the_first_weights_came_from_is_not_saved(tmp_path: Path, pets: Any, network: Any) -> None:
    recipe = replace(pets.recipe, arch_args=pets.args | {"pretrained_backbone": True})
    folder = save_trained(tmp_path, Trained(network, {}), recipe, pets.taxonomy)
    assert load_trained(folder).facts["arch_args"] == pets.args


def test_the_taxonomys_path_is_nowhere(trained_folder: Path, model: bytes) -> None:
    assert b"/home/me" not in model + (trained_folder / "model.json").read_bytes()


def test_an_unreadable_image_leaves_no_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("expertc.export.trained.export_form")  # it is not reached
    with pytest.raises(DataError):
        export_trained(folder, tmp_path / "full.onnx", [b"not an image"])
    assert not (tmp_path / "full.onnx").exists()


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        facts = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(facts | changes))

    return change


def argument(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        facts = json.loads((folder / "model.json").read_text())
        edit(arch_args=facts["arch_args"] | changes)(folder)

    return change


def weights(tensors: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(tensors(load_trained(folder).network.state_dict()), path)
        edit(sha256=hashlib.sha256(path.read_bytes()).hexdigest())(folder)

    return change


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def garbage(folder: Path) -> None:
    data = b"\xff" * 100
    (folder / "model.safetensors").write_bytes(data)
    edit(sha256=hashlib.sha256(data).hexdigest())(folder)


HEAD = "nest.dogs.head.bias"


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (lambda folder: (folder / "model.json").unlink(), InvalidArtifactError, "model.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), InvalidArtifactError, "model.safetensors"),
        (lambda folder: (folder / "model.json").write_text("{"), InvalidArtifactError, "JSON"),
        (flip, InvalidArtifactError, "model.safetensors"),
        (garbage, InvalidArtifactError, "model.safetensors"),
        (edit(schema=2), InvalidArtifactError, "schema"),
        (edit(extra=1), CardError, "extra"),
        (edit(arch_args=[1]), InvalidArtifactError, "arch_args"),
        (edit(taxonomy={}), TaxonomyError, "tree"),
        (edit(preprocess={}), CardError, "preprocessing"),
        (edit(arch="resnet18"), InvalidArtifactError, "resnet18"),
        (edit(arch="resnet18", arch_args={}), InvalidArtifactError, "shape"),
        (edit(arch="resnet18", arch_args={"checkpoint_path": 1}), InvalidArtifactError, "checkpoint_path"),
        (edit(arch="resnet18", arch_args={"pretrained": True}), InvalidArtifactError, "pretrained"),
        (edit(arch="resnet18", arch_args={"act_layer": "silu"}), InvalidArtifactError, "act_layer"),
        (edit(arch="hf-hub:somebody/something"), InvalidArtifactError, "hf-hub"),
        (edit(arch=7), InvalidArtifactError, "'7'"),
        (argument(backbone="hf-hub:somebody/something"), InvalidArtifactError, "backbone"),
        (argument(backbone="local-dir:/tmp"), InvalidArtifactError, "backbone"),
        (argument(block="hf-hub:somebody/something"), InvalidArtifactError, "block"),
        (argument(pretrained_backbone=True), InvalidArtifactError, "pretrained_backbone"),
        (argument(backbone_args={"checkpoint_path": "weights.pth"}), InvalidArtifactError, "backbone_args"),
        (argument(backbone_args={"checkpoint_path": 1}), InvalidArtifactError, "backbone_args"),
        (argument(backbone_args={"pretrained_cfg": {"url": "x"}}), InvalidArtifactError, "backbone_args"),
        (argument(widths=[2**20, 4]), InvalidArtifactError, "shape"),
        (argument(widths=[-1, 4]), InvalidArtifactError, "cannot be built"),
        (argument(widths=[1.5, 4]), InvalidArtifactError, "cannot be built"),
        (argument(widths=["4", 4]), InvalidArtifactError, "widths"),
        (argument(strides=[1]), InvalidArtifactError, "cannot be built"),
        (argument(backbone_args={"no_such": 1}), InvalidArtifactError, "cannot be built"),
        (weights(lambda state: {n: t for n, t in state.items() if n != HEAD}), InvalidArtifactError, HEAD),
        (weights(lambda state: state | {"spare": torch.zeros(1)}), InvalidArtifactError, "spare"),
        (weights(lambda state: state | {HEAD: torch.zeros(2)}), InvalidArtifactError, HEAD),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_folder_is_refused(
    folder: Path, damage: Callable[[Path], None], error: type[ExpertcError], named: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=named) as caught:
        load_trained(folder)
    assert caught.value.hint
