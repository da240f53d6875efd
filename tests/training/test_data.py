from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from expertc.errors import DataError
from expertc.runtime.dataset import FolderImages, open_dataset
from expertc.runtime.preprocess import apply
from expertc.training import Recipe, load_recipe
from expertc.training.data import (
    Decoded,
    Photos,
    eval_transform,
    normalise,
    seed_all,
    split,
    train_loader,
    train_transform,
)

EVERY = {0: 0, 1: 1, 2: 2, 3: 3}


def named(images: Any, indices: list[int]) -> set[str]:
    return {images.name(index) for index in indices}


@pytest.mark.parametrize("holdout", [0.0, 0.06, 0.5])
def test_the_split_does_not_depend_on_the_order(swatches: Any, holdout: float) -> None:
    order = random.sample(range(200), 200)
    images, shuffled = swatches(range(200)), swatches(order)
    train, held = split(images, EVERY, holdout)
    assert sorted(train + held) == list(range(200))
    train_again, held_again = split(shuffled, EVERY, holdout)
    assert named(shuffled, held_again) == named(images, held)
    assert named(shuffled, train_again) == named(images, train)


def test_the_share_held_out_is_the_one_asked_for(swatches: Any) -> None:
    _, held = split(swatches(range(4000)), EVERY, 0.06)
    assert abs(len(held) - 240) < 4 * (4000 * 0.06 * 0.94) ** 0.5  # four standard deviations
    assert {index % 4 for index in held} == {0, 1, 2, 3}


def test_the_split_does_not_depend_on_where_the_images_lie(swatches: Any) -> None:
    here, there = swatches(range(400)), swatches(range(400), folder="/mnt/disk/photos/train/")
    assert split(here, EVERY, 0.1) == split(there, EVERY, 0.1)


def test_classes_without_a_label_are_left_out(swatches: Any) -> None:
    train, held = split(swatches(range(40)), {1: 0, 3: 1}, 0.1)
    assert {index % 4 for index in train + held} == {1, 3}


def test_names_that_are_not_unicode_can_be_split(tmp_path: Path) -> None:
    images = FolderImages(("a",), (Path(b"/a/\xff.png".decode(errors="surrogateescape")),), (0,))
    assert split(images, {0: 0}, 0.5) in (([0], []), ([], [0]))


def test_an_image_too_many_for_the_cache_is_decoded_each_time(swatches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = swatches(range(6))
    everything = Decoded(images, range(6), EVERY)
    monkeypatch.setattr("expertc.training.data.CACHE_BYTES", 2 * 32 * 32 * 3)
    some = Decoded(images, range(6), EVERY)
    for item in range(6):
        assert everything.image(item).tobytes() == some.image(item).tobytes()
    monkeypatch.setattr(type(images), "open", lambda self, index: Path("/nowhere.png"))
    assert some.image(1)
    with pytest.raises(DataError):
        some.image(2)


@pytest.mark.parametrize("shape", [(128, 128), (97, 160), (300, 128), (1, 9), (130, 131)])
def test_the_cards_preprocessing_is_what_the_network_was_judged_with(shape: tuple[int, int]) -> None:
    recipe = load_recipe("sea-animals")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    judged = normalise(eval_transform(recipe, recipe.size)(image)[None].to(torch.uint8), recipe, "cpu")[0]
    ours = torch.from_numpy(apply(image, recipe.preprocess))
    torch.testing.assert_close(ours, judged, rtol=0, atol=1e-5)


def test_rand_augment_is_timms(recipe: Recipe) -> None:
    plain, augmented = (replace(recipe.stages[0], auto_augment=text) for text in ("", "rand-m9-n2"))
    steps = [str(train_transform(recipe, stage)) for stage in (plain, augmented)]
    assert "ColorJitter" in steps[0]
    assert "RandAugment(n=2" in steps[1]
    assert "ColorJitter" not in steps[1]
    assert "AugmentOp(name=Rotate, p=0.5, m=9," in steps[1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["", "rand-m9-n2"])
def test_batches_depend_on_the_seed_alone(recipe: Recipe, swatches: Any, workers: int, augment: str) -> None:
    stage = replace(recipe.stages[0], auto_augment=augment)
    photos = Photos(Decoded(swatches(range(24)), range(24), EVERY), train_transform(recipe, stage))

    def batches(seed: int, process: int = 0) -> torch.Tensor:
        seed_all(seed, process)
        return torch.cat([x for x, _ in train_loader(photos, 8, seed, workers, process)])

    first = batches(1)
    assert first.shape == (24, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, batches(1))
    assert not torch.equal(first, batches(2))
    assert not torch.equal(first, batches(1, process=1))  # the same photos, changed otherwise


def test_the_real_photos_split_as_they_were_trained(data_dir: Path) -> None:
    images = open_dataset(data_dir / "sea-animals-128", "train")
    train, held = split(images, {k: k for k in range(len(images.classes))}, load_recipe("sea-animals").holdout)
    assert not set(train) & set(held)
    assert 0.05 < len(held) / len(images) < 0.07
    assert len({images.label(index) for index in held}) == 23
