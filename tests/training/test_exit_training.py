"""Training networks with early exits: the losses by hand, the semantic exit after and apart from the others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rainbow import photos
from safetensors.torch import save_file
from shared_run import Plain as Photos

from expertc.errors import InvalidArtifactError, UsageError
from expertc.export import load_trained
from expertc.taxonomy import Taxonomy
from expertc.training import Progress, Recipe, Trained, load_recipe, save_trained, train
from expertc.training.first import first_network
from expertc.training.objective import ExitLosses, objective
from expertc.training.processes import Processes
from expertc.training.stage import StageRun
from expertc.zoo import ExitNet, import_timm
from expertc.zoo.trees import two_levels

timm = import_timm()

SIZES = (3, 2)
TINY = {"backbone": "resnet18", "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, "width": 8}


def losses(name: str, weights: tuple[float, ...] = (1.0, 0.8, 0.6)) -> ExitLosses:
    with torch.device("meta"):
        network = timm.create_model(name, taxonomy=two_levels(SIZES))
    return ExitLosses(network, weights)


def logs(logits: torch.Tensor) -> np.ndarray:
    values = logits.double().numpy()
    return values - np.log(np.exp(values).sum(1, keepdims=True))


@pytest.mark.parametrize("name", ["b_alexnet", "sem_hbn", "gran_hbn", "ag_hbn"])
def test_the_joint_loss_by_hand(name: str) -> None:
    """Of mixed images too: a category is as likely as its classes together."""
    own = losses(name)
    torch.manual_seed(0)
    made = {n: torch.randn(4, 2 if "coarse" in n or n == "semantic" else 5) * 3 for n in own.names}
    target = torch.rand(4, 5).softmax(1)
    fine = target.double().numpy()
    coarse = np.stack([fine[:, :3].sum(1), fine[:, 3:].sum(1)], 1)
    expected = 0.0
    for exit_name, logits in made.items():
        if exit_name != "semantic":
            wanted = coarse if "coarse" in exit_name else fine
            weight = {"1": 1.0, "2": 0.8, "3": 0.6}[exit_name[4]]
            expected += weight * -(wanted * logs(logits)).sum(1).mean()
    assert own.joint(list(made.values()), target).item() == pytest.approx(expected, rel=1e-5)


def answering(own: ExitLosses, right: dict[str, list[bool]], label: int) -> list[torch.Tensor]:
    """Logits of as many images as ``right`` has entries, all of class ``label``: exits by whether they are right."""
    category = int(label >= SIZES[0])
    made = []
    for name in own.names:
        width, truth = (5, label) if "fine" in name else (2, category)
        rows = right.get(name, [True] * len(next(iter(right.values()))))
        answers = torch.tensor([truth if row else (truth + 1) % width for row in rows])
        made.append(torch.nn.functional.one_hot(answers, width).float() * 4)
    return made


# Which exits answer rightly, finely and coarsely; 1.5 of the first against the second, and a tie is coarse.
CASES = [
    ([1, 1, 1], [1, 1, 1], 1),
    ([0, 0, 0], [0, 0, 0], 0),
    ([0, 0, 1], [1, 0, 0], 1),
    ([1, 0, 0], [0, 1, 1], 0),
    ([0, 1, 1], [1, 1, 1], 0),
    ([1, 1, 0], [1, 1, 0], 1),
    ([0, 0, 0], [0, 0, 1], 0),
    ([0, 1, 0], [0, 0, 0], 1),
]


@pytest.mark.parametrize("label", [1, 4])
def test_which_granularity_suits(label: int) -> None:
    own = losses("ag_hbn")
    right = {
        f"exit{u + 1}.{kind}": [bool(case[at][u]) for case in CASES]
        for u in range(3)
        for at, kind in enumerate(("fine", "coarse"))
    }
    made = answering(own, right, label)
    target = torch.nn.functional.one_hot(torch.full((len(CASES),), label), 5).float()
    assert own.suited(made, target).tolist() == [wanted for *_, wanted in CASES]


def test_the_semantic_loss_by_hand() -> None:
    """Five times the two-way cross-entropy, and the entropies, which nothing learns from."""
    own = losses("ag_hbn")
    torch.manual_seed(0)
    made = [torch.randn(6, 2 if "coarse" in n or n == "semantic" else 5, requires_grad=True) for n in own.names]
    target = torch.nn.functional.one_hot(torch.arange(6) % 5, 5).float()
    loss = own.semantic(made, target)
    loss.backward()
    assert [tensor.grad is not None for tensor in made] == [name == "semantic" for name in own.names]
    by_name = {name: logs(tensor.detach()) for name, tensor in zip(own.names, made, strict=True)}
    suited = own.suited(made, target).numpy()
    error = -by_name["semantic"][np.arange(6), suited].mean()
    entropy = {n: -(np.exp(v) * v).sum(1).mean() for n, v in by_name.items()}
    fine, coarse = (np.mean([entropy[f"exit{u}.{kind}"] for u in (1, 2, 3)]) for kind in ("fine", "coarse"))
    assert loss.item() == pytest.approx(5 * error + 1.5 * fine + coarse, rel=1e-5)


@pytest.fixture
def tree() -> Taxonomy:
    return Taxonomy.from_mapping(
        {"tree": {"vivid": {"greens": {"index": 0}, "reds": {"index": 2}}, "dull": {"blues": {"index": 1},
                  "greys": {"index": 3}}}}
    )  # fmt: skip


@pytest.fixture
def adaptive(recipe: Recipe) -> Recipe:
    """A tiny AG-HBN: two epochs for the exits, two for the semantic one alone."""
    first, second = (replace(stage, lr=0.01) for stage in recipe.stages)
    return replace(
        recipe, arch="exits", arch_args=TINY | {"semantic": True, "drop_rate": 0.1}, optimizer="adam",
        exit_weights=(1.0, 0.8, 0.6), stages=(first, replace(second, train_only="semantic")),
    )  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process."""


