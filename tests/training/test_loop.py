from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expertc.errors import DataError, InvalidArtifactError
from expertc.taxonomy import Taxonomy
from expertc.training import Progress, Recipe, Trained, require_known, train
from expertc.training.data import label_map


def run(recipe: Recipe, taxonomy: Taxonomy, images: Any, folder: Path, **options: Any) -> Trained:
    return train(recipe, taxonomy, images, folder, workers=0, **options)


def test_it_learns_what_can_be_learnt(recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path) -> None:
    first, second = recipe.stages
    patient = replace(recipe, stages=(replace(first, epochs=4, mix=0.0), replace(second, epochs=6, mix=0.0)))
    seen: list[Progress] = []
    trained = run(patient, taxonomy, swatches(range(96)), tmp_path, report=seen.append)
    held = trained.facts["holdout"]
    assert 10 <= held["images"] <= 30
    assert held["images"] + trained.facts["train_images"] == 96
    assert held["hits"] >= 0.9 * held["images"]
    assert held["wilson95"][0] < held["hits"] / held["images"] <= held["wilson95"][1]
    assert not trained.network.training
    assert [entry["stage"] for entry in trained.facts["history"]] == ["first"] * 4 + ["second"] * 6
    assert seen[-1].accuracy == pytest.approx(held["hits"] / held["images"])
    assert seen[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert [p.epoch for p in seen if p.accuracy is not None] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert seen[-1].loss < seen[0].loss


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def uninterrupted(recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path) -> Trained:
    return run(recipe, taxonomy, swatches(range(40)), tmp_path / "uninterrupted")


def test_a_killed_run_ends_in_the_same_weights(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, uninterrupted: Trained
) -> None:
    # Within an epoch, after one, in the first of the second stage, after it, in the last. Four reports are an epoch.
    for kill_at in (2, 3, 6, 3, 1):
        reports = iter(range(1000))

        def report(_: Progress, reports: Any = reports, kill_at: int = kill_at) -> None:
            if next(reports) == kill_at:
                raise Killed

        with pytest.raises(Killed):
            run(recipe, taxonomy, swatches(range(40)), tmp_path / "killed", report=report)
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(kill_at)  # another process starts with other generators
    resumed = run(recipe, taxonomy, swatches(range(40)), tmp_path / "killed")
    expected = uninterrupted.network.state_dict()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert resumed.facts == uninterrupted.facts


def test_a_finished_run_is_not_run_again(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, uninterrupted: Trained
) -> None:
    seen: list[Progress] = []
    again = run(recipe, taxonomy, swatches(range(40)), tmp_path / "uninterrupted", report=seen.append)
    assert not seen
    expected = uninterrupted.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.network.state_dict().items())


def test_another_seed_gives_other_weights(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, uninterrupted: Trained
) -> None:
    other = run(replace(recipe, seed=1), taxonomy, swatches(range(40)), tmp_path / "other")
    name = "trunk.conv1.weight"
    assert not torch.equal(other.network.state_dict()[name], uninterrupted.network.state_dict()[name])


def test_a_folder_of_another_run_is_refused(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, uninterrupted: Trained
) -> None:
    folder = tmp_path / "uninterrupted"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InvalidArtifactError, match="another recipe"):
        run(replace(recipe, weight_decay=0.0), taxonomy, swatches(range(40)), folder)
    with pytest.raises(InvalidArtifactError, match="another choice of classes"):
        run(recipe, taxonomy.restrict([0, 3]), swatches(range(40)), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_restricted_taxonomy_trains_on_its_classes_alone(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path
) -> None:
    short = replace(recipe, stages=(replace(recipe.stages[1], epochs=1),))
    trained = run(short, taxonomy.restrict([0, 3]), swatches(range(40)), tmp_path)
    assert trained.network.num_classes == 2
    assert trained.facts["train_images"] + trained.facts["holdout"]["images"] == 20


def test_without_a_holdout(recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path) -> None:
    short = replace(recipe, holdout=0.0, stages=(replace(recipe.stages[0], epochs=1),))
    trained = run(short, taxonomy, swatches(range(9)), tmp_path)
    assert trained.facts["holdout"] == {"images": 0, "hits": 0, "wilson95": [0.0, 1.0]}


def test_images_that_do_not_fit(recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class 'reds'"):
        run(recipe, taxonomy, swatches(range(40), ("greys", "greens", "blues")), tmp_path / "run")
    with pytest.raises(DataError, match="fewer than two"):
        run(recipe, taxonomy, swatches([0]), tmp_path / "run")
    with pytest.raises(DataError, match=r"reds/8\.png"):
        run(replace(recipe, holdout=0.0), taxonomy, swatches(range(40), spoiled=frozenset([8])), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_classes_that_do_not_match_are_said_at_once(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path
) -> None:
    classes = ("greys", "greens", "reds", "blues")
    everything = frozenset(range(40))
    with pytest.raises(DataError, match=r"'blues' has no images"):
        run(recipe, taxonomy, swatches([n for n in range(40) if n % 4 != 2], spoiled=everything), tmp_path / "run")
    with pytest.raises(DataError, match="no class 'reds'") as caught:
        run(recipe, taxonomy, swatches(range(40), ("greens", "blues", "greys", "rouge")), tmp_path / "run")
    assert "'rouge'" in caught.value.hint
    require_known(swatches([0], classes), taxonomy)
    with pytest.raises(DataError, match="no class for the images of 'pinks'"):
        require_known(swatches([0], (*classes, "pinks")), taxonomy)
    assert not (tmp_path / "run").exists()


def test_classes_are_matched_by_name_label_or_synset(swatches: Any) -> None:
    tree = {"reds": {"index": 1}, "b": {"index": 0, "label": "The Blues"}, "g": {"index": 2, "synset": "n01440764"}}
    images = swatches(range(8), ("the-blues", "N01440764", "other", "Reds"))
    assert label_map(images, Taxonomy.from_mapping({"tree": tree})) == {0: 0, 1: 2, 3: 1}


def test_a_checkpoint_of_another_network_is_refused(
    recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path, uninterrupted: Trained
) -> None:
    """The tree is another, the names of the classes are not: only the weights tell."""
    flat = Taxonomy.flat(taxonomy.classes)
    with pytest.raises(InvalidArtifactError, match=r"checkpoint\.json"):
        run(recipe, flat, swatches(range(40), spoiled=frozenset(range(40))), tmp_path / "uninterrupted")


def test_a_loss_that_explodes_is_said(recipe: Recipe, taxonomy: Taxonomy, swatches: Any, tmp_path: Path) -> None:
    wild = replace(recipe, stages=(replace(recipe.stages[0], lr=1e30, warmup_epochs=0.0),))
    with pytest.raises(DataError, match="stage 'first'"):
        run(wild, taxonomy, swatches(range(40)), tmp_path)
