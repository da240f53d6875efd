"""``expertc inspect --features``: a PNG file, or one sentence why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from forest import forest
from networks import Net
from PIL import Image
from rainbow import SIDE, SPEC, TAXONOMY, picture, rainbow, tree
from rainbow import card as rainbow_card

from expertc.card import CARD_KEY, Card, Output
from expertc.source import BUNDLED
from expertc.taxonomy import Node, Taxonomy


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def photo(tmp_path):
    return picture(tmp_path / "a photo.png", "reds")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "forest.onnx"
    path.write_bytes(forest("grouped").bytes())
    return path


def test_a_picture_is_written_and_described(cli, place, photo, model):
    code, out, err = cli("inspect", model, "--features", photo)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[-1] == "picture: 'a photo-features.png'"
    for words in ("reds", "yellows", "warm", "lasts.out", "2 x 4 x 4", "3 x 8 x 8", "%"):
        assert words in out
    assert list(tree(place)) == ["a photo-features.png"]
    with Image.open(place / "a photo-features.png") as made:
        assert (made.format, made.mode) == ("PNG", "RGB")


def test_as_json(cli, place, photo, model):
    code, out, err = cli("inspect", model, "--features", photo, "--branches", "cold, reds", "-o", "x.png", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["image"], found["file"]) == (str(photo), "x.png")
    assert [branch["name"] for branch in found["branches"]] == ["cold", "reds"]
    cold, reds = found["branches"]
    assert cold["classes"] == [1, 2]
    assert 0 <= cold["probability"] <= 1
    assert [(one["branch"], one["tensor"], one["shape"], one["channels"]) for one in cold["maps"]] == [
        ("cold", "categories.out", [1, 6, 8, 8], [3, 4, 5])
    ]
    assert [(one["tensor"], one["channels"]) for one in reds["maps"]] == [
        ("categories.out", [0, 1, 2]),
        ("lasts.out", [0, 1]),
    ]
    assert found["scales"][1] == [0, reds["maps"][1]["max"]]
    assert (place / "x.png").is_file()


def test_both_forms_of_a_network_make_the_same_picture(cli, place, photo, model, tmp_path):
    separate = tmp_path / "separate.onnx"
    separate.write_bytes(forest("separate").bytes())
    cli("inspect", model, "--features", photo, "-o", "one.png")
    cli("inspect", separate, "--features", photo, "-o", "two.png")
    one, two = (np.asarray(Image.open(place / name), int) for name in ("one.png", "two.png"))
    assert one.shape == two.shape
    assert np.abs(one - two).max() <= 1


def test_of_a_bundle(cli, place, tmp_path, photo, model):
    """An expert has the branches of its classes; what all of them share is its trunk."""
    out = tmp_path / "mixed.expert"
    cli("build", model, "--classes", "reds, greens", "-o", out, "--verify", "off", "--measure", "0")
    found = json.loads(cli("inspect", out, "--features", photo, "--json").out)
    assert {branch["name"] for branch in found["branches"]} == {"reds", "greens"}
    whole = json.loads(cli("inspect", model, "--features", photo, "--json", "--force").out)
    peaks = {branch["name"]: branch["maps"][-1]["max"] for branch in whole["branches"]}
    for branch in found["branches"]:
        assert branch["maps"][-1]["max"] == pytest.approx(peaks[branch["name"]], rel=1e-5)


def test_what_is_there_is_not_replaced(cli, place, photo, model):
    (place / "x.png").write_bytes(b"mine")
    code, out, err = cli("inspect", model, "--features", photo, "-o", "x.png")
    assert (code, out) == (9, "")
    assert "already exists" in err
    assert "--force" in err
    assert cli("inspect", "absent.onnx", "--features", photo, "-o", "x.png").code == 9  # said before any work
    assert tree(place) == {"x.png": b"mine"}
    assert cli("inspect", model, "--features", photo, "-o", "x.png", "--force").code == 0
    assert tree(place)["x.png"].startswith(b"\x89PNG")
    (place / "folder").mkdir()
    assert cli("inspect", model, "--features", photo, "-o", "folder", "--force").code == 9
    assert set(tree(place)) == {"x.png", "folder"}


def test_a_model_without_such_branches(cli, place, photo, tmp_path):
    """A token per image and a row per class, as in a vision transformer."""
    net = Net(17)
    net.result(net.head(net.conv(net.image(3, SIDE, SIDE), 3, 4), 4, 4, name="scores"), 4)
    net.metadata = {CARD_KEY: rainbow_card().to_json()}
    (tmp_path / "flat.onnx").write_bytes(net.bytes())
    code, out, err = cli("inspect", tmp_path / "flat.onnx", "--features", photo)
    assert (code, out) == (4, "")
    assert err.startswith("Error: The model has no branch with a feature map")
    assert len(err.splitlines()) == 2
    assert tree(place) == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--branches", "reds"], 2, "belong to --features"),
        (["-o", "x.png"], 2, "belong to --features"),
        (["--force"], 2, "belong to --features"),
        (["--features", "PHOTO", "--branches", "sharks"], 2, "sharks"),
        (["--features", "PHOTO", "--explain"], 2, "--explain"),
        (["--features", "absent.jpg"], 10, "absent.jpg"),
        (["--features", "PHOTO", "-o", "no/where.png"], 9, "no/where.png"),
        (["--features", "PHOTO", "--arch", "resnet18", "--classes-count", "2"], 2, "--arch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said(cli, place, photo, model, arguments, code, words):
    given = [str(photo) if argument == "PHOTO" else argument for argument in arguments]
    found = cli("inspect", *([] if "--arch" in given else [model]), *given)
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert len(found.err.splitlines()) == 2
    assert tree(place) == {}


def test_a_foreign_model(cli, place, photo, tmp_path):
    spec, labels, plain = tmp_path / "spec.json", tmp_path / "labels.txt", tmp_path / "plain.onnx"
    spec.write_text(json.dumps(SPEC.to_mapping()))
    labels.write_text("one\ntwo\nthree\nfour\n")
    plain.write_bytes(rainbow(described=False).bytes())
    found = cli("inspect", plain, "--labels", labels, "--features", photo, "--json")
    assert found.code == 3  # it does not say how images become its input
    found = cli("inspect", plain, "--labels", labels, "--preprocess", spec, "--features", photo, "--json")
    assert [one["maps"][0]["branch"] for one in json.loads(found.out)["branches"]] == ["2 classes"] * 4


def test_hostile_names_stay_in_their_place(cli, place, tmp_path, photo):
    names = ["[bold]reds[/bold]", "x" * 200, "greens", "blues"]
    leaves = [Node(name, index=index) for index, name in enumerate(names)]
    taxonomy = Taxonomy("odd", (Node("warm", (leaves[0], leaves[3])), Node("cold", (leaves[1], leaves[2]))))
    net = rainbow(taxonomy=taxonomy)
    (tmp_path / "odd.onnx").write_bytes(net.bytes())
    code, out, _ = cli("inspect", tmp_path / "odd.onnx", "--features", photo)
    assert code == 0
    assert "[bold]reds[/bold]" in out
    assert max(map(len, out.splitlines())) <= 80
    assert TAXONOMY.classes != taxonomy.classes


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the trained model is not in this checkout")
def test_of_the_bundled_model(cli, place, photo):
    found = json.loads(cli("inspect", "--features", photo, "--json").out)
    assert len(found["branches"]) == 8
    assert all(len(branch["maps"]) == 3 for branch in found["branches"])
    assert len(found["scales"]) == 3


def test_a_category_that_is_the_whole_expert_is_no_branch(cli, place, tmp_path, photo):
    net = forest("grouped")
    only = Taxonomy("one", (Node("all", tuple(Node(name, index=i) for i, name in enumerate("abcd"))),))
    net.metadata = {CARD_KEY: Card("one", only, (Output("scores"),), "image", SPEC).to_json()}
    (tmp_path / "one.onnx").write_bytes(net.bytes())
    found = cli("inspect", tmp_path / "one.onnx", "--features", photo, "--branches", "all", "--json")
    assert [branch["name"] for branch in json.loads(found.out)["branches"]] == list("abcd")
