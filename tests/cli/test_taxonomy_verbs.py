"""``expertc taxonomy from-confusion`` and ``check``."""

from __future__ import annotations

import json
import re
import shlex

import click
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image
from rainbow import CLASSES, COLOURS, SIDE, TAXONOMY, photos, picture, rainbow

from expertc.cli.main import group
from expertc.cli.taxonomy import COMMANDS
from expertc.evaluate.grouped import draw
from expertc.taxonomy import Node, Taxonomy


def test_groups_of_what_is_confused(cli, full, tmp_path):
    folder, output, picture = photos(tmp_path / "photos"), tmp_path / "t.yaml", tmp_path / "m.png"
    code, out, err = cli(
        "taxonomy", "from-confusion", full, "--data", folder, "--groups", 2, "-o", output, "--picture", picture
    )
    assert (code, err) == (0, "")
    assert "groups: 2" in out
    tree = Taxonomy.load(output)
    assert tree.classes == TAXONOMY.classes  # the model's rows
    assert tree.by_name["reds"].label == "Red Things"
    assert len(tree.roots) == 2
    assert output.read_text().startswith("# Made by expertc taxonomy from-confusion: rainbow.onnx on photos (")
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "t.yaml", "m.png"}
    before = output.read_bytes()
    code, out, err = cli("taxonomy", "from-confusion", full, "--data", folder, "--groups", 2, "-o", output)
    assert (code, out, output.read_bytes()) == (9, "", before)
    assert "already exists" in err
    assert cli("taxonomy", "from-confusion", full, "--data", folder, "--groups", 2, "-o", output, "--force").code == 0
    assert output.read_bytes() == before  # the same groups, names, bytes
    # what was written is a class tree for the same model
    assert cli("taxonomy", "check", output, "--against", full).code == 0