def test_the_semantic_exit_learns_alone_and_a_killed_run_ends_in_the_same_weights(
    adaptive: Recipe, tree: Taxonomy, swatches: Any, tmp_path: Path
) -> None:
    seen: list[Progress] = []

    def run(recipe: Recipe, folder: str, report: Any = seen.append) -> Trained:
        return train(recipe, tree, swatches(range(40)), tmp_path / folder, workers=0, report=report)

    whole = run(adaptive, "whole")
    state = whole.network.state_dict()
    exits_only = run(replace(adaptive, stages=adaptive.stages[:1]), "exits").network.state_dict()
    start, _ = first_network(adaptive, tree, None)
    for name, tensor in state.items():
        is_semantic = name.startswith("semantic.")
        assert torch.equal(tensor, exits_only[name]) != is_semantic, name
        if is_semantic:
            assert torch.equal(start.state_dict()[name], exits_only[name])
    for kill_at in (2, 3, 6, 3, 1):  # within an epoch, after one, in the stage of the semantic exit, in the last epoch
        reports = iter(range(1000))

        def report(_: Progress, reports: Any = reports, kill_at: int = kill_at) -> None:
            if next(reports) == kill_at:
                raise Killed

        with pytest.raises(Killed):
            run(adaptive, "killed", report)
        torch.manual_seed(kill_at)
    resumed = run(adaptive, "killed")
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.network.state_dict().items())
    assert resumed.facts == whole.facts

    held = whole.facts["holdout"]
    assert list(held["exits"]) == [f"exit{u}.{kind}" for u in (1, 2, 3) for kind in ("fine", "coarse")]
    assert held["exits"]["exit3.fine"] == held["hits"]
    assert all(0 <= hits <= held["images"] for hits in held["exits"].values())
    save_trained(tmp_path / "saved", whole, adaptive, tree)
    loaded = load_trained(tmp_path / "saved").network
    assert isinstance(loaded, ExitNet)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_adam_is_torchs_with_one_rate(adaptive: Recipe, tree: Taxonomy) -> None:
    stage = replace(adaptive.stages[0], drops=(1.0,), warmup_epochs=0.0)
    model, _ = first_network(adaptive, tree, None)
    averaged = timm.utils.ModelEmaV3(model, decay=0.9)
    run = StageRun(adaptive, stage, model, objective(model), averaged, Processes("cpu"), 4, None, 0)
    assert isinstance(run.optimizer.optimizer, torch.optim.Adam)
    assert not any(p.requires_grad for p in model.semantic.parameters())  # type: ignore[union-attr]
    batches = [(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8) % 4) for _ in range(3)]
    rates = {run.optimizer.param_groups[0]["lr"] for _ in run.epoch(batches, 0)}
    assert rates == {stage.lr}
    kinds = {name.rpartition(":")[2] for name in run.momentum()}
    assert kinds == {"exp_avg", "exp_avg_sq", "step"}


