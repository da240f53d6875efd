from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_run import Plain

from expertc.errors import UsageError
from expertc.export import load_trained
from expertc.taxonomy import Taxonomy
from expertc.training import Recipe, Stage, load_recipe, save_trained, train

ROOT = Path(__file__).resolve().parents[2]

STAGE = '[[stage]]\nname = "s"\nepochs = 1\nsize = 32\nlr = 0.1\n'
HEAD = 'name = "r"\ntaxonomy = "t"\narch = "nhl"\n'


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "r.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


SHIPPED = sorted(path.stem for path in (ROOT / "expertc" / "training" / "recipes").glob("*.toml"))
COMPARED = [(data, [f"{kind}-{data}" for kind in ("hlfp", "nhl", "resnet")]) for data in ("imagenette", "imagewoof")]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_recipes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Taxonomy.shipped(recipe.taxonomy).name == recipe.taxonomy
    assert recipe.preprocess.size == (recipe.size, recipe.size)


@pytest.mark.parametrize(("name", "mark"), [
    ("sea-animals", "5d54ead97ba922ce"), ("hlfp-imagenette", "8b5f9ced9370a626"),
    ("resnet20-cifar10", "4aad73cdc36f5359"), ("hiernet20-tiny-imagenet", "f0d9775e063b52fe"),
])  # fmt: skip
def test_an_older_run_goes_on(name: str, mark: str) -> None:
    """A change of our code must not change the mark of runs that were begun with this recipe."""
    assert load_recipe(name).fingerprint == mark


@pytest.mark.parametrize(("data", "names"), COMPARED)
def test_what_is_compared_is_trained_alike(data: str, names: list[str]) -> None:
    first, *others = (asdict(load_recipe(name)) for name in names)
    assert first["taxonomy"] == data
    for other in others:
        assert {key for key in first if first[key] != other[key]} == {"name", "arch", "arch_args"}


@pytest.mark.parametrize("name", [name for _, names in COMPARED for name in names])
def test_a_shipped_recipe_trains(name: str, tmp_path: Path) -> None:
    """One step of each, on pictures that bear its classes' names."""
    recipe = load_recipe(name)
    tree = Taxonomy.shipped(recipe.taxonomy)
    short = replace(recipe, holdout=0.0, stages=(replace(recipe.stages[0], epochs=1, batch=10),))
    images = Plain(tree.classes, 20)
    trained = train(short, tree, images, tmp_path, workers=0)
    save_trained(tmp_path, trained, short, tree)
    loaded = load_trained(tmp_path)
    expected = trained.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.network.state_dict().items())
    assert loaded.network(torch.zeros(1, 3, recipe.size, recipe.size)).shape == (1, 10)


def test_a_file_and_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, HEAD + "std = [0.5, 0.5, 0.5]\n" + STAGE))
    assert recipe == Recipe("r", "t", "nhl", (Stage("s", 1, 32, 0.1),), {}, std=(0.5, 0.5, 0.5))


CHANGES: dict[str, Any] = {
    "name": "x", "taxonomy": "x", "arch": "x", "arch_args": {"drop_rate": 0.2}, "size": 64, "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0), "interpolation": "bicubic", "seed": 1, "holdout": 0.1, "weight_decay": 0.0,
    "smoothing": 0.0, "epochs": 2, "lr": 0.2, "batch": 32, "warmup_epochs": 0.0, "scale": 0.9,
    "colour_jitter": 0.0, "auto_augment": "rand-m9-n2", "mix": 0.5, "ema_decay": 0.9, "drops": (0.5,),
    "pad": 4, "train_only": "semantic", "optimizer": "adam", "levels": 2, "exit_weights": (1.0, 0.5),
}  # fmt: skip


def test_every_field_changes_the_fingerprint() -> None:
    stage = Stage("s", 1, 32, 0.1)
    recipe = Recipe("r", "t", "nhl", (stage,))
    found = {recipe.fingerprint}
    for field in fields(Recipe):
        if field.name != "stages":
            found.add(replace(recipe, **{field.name: CHANGES[field.name]}).fingerprint)
    for field in fields(Stage):
        found.add(replace(recipe, stages=(replace(stage, **{field.name: CHANGES[field.name]}),)).fingerprint)
    found.add(replace(recipe, stages=(stage, stage)).fingerprint)
    assert len(found) == len(fields(Recipe)) - 1 + len(fields(Stage)) + 2
    assert recipe.fingerprint == Recipe(**(asdict(recipe) | {"stages": (stage,)})).fingerprint
    assert all(len(mark) == 16 for mark in found)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEAD, "stage"),
        (HEAD + "stage = []\n", "stage"),
        (HEAD + "stage = 3\n", "malformed"),
        (HEAD + STAGE + "sparkle = 1\n", "sparkle"),
        ("sparkle = 1\n" + HEAD + STAGE, "sparkle"),
        (STAGE, "malformed"),
        (HEAD + STAGE.replace("epochs = 1", "epochs = 0"), "epochs"),
        (HEAD + STAGE.replace("epochs = 1", "epochs = 1.5"), "epochs"),
        (HEAD + STAGE.replace("size = 32", 'size = "32"'), "size"),
        (HEAD + STAGE + "batch = 1\n", "batch"),
        (HEAD + STAGE + 'auto_augment = "rand"\n', "auto_augment"),
        (HEAD + STAGE + 'auto_augment = "rand-m9-n2.5"\n', "auto_augment"),
        (HEAD + STAGE + 'auto_augment = "original"\n', "auto_augment"),
        (HEAD + STAGE + "auto_augment = 9\n", "malformed"),
        (HEAD + STAGE.replace("lr = 0.1", "lr = 0"), "lr"),
        (HEAD + STAGE.replace("lr = 0.1", "lr = nan"), "lr"),
        (HEAD + STAGE.replace("lr = 0.1", 'lr = "fast"'), "malformed"),
        ("holdout = 1.0\n" + HEAD + STAGE, "holdout"),
        ("mean = 3\n" + HEAD + STAGE, "malformed"),
        ('interpolation = "random"\n' + HEAD + STAGE, "interpolation"),
        ("size = 0\n" + HEAD + STAGE, "size"),
        (HEAD + "name = 3", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_malformed_recipe_is_refused(tmp_path: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        load_recipe(written(tmp_path, text))
    assert caught.value.hint


def test_an_unknown_recipe_lists_the_known(tmp_path: Path) -> None:
    for name in ("sea-animal", tmp_path / "missing.toml", tmp_path):
        with pytest.raises(UsageError) as caught:
            load_recipe(name)
        assert "sea-animals" in caught.value.hint
