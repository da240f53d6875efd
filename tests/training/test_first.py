from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from expertc.errors import ExpertcError, InvalidArtifactError, UsageError
from expertc.taxonomy import Taxonomy
from expertc.training import Recipe, train
from expertc.training.first import first_network
from expertc.zoo import import_timm


@pytest.fixture
def backbone(recipe: Recipe) -> Any:
    """The recipe's backbone as timm makes it, with a classifier, its weights unlike any that are drawn again."""
    torch.manual_seed(99)
    return import_timm().create_model(recipe.arch_args["backbone"], **recipe.arch_args["backbone_args"])


@pytest.fixture
def weights(backbone: Any, tmp_path: Path) -> Path:
    save_file(backbone.state_dict(), tmp_path / "backbone.safetensors")
    return tmp_path / "backbone.safetensors"


def test_the_trunk_starts_from_the_file(recipe: Recipe, taxonomy: Taxonomy, backbone: Any, weights: Path) -> None:
    network, facts = first_network(recipe, taxonomy, weights)
    given = backbone.state_dict()
    for name, tensor in network.trunk.state_dict().items():
        assert torch.equal(tensor, given[name]), name
    assert len(facts["trunk_weights"]) == 64
    photos = torch.randn(2, 3, 32, 32)
    backbone.eval()
    network.eval()
    expected = backbone.layer3(backbone.layer2(backbone.layer1(backbone.maxpool(backbone.act1(
        backbone.bn1(backbone.conv1(photos)))))))  # fmt: skip
    torch.testing.assert_close(network.forward_features(photos), expected)


def test_the_file_takes_the_place_of_what_would_be_fetched(recipe: Recipe, taxonomy: Taxonomy, weights: Path) -> None:
    eager = replace(recipe, arch_args={**recipe.arch_args, "pretrained_backbone": True})
    first, _ = first_network(eager, taxonomy, weights)
    second, _ = first_network(recipe, taxonomy, weights)
    expected = second.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in first.state_dict().items())


def test_a_recipe_without_first_weights_says_nothing(recipe: Recipe, taxonomy: Taxonomy) -> None:
    assert first_network(recipe, taxonomy, None)[1] == {}


def test_what_cannot_be_fetched_is_said(recipe: Recipe, taxonomy: Taxonomy, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("there is no network here")

    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    eager = replace(recipe, arch_args={**recipe.arch_args, "pretrained_backbone": True})
    with pytest.raises(UsageError, match="no network here") as caught:
        first_network(eager, taxonomy, None)
    assert "--trunk" in caught.value.hint


def test_a_plain_network_is_taken_whole_but_for_its_classifier(
    recipe: Recipe, taxonomy: Taxonomy, backbone: Any, weights: Path
) -> None:
    plain = replace(recipe, arch="resnet18", arch_args=recipe.arch_args["backbone_args"])
    network, facts = first_network(plain, taxonomy, weights)
    given, afresh = backbone.state_dict(), first_network(plain, taxonomy, None)[0].state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, (afresh if name.startswith("fc.") else given)[name]), name
    assert network.state_dict()["fc.weight"].shape == (4, 8)
    assert len(facts["trunk_weights"]) == 64


def test_hlfp_starts_from_a_resnet_50(recipe: Recipe, taxonomy: Taxonomy, tmp_path: Path) -> None:
    quarter = import_timm().create_model("resnet50", channels=[16, 32, 64, 128])
    save_file(quarter.state_dict(), tmp_path / "resnet50.safetensors")
    small = replace(recipe, arch="hlfp_small", arch_args={"width": 0.25})
    network, facts = first_network(small, taxonomy, tmp_path / "resnet50.safetensors")
    given = quarter.state_dict()
    assert len(network.trunk.state_dict()) > 40
    assert all(torch.equal(tensor, given[name]) for name, tensor in network.trunk.state_dict().items())
    assert len(facts["trunk_weights"]) == 64
    with pytest.raises(InvalidArtifactError, match="resnet50"):
        first_network(replace(small, arch_args={"width": 0.5}), taxonomy, tmp_path / "resnet50.safetensors")


@pytest.mark.parametrize(
    ("arch", "arguments", "words"),
    [
        ("resnet19", {}, "'resnet19' is not an architecture"),
        ("hf-hub:somebody/something", {}, "is not an architecture"),
        ("resnet18", {"checkpoint_path": 1}, "checkpoint_path"),
        ("resnet18", {"pretrained": True}, "pretrained"),
        ("resnet18", {"no_such": 1}, "no_such"),
        ("resnet18", {"features_only": True}, "features_only"),
        ("nhl", {"backbone": "resnet19"}, "resnet19"),
        ("nhl", {"backbone": "nhl"}, "nhl"),
        ("nhl", {"backbone": "swin_tiny_patch4_window7_224"}, "cannot be built"),  # its maps have their channels last
        ("nhl", {"backbone": "vit_tiny_patch16_224"}, "doesn't match model"),  # another size
        ("nhl", {"backbone": "resnet18", "widths": [4]}, "as long as each other"),
        ("vit_tiny_patch16_224", {}, "doesn't match model"),
    ],
)
def test_a_network_that_cannot_be_built_is_said_at_once(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, arch: str, arguments: Any, words: str
) -> None:
    """All photos are spoiled, so an error about the network is one that came before any was read."""
    wrong = replace(recipe, arch=arch, arch_args=arguments)
    images = swatches(range(40), spoiled=frozenset(range(40)))
    with pytest.raises((InvalidArtifactError, UsageError), match=words) as caught:
        train(wrong, taxonomy, images, tmp_path / "run")
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("none.safetensors", None, UsageError),
        ("w.pth", b"\x80\x04pickle", UsageError),
        ("w.safetensors", b"\x80\x04pickle", InvalidArtifactError),
        ("w.safetensors", {"conv1.weight": torch.zeros(1)}, InvalidArtifactError),
        ("w.safetensors", {"stranger": torch.zeros(1)}, InvalidArtifactError),
    ],
)
def test_a_file_that_is_none(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, name: str, content: Any, kind: type[ExpertcError]
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(kind, match=name) as caught:
        train(recipe, taxonomy, swatches(range(40)), tmp_path / "run", trunk=path)
    assert caught.value.hint
    assert not (tmp_path / "run").exists()
