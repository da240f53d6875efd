from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from expertc.cli.export import command
from expertc.errors import ExpertcError, UsageError
from expertc.export import export_random
from expertc.source import open_source
from expertc.taxonomy import Taxonomy

TREE = """name: pets
tree:
  felines: {cats: {index: 1}, lynxes: {index: 0}}
  dogs: {index: 2}
"""


def test_a_name_and_a_number(tmp_path: Path) -> None:
    path = export_random("resnet18", 3, tmp_path / "a.onnx", size=64)
    card = open_source(path).card
    assert card.classes == ("class-0", "class-1", "class-2")
    assert card.weights_licence == "Random weights."
    assert card.preprocess is not None
    assert card.preprocess.size == (64, 64)
    assert path.read_bytes() == export_random("resnet18", 3, tmp_path / "b.onnx", size=64).read_bytes()


def test_an_own_tree_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text(TREE)
    output = tmp_path / "full.onnx"
    arguments = ["nhl_efficientnet_lite0", "--taxonomy", tmp_path / "pets.yaml", "--size", 64, "-o", output, "-q"]
    done = CliRunner().invoke(command, [str(item) for item in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"expertc classes {output}" in done.output
    source = open_source(output)
    assert source.card.taxonomy.path("cats") == ("felines", "cats")
    assert {branch.name for branch in source.owners.branches} >= {"felines", "dogs"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hlfp_small"], "by name with --num-classes"),
        (["nowhere/", "--taxonomy", "sea-animals"], "no architecture"),
        (["hlfp_smal", "--num-classes", "3"], "no architecture"),
        (["hlfp_small", "--num-classes", "3", "--form", "folded"], "form is 'folded'"),
        (["hlfp_nested", "--taxonomy", "pets.yaml"], "super-class"),
        (["hlfp_small", "--num-classes", "3", "--taxonomy", "sea-animals"], "has 23 classes"),
        ([".", "--num-classes", "3"], "brings its classes along"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets.yaml").write_text(TREE)
    with pytest.raises(ExpertcError, match=words) as caught:
        CliRunner().invoke(command, [*arguments, "-o", "x.onnx", "-q"], catch_exceptions=False)
    assert isinstance(caught.value, UsageError)
    assert caught.value.hint
    assert not (tmp_path / "x.onnx").exists()


def test_a_tree_for_a_network_without_one(tmp_path: Path) -> None:
    tree = Taxonomy.parse(TREE)
    assert open_source(export_random("resnet18", tree, tmp_path / "a.onnx", size=64)).card.taxonomy == tree
