"""Both forms of a network with early exits from one network, against torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from expertc.card import CARD_KEY, Card, Output, Preprocess
from expertc.cli.export import command
from expertc.errors import UsageError, VerificationError
from expertc.export import early, export_trained
from expertc.export.early import export_early
from expertc.graph import read_model
from expertc.graph.cost import cost
from expertc.taxonomy import Taxonomy
from expertc.training import Recipe, Stage, Trained, save_trained
from expertc.zoo import ExitNet, import_timm
from expertc.zoo.blocks import GlobalPool
from expertc.zoo.trees import two_levels

timm = import_timm()

SPEC = Preprocess((32, 32), 32, "bilinear")
TREE = two_levels((3, 2))
KINDS: dict[str, dict[str, Any]] = {
    "gran": {"fine": True, "coarse": True},
    "ag": {"fine": True, "coarse": True, "semantic": True, "thresholds": [0.4, 0.3]},
    "sem": {"fine": [False, False, True], "coarse": [True, True, False]},
}


def made(kind: str) -> ExitNet:
    """Three stages of one convolution, whose exits are all of another opinion."""
    torch.manual_seed(2)
    body = [nn.Sequential(nn.Conv2d(cin, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()) for cin in (3, 8, 8)]
    network = ExitNet(TREE, body, [(GlobalPool(), 8) for _ in body], **KINDS[kind])
    for name, tensor in network.state_dict().items():
        if name.endswith(("fine.weight", "coarse.weight", "semantic.weight")):
            tensor.normal_(0, 2)
    return network.eval()


def card() -> Card:
    return Card("early", TREE, (Output("logits"),), "image", SPEC)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Each network in its plain form, made once: the exporter takes seconds."""
    path = tmp_path_factory.mktemp("plain") / "full.onnx"
    return request.param, export_early(made(request.param), card(), (32, 32), images(), path, form="plain")


