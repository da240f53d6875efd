"""The model card: its JSON, its versions, what it refuses, and the graph it belongs to."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertc import card as module
from expertc.card import SCHEMA, Card, Control, Output, Preprocess, Routes, card_for_foreign
from expertc.errors import CardError, ExitCode, LabelsError, TaxonomyError
from expertc.exits import Exit, Exits
from expertc.taxonomy import Taxonomy

CARDS = Path(__file__).parent / "cards"


@functools.cache
def sample() -> Card:
    return Card(
        "sea",
        Taxonomy.shipped("sea-animals"),
        (Output("logits"),),
        "image",
        Preprocess.imagenet(128),
        "research only",
        {"b": [1, 2.5, None, True], "a": {"z": "x", "y": ""}},
    )


# -- JSON ----------------------------------------------------------------------------------------------------


def test_round_trip_and_determinism() -> None:
    card = sample()
    text = card.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert Card.from_json(text) == card
    assert Card.from_json(text).to_json() == text
    other_order = replace(card, provenance={"a": {"y": "", "z": "x"}, "b": (1, 2.5, None, True)})
    assert other_order.to_json() == text
    assert text.startswith(f'{{"schema":{SCHEMA},')


def test_the_order_of_the_tree_survives() -> None:
    taxonomy = Taxonomy.parse("tree: {z: {index: 1}, a: {index: 0}}")
    card = Card("x", taxonomy, (Output("y"),), "x")
    assert [node.name for node in Card.from_json(card.to_json()).taxonomy.nodes()] == ["z", "a"]


@pytest.mark.parametrize("file", sorted(CARDS.glob("*.json")), ids=lambda file: file.stem)
def test_every_version_that_was_ever_written_is_read(file: Path) -> None:
    card = Card.from_json(file.read_text(encoding="utf-8"))
    assert card.classes == ("eels", "rays", "sharks", "crabs")
    assert card.taxonomy.path("sharks") == ("fishes", "cartilaginous-fishes", "sharks")
    since_four = (Output("scores"),)
    assert card.outputs == (since_four if file.stem == "v4" else (Output("logits"), Output("joint", "joint")))
    assert card.preprocess == Preprocess((128, 128), 146, "bilinear")
    assert card.provenance["trained_on"] == ["sea-animals-128"]
    assert card.selected_from == 23
    since_two = (Control("gain", (1, 1, 1.5, 1), True), Control("threshold", (0.25,), False))
    assert card.controls == (() if file.stem == "v1" else since_two)
    columns = ("fishes", "invertebrates", "cartilaginous-fishes", "bony-fishes")
    assert card.routes == (Routes("routes", columns) if file.stem in ("v3", "v4") else None)
    exits = Exits((), (Exit("early"), Exit("late")), driven=True, thresholds=(0.25,))
    assert card.exits == (exits if file.stem == "v4" else None)
    assert Card.from_json(card.to_json()) == card


def test_there_is_a_committed_card_of_every_version() -> None:
    versions = {json.loads(file.read_text(encoding="utf-8"))["schema"] for file in CARDS.glob("*.json")}
    assert versions == set(range(1, SCHEMA + 1))
    assert len(module._UPGRADES) == SCHEMA - 1


def test_this_version_writes_what_is_committed() -> None:
    committed = json.loads((CARDS / f"v{SCHEMA}.json").read_text(encoding="utf-8"))
    assert json.loads(Card.from_json(json.dumps(committed)).to_json()) == committed


def test_the_ladder_climbs_every_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    def renaming(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def upgrade(data: dict[str, Any]) -> dict[str, Any]:
            assert old in data, "this rung is not for this version"
            return {new if key == old else key: value for key, value in data.items()}

        return upgrade

    monkeypatch.setattr(module, "SCHEMA", 3)
    monkeypatch.setattr(module, "_UPGRADES", (renaming("title", "called"), renaming("called", "name")))
    data = json.loads(sample().to_json())
    for version, key in ((1, "title"), (2, "called"), (3, "name")):
        old = {key if k == "name" else k: v for k, v in data.items()} | {"schema": version}
        assert Card.from_json(json.dumps(old)) == sample()


def gain(**changes: Any) -> dict[str, Any]:
    return {"name": "gain", "default": [1.0] * 23, "per_class": True} | changes


def changed(edit: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(sample().to_json())
    edit(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d.update(schema=SCHEMA + 1), "newer than"),
        (lambda d: d.update(schema=0), "schema version"),
        (lambda d: d.update(schema="1"), "schema version"),
        (lambda d: d.update(schema=True), "schema version"),
        (lambda d: d.pop("schema"), "schema version"),
        (lambda d: d.pop("taxonomy"), "no 'taxonomy'"),
        (lambda d: d.pop("provenance"), "no 'provenance'"),
        (lambda d: d.update(colour="RGB"), "unknown key 'colour'"),
        (lambda d: d.update(taxonomy=[]), "taxonomy is wrong"),
        (lambda d: d["taxonomy"]["tree"].pop("fishes"), "taxonomy is wrong"),
        (lambda d: d["classes"].reverse(), "classes are not those"),
        (lambda d: d["classes"].pop(), "classes are not those"),
        (lambda d: d.update(classes=None), "classes are not those"),
        (lambda d: d.update(outputs=[]), "no output"),
        (lambda d: d.update(outputs={}), "'outputs' is not a list"),
        (lambda d: d.update(outputs=["logits"]), "not a JSON object"),
        (lambda d: d["outputs"].append(d["outputs"][0]), "or one twice"),
        (lambda d: d["outputs"][0].update(kind="loss"), "the kind 'loss'"),
        (lambda d: d["outputs"][0].update(kind=["logits"]), "of the kind"),
        (lambda d: d["outputs"][0].update(axis=-1), "class axis"),
        (lambda d: d["outputs"][0].update(axis=True), "class axis"),
        (lambda d: d["outputs"][0].update(name=""), "name of an output"),
        (lambda d: d["outputs"][0].update(label="x"), "unknown key 'label'"),
        (lambda d: d.update(input=None), "name of the input"),
        (lambda d: d.update(name=3), "'name' is not text"),
        (lambda d: d.update(weights_licence={}), "'weights_licence' is not text"),
        (lambda d: d.update(provenance=[]), "'provenance'"),
        (lambda d: d.update(selected_from=22), "selected from '22'"),
        (lambda d: d.update(selected_from=23.0), "selected from"),
        (lambda d: d.update(selected_from=True), "selected from"),
        (lambda d: d.update(preprocess=[]), "not a JSON object"),
        (lambda d: d["preprocess"].pop("mean"), "no 'mean'"),
        (lambda d: d["preprocess"].update(std=[1, 1, 0]), "'std'"),
        (lambda d: d.pop("controls"), "no 'controls'"),
        (lambda d: d.update(controls={}), "not a list"),
        (lambda d: d.update(controls=[gain(name=f"g{i}") for i in range(17)]), "not a list of up to 16"),
        (lambda d: d.update(controls=["gain"]), "not a JSON object"),
        (lambda d: d.update(controls=[gain(), gain()]), "a control twice"),
        (lambda d: d.update(controls=[gain(name="image")]), "an input of the graph twice"),
        (lambda d: d.update(controls=[gain(name="")]), "has no name"),
        (lambda d: d.update(controls=[gain(axis=0)]), "unknown key 'axis'"),
        (lambda d: d.update(controls=[gain(default=[1.0] * 22)]), "22 values for 23 classes"),
        (lambda d: d.update(controls=[gain(default=[True] * 23)]), "no sound default"),
        (lambda d: d.update(controls=[gain(default=["1"] * 23)]), "no sound default"),
        (lambda d: d.update(controls=[gain(default=[1e31] * 23)]), "no sound default"),
        (lambda d: d.update(controls=[gain(default=[])]), "no sound default"),
        (lambda d: d.update(controls=[gain(default=1.0)]), "no sound default"),
        (lambda d: d.update(controls=[gain(per_class=1)]), "whether 'gain' is per class"),
    ],
)
def test_wrong_cards_are_refused_in_words(edit: Callable[[dict[str, Any]], Any], says: str) -> None:
    with pytest.raises(CardError) as caught:
        Card.from_json(changed(edit))
    assert says in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == ExitCode.INVALID


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, {1, 2}, b"x", object()])
def test_provenance_is_json(value: Any) -> None:
    with pytest.raises(CardError, match="no JSON value"):
        replace(sample(), provenance={"deep": [value]})


def test_provenance_is_copied_and_cleaned() -> None:
    given_ = {"note\x1b": ["\x1b[31mred\u202e"]}
    card = replace(sample(), provenance=given_)
    given_["note\x1b"].append("later")
    assert card.provenance == {"note": ["[31mred"]}


# -- cutting -------------------------------------------------------------------------------------------------


def test_restrict() -> None:
    card = sample()
    expert = card.restrict([17, 13])
    assert expert.classes == ("rays", "sharks")
    assert expert.selected_from == 23
    assert expert.provenance == card.provenance
    assert "crabs" not in expert.to_json()
    assert card.restrict(range(23)).selected_from == 23


@settings(deadline=None)
@given(st.sets(st.integers(0, 22), min_size=1), st.data())
def test_restricting_twice_is_restricting_once(outer: set[int], data: st.DataObject) -> None:
    inner = data.draw(st.sets(st.sampled_from(sorted(outer)), min_size=1))
    card = sample()
    rows = [sorted(outer).index(index) for index in inner]
    assert card.restrict(outer).restrict(rows).to_json() == card.restrict(inner).to_json()


GAINED = (Control("gain", tuple(range(23)), True), Control("threshold", (0.25,), False))


def test_a_control_per_class_is_cut_with_the_classes() -> None:
    expert = replace(sample(), controls=GAINED).restrict([17, 13])
    assert expert.controls == (Control("gain", (13, 17), True), GAINED[1])
    assert expert.restrict([1]).controls[0].default == (17.0,)


def test_other_defaults() -> None:
    card = replace(sample(), controls=GAINED)
    assert card.with_defaults({"threshold": (0.5,)}).controls == (GAINED[0], Control("threshold", (0.5,), False))
    merged = card.merged((13, 17), {"gain": (1.5, 2.5), "threshold": (0.5,)})
    assert merged.controls[1].default == (0.5,)
    assert merged.restrict([13, 17]).controls[0].default == (1.5, 2.5)
    assert {row: v for row, v in enumerate(merged.controls[0].default) if v != row} == {13: 1.5, 17: 2.5}


# -- against the graph ---------------------------------------------------------------------------------------

IMAGE = {"image": ("N", 3, 128, 128)}


@pytest.mark.parametrize("shape", [("N", 23), (1, 23), (None, None), ("N", "classes"), (-1, -1), None, (1, 23, 1, 1)])
def test_graphs_that_fit(shape: Any) -> None:
    sample().check_graph(IMAGE, {"logits": shape, "features": (1, 512)})


@pytest.mark.parametrize(
    "shape", [None, (None, None, None, None), ("N", "C", "H", "W"), (1, 3, 128, 128), (-1, 3, -1, -1)]
)
def test_inputs_that_fit(shape: Any) -> None:
    sample().check_graph({"image": shape}, {"logits": (1, 23)})


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ({"x": (1, 3, 128, 128)}, {"logits": (1, 23)}, "no input 'image'"),
        ({}, {"logits": (1, 23)}, "no input 'image'"),
        (IMAGE, {"scores": (1, 23)}, "no output 'logits'"),
        (IMAGE, {"logits": (1, 22)}, "has 22 classes, the card 23"),
        (IMAGE, {"logits": (23,)}, "has 1 axes"),
        ({"image": (1, 3, 224, 224)}, {"logits": (1, 23)}, "1x3x224x224"),
        ({"image": (1, 3, 128, 96)}, {"logits": (1, 23)}, "makes ?x3x128x128"),
        ({"image": (1, 1, 128, 128)}, {"logits": (1, 23)}, "1x1x128x128"),
        ({"image": (None, 128, 128, 3)}, {"logits": (1, 23)}, "?x128x128x3"),
        ({"image": (3, 128, 128)}, {"logits": (1, 23)}, "3x128x128"),
    ],
)
def test_graphs_that_contradict(inputs: Any, outputs: Any, says: str) -> None:
    with pytest.raises(CardError) as caught:
        sample().check_graph(inputs, outputs)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(23,), (23, 1, 1), None])
@pytest.mark.parametrize("threshold", [(), (1,), (1, 1)])
def test_controls_that_fit(shape: Any, threshold: Any) -> None:
    card = replace(sample(), controls=GAINED)
    card.check_graph(IMAGE | {"gain": shape, "threshold": threshold}, {"logits": (1, 23)}, {"gain": 10})


@pytest.mark.parametrize(
    ("inputs", "kind", "says"),
    [
        ({"threshold": (1,)}, 1, "no input 'gain'"),
        ({"gain": (23,)}, 1, "no input 'threshold'"),
        ({"gain": (22,), "threshold": (1,)}, 1, "'gain' is '22', but the card has 23 values"),
        ({"gain": (1, 23), "threshold": (1,)}, 1, "'gain' is '1x23'"),
        ({"gain": ("n",), "threshold": (1,)}, 1, "'gain' is 'n'"),
        ({"gain": (None,), "threshold": (1,)}, 1, r"'gain' is '\?'"),
        ({"gain": (23,), "threshold": (2,)}, 1, "'threshold' is '2'"),
        ({"gain": (23,), "threshold": (1,)}, 7, "floating point"),
    ],
)
def test_controls_that_contradict(inputs: Any, kind: int, says: str) -> None:
    card = replace(sample(), controls=GAINED)
    with pytest.raises(CardError, match=says):
        card.check_graph(IMAGE | inputs, {"logits": (1, 23)}, {"gain": kind})


def test_layout_and_missing_preprocessing() -> None:
    channels_last = replace(sample(), preprocess=replace(Preprocess.imagenet(128), layout="NHWC"))
    channels_last.check_graph({"image": (1, 128, 128, 3)}, {"logits": (1, 23)})
    with pytest.raises(CardError, match="makes"):
        channels_last.check_graph(IMAGE, {"logits": (1, 23)})
    replace(sample(), preprocess=None).check_graph({"image": (1, 7)}, {"logits": (1, 23)})


# -- preprocessing -------------------------------------------------------------------------------------------


def test_imagenet_is_the_usual_256_to_224() -> None:
    spec = Preprocess.imagenet()
    assert (spec.size, spec.resize, spec.interpolation) == ((224, 224), 256, "bicubic")
    assert spec.to_mapping() == Preprocess.from_mapping(spec.to_mapping()).to_mapping()
    assert Preprocess.imagenet(128).resize == 146
    assert Preprocess.read("imagenet", 160) == Preprocess.imagenet(160)


def test_read_a_file(tmp_path: Path) -> None:
    spec = Preprocess((96, 128), (96, 128), "lanczos", (0, 0, 0), (1, 1, 1), "BGR", "NHWC", "float16")
    file = tmp_path / "preprocess.json"
    file.write_text("\ufeff" + json.dumps(spec.to_mapping()), encoding="utf-8")
    assert Preprocess.read(file) == spec
    assert Preprocess.read(str(file)) == spec


@pytest.mark.parametrize("content", ["", "[]", "{", '{"size": [1, 1]}', '{"size": NaN}', "\0"])
def test_files_that_are_no_preprocessing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "preprocess.json"
    file.write_text(content)
    with pytest.raises(CardError):
        Preprocess.read(file)
    with pytest.raises(CardError, match="No such file"):
        Preprocess.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("size", value)
            for value in [(0, 1), (1, 8193), (1,), (1, 1, 1), 224, (1.0, 1), (True, 1), None, "12", ("1", "1")]
        ),
        *(("resize", value) for value in [0, -1, 8193, 1.5, True, None, "256", (1, 0), (1, 2, 3), 10**30]),
        *(("mean", value) for value in [(0, 0), (0,) * 4, (0, 0, math.nan), (0, 0, math.inf), (0, 0, "0"), 0, None]),
        *(("mean", value) for value in [(0, 0, 10**400), (0, 0, True), (0, 0, -1e7)]),
        *(
            ("std", value)
            for value in [(1, 1, 0), (1, 1, -1), (1, 1, math.nan), (1, 1, 1e-300), (1, 1, math.inf), (1, 1)]
        ),
        *(("interpolation", value) for value in ["area", "", None, ["bilinear"], "BICUBIC"]),
        *(("colour", value) for value in ["rgb", "GRAY"]),
        ("layout", "CHW"),
        ("dtype", "uint16"),
    ],
)
def test_every_number_is_checked(key: str, value: Any) -> None:
    with pytest.raises(CardError, match=f"'{key}'"):
        replace(Preprocess.imagenet(), **{key: value})


# -- models without a card -----------------------------------------------------------------------------------


def foreign(labels: list[str], taxonomy: Taxonomy | None = None) -> Card:
    return card_for_foreign(labels, taxonomy, None, "x", [Output("y", "probabilities")], name="their\x1bs")


def test_foreign_without_a_taxonomy() -> None:
    card = foreign(["sharks", "a/b", "[bold]"])
    assert card.classes == ("sharks", "a/b", "[bold]")
    assert card.selected_from is None
    assert card.name == "theirs"
    assert Card.from_json(card.to_json()) == card
    with pytest.raises(TaxonomyError):
        foreign(["a", "a"])


TREE = "tree: {fishes: {rays: {index: 1, label: Sea Rays}, sharks: {index: 0, synset: n01482330}}, crabs: {index: 2}}"


@pytest.mark.parametrize("labels", [["sharks", "rays", "crabs"], ["n01482330", "sea_rays", "CRABS"]])
def test_foreign_with_a_taxonomy(labels: list[str]) -> None:
    card = foreign(labels, Taxonomy.parse(TREE))
    assert card.classes == ("sharks", "rays", "crabs")
    assert card.taxonomy.path("rays") == ("fishes", "rays")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["sharks", "rays"], "2 labels, but the taxonomy has 3"),
        (["sharks", "rays", "eels"], "Row 2 is 'eels' in the labels but 'crabs' in the taxonomy."),
        (
            ["rays", "sharks", "crabs"],
            "Row 0 is 'rays' in the labels but 'sharks' in the taxonomy, whose row for 'rays' is 1",
        ),
    ],
)
def test_foreign_labels_that_contradict_the_taxonomy(labels: list[str], says: str) -> None:
    with pytest.raises(LabelsError) as caught:
        foreign(labels, Taxonomy.parse(TREE))
    assert says in caught.value.message
