"""What a person is told of early exits: README.txt and its snippet, ``inspect``, notes of a build, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exitnets import QUICK, built, card, network, saved
from PIL import Image

import expertc
from expertc.card import CARD_KEY, Preprocess
from expertc.exits import COARSE, EXIT, SCORES
from expertc.graph import read_model, to_bytes
from expertc.runtime import Expert
from expertc.surgery.exits import nested


def said_by_readme(bundle: Path, photo: Path, capsys: Any, monkeypatch: Any) -> str:
    """What the snippet "With ONNX Runtime alone" prints of a photo."""
    (bundle / "photo.jpg").write_bytes(photo.read_bytes())
    text = (bundle / "README.txt").read_text(encoding="utf-8")
    code = text.partition("With ONNX Runtime alone\n")[2].partition("\n\n")[0]
    monkeypatch.chdir(bundle)
    exec("\n".join(line[2:] for line in code.splitlines()), {})
    (bundle / "photo.jpg").unlink()
    return str(capsys.readouterr().out.strip())


@pytest.mark.parametrize("form", ["nested", "staged"])
@pytest.mark.parametrize(
    ("kind", "embed"),
    [("gran", None), ("gran", {}), ("gran", {"threshold": 0.8}), ("strict", None), ("ag", None), ("sem", None),
     ("branchy", None), ("branchy", {})],
)  # fmt: skip
def test_the_readme_of_a_bundle_answers_as_predict(
    kind: str, embed: Any, form: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """With the class or the category, of the exit that the rule takes; and it names no input that there is not."""
    seen = set()
    for seed, (limits, tolerance) in enumerate([((0.0, 0.0), -3.0), ((0.0, 2.0), 0.5), ((0.7, 0.6), 0.1)]):
        own = card(kind)
        assert own.exits is not None
        own = replace(own, preprocess=Preprocess((8, 8), 8, "bilinear"))
        own = own.with_exits(replace(own.exits, thresholds=limits, tolerance=tolerance))
        proto = onnx.load_from_string(network(kind, seed=seed))
        next(entry for entry in proto.metadata_props if entry.key == CARD_KEY).value = own.to_json()
        place = built(tmp_path, saved(tmp_path, proto.SerializeToString()), form, name=str(seed), embed=embed).path
        for number in range(3):
            photo = tmp_path / f"{number}.png"
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(photo)
            with Expert.open(place) as expert:
                (want,) = expert.predict([photo])
            assert said_by_readme(place, photo, capsys, monkeypatch) == want.labels[0][0]
            seen.add((want.exit, want.granularity))
        text = (place / "README.txt").read_text(encoding="utf-8")
        first = onnx.load(place / "expert.onnx", load_external_data=False).graph
        files = text.partition("manifest.json  ")[0]
        assert [value.name for value in first.input if f"'{value.name}'" not in files] == []
        given = {value.name for value in first.output} - {"features"}
        assert all(f"'{name}'" in files for name in given if name in (SCORES, COARSE, EXIT) or name.startswith("exit"))
        assert ("The input 'threshold'" in text) == ("threshold" in [value.name for value in first.input])
        told = text.partition("manifest.json  ")[2].partition("\nWith TensorRT")[0]
        words = [word in told for word in ("coarse", "categor", "tolerance")]
        assert words == ([False] * 3 if kind == "branchy" else [*words[:1], True, *words[2:]])
        assert ("surer than the class by more" in text) == (kind == "strict")
        assert max(map(len, text.splitlines())) <= 120
    assert len(seen) > 1 or embed is not None
    assert kind != "gran" or embed or {granularity for _, granularity in seen} == {"fine", "coarse"}


def test_the_readme_says_that_settings_are_frozen(tmp_path: Path) -> None:
    model = saved(tmp_path, network("gran"))
    text = (built(tmp_path, model, "nested", embed={"threshold": (0.0, 0.3)}).path / "README.txt").read_text("utf-8")
    assert "The threshold is frozen at 0.3: " in " ".join(text.split())
    assert "The tolerance is frozen at 0.5: " in " ".join(text.split())
    text = (built(tmp_path, model, "nested", name="one", classes="eel").path / "README.txt").read_text("utf-8")
    assert "One exit is left, which always answers." in text
    assert "threshold" not in text.partition("With expertc")[0]


def test_inspect_shows_the_form_of_a_model_and_what_decides(tmp_path: Path, cli: Any) -> None:
    """Inputs and outputs are those of the file, by ONNX Runtime's account."""
    for kind, words in (("strict", "threshold 0.5, 0.5; tolerance 0.5 nats"), ("branchy", "threshold 0.5, 0.5 nats")):
        plain = saved(tmp_path, network(kind), "plain.onnx")
        deep = saved(tmp_path, to_bytes(nested(read_model(network(kind)), card(kind))[0]), "deep.onnx")
        session = onnxruntime.InferenceSession(deep, providers=["CPUExecutionProvider"])
        facts = json.loads(cli("inspect", deep, "--json").out)
        assert facts["inputs"] == {value.name: value.shape for value in session.get_inputs()}
        outputs = [value.name for value in session.get_outputs()]
        assert [facts["outputs"][0]["name"], *facts["outputs_beside"]] == outputs
        said = " ".join(cli("inspect", deep).out.split())
        assert f"3, nested: decided in the graph {words}" in said
        assert all(name in said for name in outputs)
        assert ("surer than the class by more" in said) == (kind == "strict")
        said = " ".join(cli("inspect", plain).out.split())
        assert f"3, plain: all are computed {words}" in said
        assert "exit3.fine" in said
        assert "granularity" not in said


