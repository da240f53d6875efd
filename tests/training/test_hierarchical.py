"""Training HierNet: from a trained backbone's weights, on the joint distribution, by a schedule that falls in steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from expertc.errors import InvalidArtifactError, UsageError
from expertc.export import load_trained
from expertc.taxonomy import Taxonomy
from expertc.training import Recipe, load_recipe, save_trained, train
from expertc.training.data import Decoded, Photos, normalise, train_loader, train_transform
from expertc.training.first import first_network
from expertc.training.objective import objective
from expertc.training.processes import Processes
from expertc.training.stage import StageRun
from expertc.zoo import HierNet, import_timm

timm = import_timm()


@pytest.fixture
def hierarchical(recipe: Recipe) -> Recipe:
    return replace(recipe, arch="hiernet", arch_args={"backbone": "cifar_resnet20", "split": 4, "add": 1})


def test_every_part_starts_from_the_trained_backbone(
    hierarchical: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path
) -> None:
    """From the file that a training of the backbone leaves, by the numbers that its parts compute."""
    plain = replace(hierarchical, arch="cifar_resnet20", arch_args={}, stages=(hierarchical.stages[0],))
    trained = train(plain, taxonomy, swatches(range(40)), tmp_path, workers=0)
    save_trained(tmp_path, trained, plain, taxonomy)
    backbone = load_trained(tmp_path).network
    network, facts = first_network(hierarchical, taxonomy, tmp_path / "model.safetensors")
    assert isinstance(network, HierNet)
    assert len(facts["trunk_weights"]) == 64
    network.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        root = network.top.body(x)
        assert torch.equal(root, backbone.blocks[:4](backbone.stem(x)))  # type: ignore[index, operator]
        assert torch.equal(network.top.head.body(root), backbone.blocks[4](root))  # type: ignore[index, operator]
        for group in network.groups.values():
            assert torch.equal(group.body(root), backbone.forward_features(x))  # type: ignore[operator, union-attr]


def test_another_backbones_weights_are_refused(hierarchical: Recipe, taxonomy: Taxonomy, tmp_path: Path) -> None:
    save_file(timm.create_model("cifar_elu_resnet20", num_classes=4).state_dict(), tmp_path / "elu.safetensors")
    with pytest.raises(InvalidArtifactError, match="bn1"):
        first_network(hierarchical, taxonomy, tmp_path / "elu.safetensors")


def test_it_trains_on_the_joint_distribution(
    hierarchical: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path
) -> None:
    """The loss is the negative sum of log-probabilities on the way to the class; what is saved is what was trained."""
    trained = train(hierarchical, taxonomy, swatches(range(60)), tmp_path, workers=0)
    assert trained.facts["history"][-1]["loss"] < trained.facts["history"][0]["loss"]
    network = trained.network
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    with torch.inference_mode():
        made = network(x)
        loss = timm.loss.SoftTargetCrossEntropy()(made, torch.nn.functional.one_hot(y, 4).float())
        found = network.decisions(x)  # type: ignore[operator]
        vivid, grey = found[""].exp().T
        products = [vivid[0] * found["vivid"].exp()[0, 0], vivid[1] * found["vivid"].exp()[1, 2],
                    vivid[2] * found["vivid"].exp()[2, 1], grey[3]]  # fmt: skip
        torch.testing.assert_close(loss, -torch.stack(products).log().mean())
        save_trained(tmp_path, trained, hierarchical, taxonomy)
        torch.testing.assert_close(load_trained(tmp_path).network(x), made)


@pytest.mark.parametrize("drops", [(0.5, 0.75), (1.0,)])
def test_the_learning_rate_falls_in_steps(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, drops: tuple[float, ...]
) -> None:
    """As torch's own MultiStepLR has it."""
    stage = replace(recipe.stages[0], drops=drops, warmup_epochs=0.0)
    model, _ = first_network(recipe, taxonomy, None)
    averaged = timm.utils.ModelEmaV3(model, decay=0.9)
    run = StageRun(recipe, stage, model, objective(model), averaged, Processes("cpu"), 4, None, 0)
    every = {0: 0, 1: 1, 2: 2, 3: 3}
    photos = Photos(Decoded(swatches(range(40)), range(40), every), train_transform(recipe, stage))
    loader = train_loader(photos, 8, 0, 0)
    found = []
    for epoch in range(stage.epochs):
        found += [run.optimizer.param_groups[0]["lr"] for _ in run.epoch(loader, epoch)]
    steps = stage.epochs * 5
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], stage.lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(theirs, [round(drop * steps) for drop in drops], 0.1)
    expected = []
    for _ in range(steps):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    np.testing.assert_allclose(found, expected)
    assert len(set(expected)) == (3 if len(drops) == 2 else 1)


def test_a_padded_crop_is_a_shifted_image(recipe: Recipe) -> None:
    stage = replace(recipe.stages[0], pad=4, colour_jitter=0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    border = np.round(255 * np.array(recipe.mean)).astype(np.uint8)
    wide = np.broadcast_to(border, (40, 40, 3)).copy()
    wide[4:36, 4:36] = pixels
    windows = {}
    for top in range(9):
        for left in range(9):
            shifted = wide[top : top + 32, left : left + 32]
            windows[shifted.tobytes()] = (top, left, 0)
            windows[np.ascontiguousarray(shifted[:, ::-1]).tobytes()] = (top, left, 1)
    transform = train_transform(recipe, stage)
    found = []
    for _ in range(60):
        made = np.asarray(transform(Image.fromarray(pixels)))
        found.append(windows[np.ascontiguousarray(made.transpose(1, 2, 0)).tobytes()])
    assert len({top for top, _, _ in found}) > 5
    assert len({left for _, left, _ in found}) > 5
    assert {flip for _, _, flip in found} == {0, 1}
    assert normalise(torch.from_numpy(np.asarray(made))[None], recipe, "cpu").shape == (1, 3, 32, 32)


@pytest.mark.parametrize("line", ["drops = [0.0]", "drops = [1.5]", "pad = 32", "pad = -1", "pad = 1.5"])
def test_a_stage_that_cannot_be_followed(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    stage = '[[stage]]\nname = "s"\nepochs = 1\nsize = 32\nlr = 0.1\n'
    path.write_text(f'name = "r"\ntaxonomy = "t"\narch = "hiernet"\n{stage}{line}\n')
    with pytest.raises(UsageError, match=line.partition(" ")[0]):
        load_recipe(path)


@pytest.mark.parametrize("data", ["tiny-imagenet", "cifar10", "cifar100"])
def test_hiernet_and_its_backbone_see_the_same(data: str) -> None:
    """But for the start, which a network with trained weights takes slowly; drops lie at the paper's steps."""
    plain, tall = load_recipe(f"resnet20-{data}"), load_recipe(f"hiernet20-{data}")
    different = {key for key in vars(plain) if getattr(plain, key) != getattr(tall, key)}
    assert different == {"name", "arch", "stages"}
    assert sum(stage.epochs for stage in plain.stages) == sum(stage.epochs for stage in tall.stages) == 200
    (one,), (warm, long) = plain.stages, tall.stages
    changed = {key for key in vars(one) if getattr(one, key) != getattr(long, key)}
    assert changed == {"epochs", "drops"}
    assert (one.lr, long.lr, warm.lr) == (0.1, 0.1, 0.01)
    steps = 78_000  # of 128 images, 200 times 50,000
    np.testing.assert_allclose([drop * steps for drop in one.drops], [32_000, 48_000], atol=100)
    np.testing.assert_allclose([(5 + 195 * drop) / 200 * steps for drop in long.drops], [34_000, 50_000], atol=100)