@pytest.fixture
def known(plain: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> ExitNet:
    """The network, and the exporter knows it."""
    kind, path = plain
    monkeypatch.setattr(early, "export", lambda *_, **__: path.read_bytes())
    return made(kind)


def test_plain(plain: tuple[str, Path]) -> None:
    kind, path = plain
    network, x = made(kind), images()
    with torch.inference_mode():
        expected = dict(zip(network.names, (tensor.numpy() for tensor in network.plain(x)), strict=True))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert sorted(names) == sorted(expected)
    for name, value in zip(names, session.run(None, {"image": x.numpy()}), strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)
    model, about = read_model(path), network.about()
    held = Card.from_json(model.metadata[CARD_KEY])
    assert held.exits == about.placed(TREE)
    assert [output.name for output in held.outputs] == list(about.fine)
    assert held.outputs[0].name == "exit3.fine"
    assert cost(model).parameters == sum(p.numel() for p in network.parameters())


def test_nested(known: ExitNet, tmp_path: Path) -> None:
    """Every exit answers, with the logits that torch has there."""
    x, about = images(1), known.about()
    with torch.inference_mode():
        logits = dict(zip(known.names, (tensor.numpy() for tensor in known.plain(x)), strict=True))
    path = export_early(known, card(), (32, 32), x, tmp_path / "full.onnx")
    held = Card.from_json(read_model(path).metadata[CARD_KEY]).exits
    assert held is not None
    assert (held.driven, held.thresholds, held.tensors) == (True, about.thresholds, about.tensors)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {given.name for given in session.get_inputs()} - {"image"}
    for number, one in enumerate(about.exits):
        fed = {"threshold": np.array([99.0 * (number == at) for at in range(2)], np.float32),
               "tolerance": np.array([99.0], np.float32)}  # fmt: skip
        values = session.run(None, {"image": x.numpy(), **{name: fed[name] for name in inputs}})
        found = dict(zip((output.name for output in session.get_outputs()), values, strict=True))
        assert found["exit"] == [number + 1]
        for name, kept in (("scores", one.fine), ("coarse", one.coarse)):
            if kept is not None:
                np.testing.assert_allclose(found[name], logits[kept], rtol=1e-4, atol=1e-4)


def test_a_nested_form_that_decides_otherwise_is_not_written(
    known: ExitNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = early.decide
    monkeypatch.setattr(early, "decide", lambda exits, made, thresholds, tau: real(exits, made, thresholds[::-1], tau))
    with pytest.raises(VerificationError, match="differs from torch"):
        export_early(known, card(), (32, 32), images(1), tmp_path / "full.onnx")
    assert not (tmp_path / "full.onnx").exists()


def test_of_a_training(tmp_path: Path) -> None:
    shape = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    arguments = {"backbone": "resnet18", "backbone_args": shape, "at": [1], "width": 8}
    network = timm.create_model("exits", taxonomy=TREE, **arguments)
    recipe = Recipe("exits", "t", "exits", (Stage("only", 1, 32, 0.1),), arguments, size=32)
    facts = {"recipe": "exits", "fingerprint": recipe.fingerprint, "train_images": 8, "history": []}
    folder = save_trained(tmp_path / "run", Trained(network, facts), recipe, TREE)
    held = Card.from_json(read_model(export_trained(folder, tmp_path / "full.onnx")).metadata[CARD_KEY])
    assert (held.exits, held.taxonomy) == (replace(network.about().placed(TREE), driven=True), TREE)
    with pytest.raises(UsageError, match="no form 'fast'") as caught:
        export_trained(folder, tmp_path / "fast.onnx", form="fast")
    assert "nested, plain" in caught.value.hint


def test_the_lowest_levels_of_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def written(arch: str, classes: Any, path: Path, *_: Any, **options: Any) -> Path:
        asked.update(options, arch=arch, classes=classes)
        path.touch()
        return path

    monkeypatch.setattr("expertc.export.export_random", written)
    arguments = ["gran_hbn", "--taxonomy", "cifar10", "--levels", "2", "--form", "plain", "-q"]
    done = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "x.onnx")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (asked["arch"], asked["form"], asked["classes"]) == (
        "gran_hbn",
        "plain",
        Taxonomy.shipped("cifar10").lowest(2),
    )


def test_strict_coarse_is_an_option_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph answers by the authors' condition, and the card says so; without the option by the paper's rule."""
    monkeypatch.setattr("expertc.export.random._network", lambda *_: made("gran"))
    limit, tolerance, x = 0.6, 0.87, images(40)
    with torch.inference_mode():
        logits = made("gran").plain(x)
    entropies = torch.stack([torch.distributions.Categorical(logits=each).entropy() for each in logits], 1).tolist()
    found: dict[bool, list[tuple[int, int]]] = {}
    for strict in (False, True):
        path = tmp_path / f"{strict}.onnx"
        arguments = ["gran_hbn", "--num-classes", "5", "--size", "32", *["--strict-coarse"] * strict, "-q"]
        assert CliRunner().invoke(command, [*arguments, "-o", str(path)], catch_exceptions=False).exit_code == 0
        about = Card.from_json(read_model(path).metadata[CARD_KEY]).exits
        assert about is not None
        assert about.strict_coarse is strict
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        fed = {"threshold": np.float32([limit, 0]), "tolerance": np.float32([tolerance])}
        said = [session.run(["exit", "granularity"], {"image": one[None].numpy(), **fed}) for one in x]
        found[strict] = [(int(exit_[0]), int(fine[0])) for exit_, fine in said]
        wanted = [
            (1, 1) if fine < limit and fine - tolerance < coarse
            else (1, 0) if coarse < limit and (not strict or coarse < fine - tolerance)
            else (3, int(last - tolerance < beside))
            for fine, coarse, _, _, last, beside in entropies
        ]  # fmt: skip
        assert found[strict] == wanted
    assert {(1, 0), (3, 1)} <= {*found[True]}
    assert found[True] != found[False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gran_hbn", "--taxonomy", "cifar10"], "two levels"),
        (["gran_hbn", "--num-classes", "10", "--levels", "2"], "--taxonomy"),
        (["gran_hbn", "--num-classes", "10", "--form", "slow"], "no form 'slow'"),
        (["hbn_alexnet", "--num-classes", "10", "--form", "plain"], "no form 'plain'"),
        (["resnet18", "--num-classes", "10", "--form", "plain"], "no form 'plain'"),
        (["b_alexnet", "--num-classes", "10", "--strict-coarse"], "weighs a class against a category"),
        (["ag_hbn", "--taxonomy", "cifar10", "--levels", "2", "--strict-coarse"], "weighs a class"),
        (["resnet18", "--num-classes", "10", "--strict-coarse"], "weighs a class"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "x.onnx"), "-q"], catch_exceptions=False)
    assert caught.value.hint
    assert not (tmp_path / "x.onnx").exists()