def test_inspect_shows_what_an_expert_is_frozen_at(tmp_path: Path, cli: Any) -> None:
    """Of the exits that are left, not of those that are gone."""
    model = saved(tmp_path, network("gran"))
    two = built(tmp_path, model, "nested", name="two", embed={"threshold": (0.0, 0.3), "tolerance": 0.2}).path
    said = " ".join(cli("inspect", two).out.split())
    assert "2, decided in the graph threshold 0.3; tolerance 0.2 nats, frozen" in said
    one = built(tmp_path, model, "staged", name="one", embed={"threshold": (0.0, 1e30), "tolerance": 0.2}).path
    said = " ".join(cli("inspect", one).out.split())
    assert "exits 1 is left, which always answers tolerance 0.2 nats, frozen" in said


@pytest.mark.parametrize(
    ("kind", "classes", "embed", "notes"),
    [
        ("gran", "ray,eel", None, ["The coarse answers are gone, as one category is left."]),
        ("sem", "ray,eel", None, ["2 of 3 exits gone, as they say nothing about these classes or never answer: 1, 2.",
                                  "The coarse answers are gone, as one category is left."]),
        ("gran", "ray,owl,eel", {"threshold": (0.0, 0.3)},
         ["1 of 3 exits gone, as they say nothing about these classes or never answer: 1."]),
        ("gran", "ray,owl,eel", None, []),
        ("branchy", "ray,eel", None, []),
    ],
)  # fmt: skip
def test_the_notes_say_what_of_the_exits_is_gone(
    kind: str, classes: str, embed: Any, notes: list[str], tmp_path: Path
) -> None:
    done = built(tmp_path, saved(tmp_path, network(kind)), "nested", classes=classes, embed=embed)
    assert [note for note in done.notes if "exits" in note or "coarse" in note] == notes


def test_why_nothing_can_be_set_is_said(tmp_path: Path, cli: Any) -> None:
    own = card("sem")
    own = replace(own, preprocess=Preprocess((8, 8), 8, "bilinear"))
    proto = onnx.load_from_string(network("sem"))
    next(entry for entry in proto.metadata_props if entry.key == CARD_KEY).value = own.to_json()
    model, photo = saved(tmp_path, proto.SerializeToString()), tmp_path / "ray" / "x.png"
    photo.parent.mkdir()
    Image.new("RGB", (8, 8)).save(photo)
    left = built(tmp_path, model, "nested", name="left", classes="ray,eel").path
    held = built(tmp_path, model, "nested", name="held", embed={"threshold": (0.5, 0.4)}).path
    plain = built(tmp_path, model, "plain").path
    none = saved(tmp_path, flat_network(), "flat.onnx")
    flat = expertc.build(none, classes="ray,eel", output=tmp_path / "flat.expert", **QUICK).path
    wanted = ("calibrate", "--data", tmp_path, "--min-accuracy", 0.5, "--ignore-unknown", "-o", tmp_path / "n.expert")
    for place, says in (
        (left, "One exit of this expert is left, so there is nothing to set"),
        (held, "The thresholds of this expert are frozen"),
        (plain, "no early exits to"),
        (flat, "no early exits to"),
    ):
        for verb in (("predict", place, photo, "--exit", 1), ("predict", place, photo, "--threshold", 1),
                     (wanted[0], place, *wanted[1:])):  # fmt: skip
            code, out, err = cli(*verb)
            assert (code, out) == (2, ""), err
            assert says in " ".join(err.split()), err
            assert ("--exits plain" in err) == (place in (plain, flat))


def flat_network() -> bytes:
    """The third exit alone, of a card that knows of no exits."""
    proto = onnx.load_from_string(network("sem"))
    for output in [value for value in proto.graph.output if value.name != "exit3.fine"]:
        proto.graph.output.remove(output)
    own = replace(card("sem"), exits=None, preprocess=Preprocess((8, 8), 8, "bilinear"))
    next(entry for entry in proto.metadata_props if entry.key == CARD_KEY).value = own.to_json()
    return bytes(proto.SerializeToString())