def test_it_starts_from_a_trained_backbone(adaptive: Recipe, tree: Taxonomy, tmp_path: Path) -> None:
    torch.manual_seed(9)
    backbone = timm.create_model("resnet18", num_classes=4, **TINY["backbone_args"]).eval()
    save_file(backbone.state_dict(), tmp_path / "r.safetensors")
    network, facts = first_network(adaptive, tree, tmp_path / "r.safetensors")
    assert len(facts["trunk_weights"]) == 64
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.nn.Sequential(*network.eval().body)(x), backbone.forward_features(x))  # type: ignore[misc]
    with pytest.raises(UsageError, match="no backbone"):
        first_network(replace(adaptive, arch="ag_hbn", arch_args={}), tree, tmp_path / "r.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exit_weights": (1.0, 0.5)}, "weighs 2 exits, but the network has 3"),
        ({"arch": "resnet18", "arch_args": {}}, "has none"),
        ({"arch_args": TINY}, "no part 'semantic'"),
    ],
)
def test_a_recipe_that_does_not_fit_its_network(
    adaptive: Recipe, tree: Taxonomy, swatches: Any, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    images = swatches(range(40), spoiled=frozenset(range(40)))
    with pytest.raises(UsageError, match=words) as caught:
        train(replace(adaptive, **change), tree, images, tmp_path / "run", workers=0)
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


def test_a_tree_of_three_levels(adaptive: Recipe, swatches: Any, tmp_path: Path) -> None:
    tree = {"a": {"b": {"greens": {"index": 0}}}, "c": {"reds": {"index": 1}}}
    with pytest.raises(UsageError, match="two levels"):
        train(adaptive, Taxonomy.from_mapping({"tree": tree}), swatches(range(40)), tmp_path / "run", workers=0)


COUNTS = {"cifar10": (5, 10), "tiny-imagenet": (23, 200)}
KINDS = {"alexnet": "hbn_alexnet", "b-alexnet": "b_alexnet", "sem-hbn": "sem_hbn", "gran-hbn": "gran_hbn",
         "ag-hbn": "ag_hbn"}  # fmt: skip


@pytest.mark.parametrize("data", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_published_hyper_parameters(kind: str, data: str) -> None:
    recipe, gran = load_recipe(f"{kind}-{data}"), load_recipe(f"gran-hbn-{data}")
    tree = recipe.tree()
    assert (len(tree.roots), len(tree), tree.depth) == (*COUNTS[data], 2)
    assert (recipe.arch, recipe.optimizer, recipe.weight_decay, recipe.size) == (KINDS[kind], "adam", 5e-4, 32)
    assert recipe.exit_weights == (() if kind == "alexnet" else (1.0, 0.8, 0.6))
    assert [stage.epochs for stage in recipe.stages] == ([100, 20] if kind == "ag-hbn" else [120])
    assert {(stage.lr, stage.batch, stage.drops) for stage in recipe.stages} == {(1.5e-4, 64, (1.0,))}
    assert [stage.train_only for stage in recipe.stages] == (["", "semantic"] if kind == "ag-hbn" else [""])
    same = {"mean", "std", "seed", "holdout", "smoothing", "levels", "taxonomy", "interpolation"}
    assert all(getattr(recipe, key) == getattr(gran, key) for key in same)
    first = replace(recipe.stages[0], epochs=120)
    assert first == gran.stages[0]


@pytest.mark.parametrize("name", ["ag-hbn-cifar10", "alexnet-cifar10"])
def test_a_shipped_recipe_trains(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    tree = recipe.tree()
    short = replace(recipe, holdout=0.0, stages=tuple(replace(s, epochs=1, batch=10) for s in recipe.stages))
    trained = train(short, tree, Photos(tree.classes, 10), tmp_path, workers=0)
    assert len(trained.facts["history"]) == len(recipe.stages)


def test_a_recipe_on_top_of_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "gran-hbn-cifar10"\nname = "mine"\nseed = 3\n')
    assert load_recipe(path) == replace(load_recipe("gran-hbn-cifar10"), name="mine", seed=3)
    for text, words in (
        ('base = "b-alexnet-cifar10"\nname = "x"\n', "malformed"),  # which has a base itself
        ('base = "nothing"\nname = "x"\n', "no recipe 'nothing'"),
        ("base = 3\n", "malformed"),
        ('base = "gran-hbn-cifar10"\noptimizer = "adamant"\n', "optimizer"),
        ('base = "gran-hbn-cifar10"\nlevels = -1\n', "levels"),
        ('base = "gran-hbn-cifar10"\nlevels = 1.5\n', "levels"),
        ('base = "gran-hbn-cifar10"\nexit_weights = [1.0, 0.0, 1.0]\n', "exit_weights"),
        ('base = "gran-hbn-cifar10"\nexit_weights = ["a"]\n', "malformed"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            load_recipe(path)


def test_an_altered_network_is_refused(adaptive: Recipe, tree: Taxonomy) -> None:
    with pytest.raises(InvalidArtifactError, match="rising"):
        first_network(replace(adaptive, arch_args=TINY | {"at": [2, 1]}), tree, None)


def test_by_the_command_line(cli: Any, tmp_path: Path) -> None:
    """A tree of three levels, of which the recipe takes the lowest two; said in the end: each exit's hits."""
    (tmp_path / "t.yaml").write_text(
        "name: t\ntree:\n  all:\n    warm: {reds: {index: 0}, yellows: {index: 3}}\n"
        "    cold: {greens: {index: 1}, blues: {index: 2}}\n"
    )
    recipe = f'''
name = "r"
taxonomy = "{tmp_path / "t.yaml"}"
levels = 2
arch = "exits"
size = 32
holdout = 0.5
[arch_args]
backbone = "resnet18"
at = [1]
backbone_args = {{ layers = [1, 1, 1, 1], channels = [8, 8, 8, 8] }}
[[stage]]
name = "s"
epochs = 1
size = 32
lr = 0.01
batch = 4
'''
    (tmp_path / "r.toml").write_text(recipe)
    data, folder = photos(tmp_path / "photos", each=6), tmp_path / "run"
    code, out, err = cli("train", tmp_path / "r.toml", "--data", data, "-o", folder, "--workers", 0, "-q")
    assert (code, err) == (0, "")
    held = load_trained(folder).facts["training"]["holdout"]
    assert [f"{name}: {hits} of {held['images']} right" for name, hits in held["exits"].items()] == out.splitlines()[
        1:5
    ]
    assert load_trained(folder).taxonomy.path("reds") == ("warm", "reds")


def test_the_recipe_in_the_readme_makes_a_network(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = (each for each in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if 'arch = "exits"' in each)
    (tmp_path / "early.toml").write_text(block)
    recipe = load_recipe(tmp_path / "early.toml")
    network = timm.create_model(recipe.arch, taxonomy=two_levels(SIZES), **recipe.arch_args)
    assert len(ExitLosses(network, recipe.exit_weights).names) == 2 * 3
    assert [one.shape[1] for one in network.eval().plain(torch.zeros(1, 3, recipe.size, recipe.size))] == [5, 2] * 3
