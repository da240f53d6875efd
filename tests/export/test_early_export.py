"""Both forms of a network with early exits from one network, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from expertc.card import CARD_KEY, Card, Output, Preprocess
from expertc.cli.export import command
from expertc.errors import UsageError, VerificationError
from expertc.export import early, export_trained
from expertc.export.early import export_early
from expertc.graph import read_model
from expertc.graph.cost import cost
from expertc.source import open_source
from expertc.training import Recipe, Stage, Trained, save_trained
from expertc.zoo import ExitNet, import_timm
from expertc.zoo.trees import two_levels

timm = import_timm()

SPEC = Preprocess((32, 32), 32, "bilinear")
TREE = two_levels((3, 2))
TINY = {"backbone": "resnet18", "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, "width": 8}
KINDS: dict[str, dict[str, Any]] = {
    "gran": {},
    "ag": {"semantic": True},
    "sem": {"fine": [False, False, True], "coarse": [True, True, False]},
    "branchy": {"coarse": False, "thresholds": [0.4, 0.3]},
}


def made(kind: str) -> ExitNet:
    torch.manual_seed(2)
    network: ExitNet = timm.create_model("exits", taxonomy=TREE, **TINY, **KINDS[kind])
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
        elif "fine.weight" in name or "coarse.weight" in name:
            tensor.normal_(0, 2)
    return network.eval()


def card() -> Card:
    return Card("early", TREE, (Output("logits"),), "image", SPEC)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_plain(kind: str, tmp_path: Path) -> None:
    network, x = made(kind), images()
    with torch.inference_mode():
        expected = dict(zip(network.names, (tensor.numpy() for tensor in network.plain(x)), strict=True))
    parameters = sum(p.numel() for p in network.parameters())
    about = network.about()
    path = export_early(network, card(), (32, 32), x, tmp_path / "full.onnx", form="plain")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert sorted(names) == sorted(expected)
    for name, value in zip(names, session.run(None, {"image": x.numpy()}), strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)
    model = read_model(path)
    held = Card.from_json(model.metadata[CARD_KEY])
    assert held.exits == about.placed(TREE)
    assert [output.name for output in held.outputs] == list(about.fine)
    assert held.outputs[0].name == "exit3.fine"
    assert cost(model).parameters == parameters
    assert not [name for name in model.constants if not name.isascii()]


@pytest.mark.parametrize("kind", KINDS)
def test_nested(kind: str, tmp_path: Path) -> None:
    """Every exit answers, with the logits that torch has there."""
    network, x = made(kind), images(1)
    with torch.inference_mode():
        logits = dict(zip(network.names, (tensor.numpy() for tensor in network.plain(x)), strict=True))
    about = network.about()
    path = export_early(network, card(), (32, 32), x, tmp_path / "full.onnx")
    held = open_source(path).card.exits
    assert held is not None
    assert (held.thresholds, held.tensors) == (about.thresholds, about.tensors)
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


def test_a_nested_form_that_decides_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = early.decide
    monkeypatch.setattr(early, "decide", lambda exits, made, thresholds, tau: real(exits, made, thresholds[::-1], tau))
    with pytest.raises(VerificationError, match="differs from torch"):
        export_early(made("gran"), card(), (32, 32), images(1), tmp_path / "full.onnx")
    assert not (tmp_path / "full.onnx").exists()


@pytest.mark.parametrize("form", ["", "plain"])
def test_of_a_training(form: str, tmp_path: Path) -> None:
    network = made("gran")
    recipe = Recipe("exits", "t", "exits", (Stage("only", 1, 32, 0.1),), TINY, size=32)
    facts = {"recipe": "exits", "fingerprint": recipe.fingerprint, "train_images": 8, "history": []}
    folder = save_trained(tmp_path / "run", Trained(network, facts), recipe, TREE)
    path = export_trained(folder, tmp_path / "full.onnx", form=form)
    held = Card.from_json(read_model(path).metadata[CARD_KEY])
    assert held.exits is not None
    assert held.exits.driven == (form == "")
    assert held.taxonomy == TREE
    with pytest.raises(UsageError, match="no form 'fast'") as caught:
        export_trained(folder, tmp_path / "fast.onnx", form="fast")
    assert "nested, plain" in caught.value.hint


def test_by_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "full.onnx"
    arguments = ["gran_hbn", "--taxonomy", "cifar10", "--levels", "2", "--form", "plain", "-o", str(output), "-q"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    held = open_source(output).card
    assert held.exits is not None
    assert (len(held.exits.categories), len(held.classes), held.taxonomy.depth) == (5, 10, 2)
    assert cost(read_model(output)).parameters == 12_189_480 - 3 * 2049 * (90 + 15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gran_hbn", "--taxonomy", "cifar10"], "two levels"),
        (["gran_hbn", "--num-classes", "10", "--levels", "2"], "--taxonomy"),
        (["gran_hbn", "--num-classes", "10", "--form", "slow"], "no form 'slow'"),
        (["hbn_alexnet", "--num-classes", "10", "--form", "plain"], "no form 'plain'"),
        (["resnet18", "--num-classes", "10", "--form", "plain"], "no form 'plain'"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "x.onnx"), "-q"], catch_exceptions=False)
    assert caught.value.hint
    assert not (tmp_path / "x.onnx").exists()