def test_the_numbers_are_those_of_the_model(cli, full, tmp_path):
    """p_min just below and just above the closest pair, computed here from the model's own scores."""
    folder = photos(tmp_path / "photos", each=1)  # plain pictures, divided by 255: nothing to preprocess
    session = ort.InferenceSession(full, providers=["CPUExecutionProvider"])
    rows = []
    for name in CLASSES:
        plain = np.array(COLOURS[name], np.float32).reshape(1, 3, 1, 1) / 255
        scores = session.run(None, {"image": plain.repeat(SIDE, 2).repeat(SIDE, 3)})[0][0].astype(np.float64)
        rows.append(np.exp(scores) / np.exp(scores).sum())
    matrix = np.array(rows)
    closest = np.triu(matrix + matrix.T, 1).max()
    arguments = ("taxonomy", "from-confusion", full, "--data", folder, "-o")
    assert cli(*arguments, tmp_path / "a.yaml", "--p-min", closest * 0.999).code == 0
    assert max(len(root.leaves) for root in Taxonomy.load(tmp_path / "a.yaml").roots) == 2
    code, out, err = cli(*arguments, tmp_path / "b.yaml", "--p-min", closest * 1.001)
    assert (code, out) == (2, "")
    assert "No two classes are confused more than" in err
    assert not (tmp_path / "b.yaml").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--g-max", "1"], "no groups"),
        (["--p-min", "nan"], "from 0 to 2"),
        (["--groups", "2", "--p-min", "0.1"], "one of the two"),
        (["--groups", "9"], "leaves 9 groups"),
        (["--picture", "m.png", "--no-picture"], "contradict"),
        (["-o", "t.png"], "one file"),
        (["--p-min", "0.1", "--p-min", "0.2", "--g-max", "2", "--g-max", "2", "--g-max", "2"], "2 levels"),
    ],
)
def test_options_that_make_no_sense(cli, full, tmp_path, options, said):
    folder = photos(tmp_path / "photos", each=1)
    code, out, err = cli("taxonomy", "from-confusion", full, "--data", folder, "-o", tmp_path / "t.yaml", *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_classes_without_photos_and_scores_that_are_no_probabilities(cli, full, tmp_path):
    some = photos(tmp_path / "some", ("reds", "greens"), each=1)
    code, _, err = cli("taxonomy", "from-confusion", full, "--data", some, "-o", tmp_path / "t.yaml")
    assert code == 10
    assert "no photo of 'blues' and 1 more" in err
    path = tmp_path / "scores.onnx"
    path.write_bytes(rainbow(kind="scores").bytes())  # of independent classes
    code, _, err = cli(
        "taxonomy", "from-confusion", path, "--data", photos(tmp_path / "all"), "-o", tmp_path / "t.yaml"
    )
    assert code == 10
    assert "no distribution" in err


def test_the_picture_is_beside_the_taxonomy(cli, full, tmp_path, monkeypatch):
    folder, output = photos(tmp_path / "photos", each=1), tmp_path / "out" / "t.yaml"
    output.parent.mkdir()
    arguments = ("taxonomy", "from-confusion", full, "--data", folder, "--groups", 2, "-o", output)
    assert cli(*arguments, "--no-picture").code == 0
    assert [path.name for path in output.parent.iterdir()] == ["t.yaml"]
    output.unlink()
    code, out, _ = cli(*arguments)
    assert code == 0
    assert "t.png" in out.splitlines()[-1]
    with Image.open(output.with_suffix(".png")) as drawn:
        assert drawn.format == "PNG"
    output.unlink()
    code, _, err = cli(*arguments)  # a picture is not replaced either
    assert code == 9
    assert "t.png" in err
    assert not output.exists()
    monkeypatch.setattr("expertc.evaluate.confusion.MOST", 3)
    code, out, _ = cli(*arguments, "--force")
    assert code == 0
    assert "no picture: 4 classes" in out


def test_the_picture_shows_blocks():
    """Two groups that lie apart in the classes' order stand as two bright blocks on the diagonal."""
    first, second = (tuple(Node(f"class {at}", index=at) for at in pair) for pair in ((0, 2), (1, 3)))
    tree = Taxonomy("t", (Node("a", first), Node("b", second)))
    matrix = np.kron(np.full((2, 2), 0.5), np.eye(2))
    pixels = np.asarray(draw(matrix, tree, "<name>").convert("L"), float)
    from expertc.evaluate.confusion import LARGEST as CELL
    from expertc.evaluate.confusion import NAMES
    from expertc.evaluate.picture import GAP, MARGIN, TITLE

    left, top = MARGIN + NAMES + GAP, MARGIN + TITLE + GAP
    seen = [[pixels[top + r * CELL + CELL // 2, left + c * CELL + CELL // 2] for c in range(4)] for r in range(4)]
    bright = np.array(seen) > 128
    assert (bright == np.kron(np.eye(2), np.ones((2, 2)))).all()
    assert (pixels[top, left : left + 2 * CELL] == 255).all()  # the frame of the first group
    assert not (pixels[top, left + 2 * CELL :][: 2 * CELL] == 255).any()


def test_check_says_what_differs(cli, full, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "levels: [a, b]\n"
        "tree:\n  only:\n    warm:\n      reds: {index: 0}\n      greens: {index: 2}\n    blues: {index: 1}\n"
        "    lone: {trees: {index: 3}}\n"
    )
    code, out, err = cli("taxonomy", "check", path, "--against", full)
    assert code == 3
    assert "differ" in err
    for said in (
        "one child, which a branch gains nothing from: 'lone'",
        "classes lie 2 to 3 levels deep; not at the lowest: 'blues'",
        "names 2 levels, but the tree has 3",
        "one category at the top, 'only'",
        "that the taxonomy lacks: 'yellows'",
        "that the model lacks: 'trees'",
        "not their row in the model's output: 'greens', 'blues'",
    ):
        assert said in out
    found = json.loads(cli("taxonomy", "check", path, "--json").out)
    assert (found["classes"], found["depth"], found["uncovered"]) == (4, 3, [])
    # 2, 1 and 1 classes in three nodes: 1.5 bits of log2(3)
    assert found["levels"][1]["balance"] == pytest.approx(1.5 / np.log2(3))
    assert found["levels"][1] | {"balance": 0} == {
        "name": "b", "categories": 2, "classes": 1, "smallest": 1, "median": 1, "largest": 2, "balance": 0,
    }  # fmt: skip
    labels = tmp_path / "labels.txt"
    labels.write_text("Red Things\ngreens\nblues\nyellows\n")
    assert cli("taxonomy", "check", "sea-animals", "--labels", labels).code == 3
    assert cli("taxonomy", "check", path, "--labels", labels, "--against", full).code == 2
    assert cli("taxonomy", "check", tmp_path / "no.yaml").code == 3


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(cli, name):
    code, out, err = cli("taxonomy", name, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    parent = click.Context(group, **group.context_settings)
    command = group.get_command(parent, "taxonomy").get_command(parent, name)
    examples = command.epilog.splitlines()[2:]
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[:3] == ["expertc", "taxonomy", name]
        with command.make_context(name, words[3:], parent=parent):
            pass


def test_a_mistyped_command_is_guessed(cli):
    assert "Did you mean 'check'?" in cli("taxonomy", "chek").err


def test_a_class_that_is_never_decided_for(cli, full, tmp_path):
    """Yellows that look like reds: they go where their photos go, and it is said."""
    folder, output = photos(tmp_path / "photos", each=1), tmp_path / "t.yaml"
    picture(folder / "yellows" / "0.png", "reds")
    code, out, _ = cli("taxonomy", "from-confusion", full, "--data", folder, "--groups", 3, "-o", output)
    assert code == 0
    assert "what their own photos are taken for: 1 (yellows)" in " ".join(out.split())
    assert [root.leaves for root in Taxonomy.load(output).roots if not root.is_class] == [(0, 3)]


def test_the_found_p_min_gives_the_same_groups(cli, full, tmp_path):
    """What the file says of itself is enough to make it again."""
    folder = photos(tmp_path / "photos")
    arguments = ("taxonomy", "from-confusion", full, "--data", folder, "-q", "-o")
    for groups in (1, 2, 3):
        first, second = tmp_path / f"{groups}.yaml", tmp_path / f"again-{groups}.yaml"
        assert cli(*arguments, first, "--groups", groups).code == 0
        p_min = re.search(r"p_min (\S+) g_max", first.read_text())[1]
        assert len(p_min) < 8
        assert cli(*arguments, second, "--p-min", p_min).code == 0
        assert Taxonomy.load(second).roots == Taxonomy.load(first).roots
