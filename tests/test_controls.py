"""Inputs beside the image from end to end: in bundles, asked by Python, verified again, or frozen into the expert."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from rainbow import DEFAULT_GAIN, SPEC, picture, rainbow

import expertc
from expertc.audit import verify_bundle
from expertc.backends.cpu import open_session
from expertc.bench import bench
from expertc.bundle import open_bundle
from expertc.card import CARD_KEY, Card, Control
from expertc.controls import settle
from expertc.errors import BundleError, CardError, ModelError, SelectionError, UsageError, VerificationError
from expertc.evaluate.judges import open_judge
from expertc.runtime.images import load_image
from expertc.runtime.preprocess import apply
from expertc.source import open_source
from expertc.taxonomy import Taxonomy

QUICK = {"verification": "off", "measure_seconds": 0}


@pytest.fixture(scope="module")
def gained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gained") / "gained.onnx"
    path.write_bytes(rainbow(gained=True).bytes())
    return path


@pytest.fixture(scope="module")
def kept(gained: Path) -> Any:
    """Reds and yellows, rows 0 and 3 of the full model."""
    return expertc.build(gained, classes="warm", output=gained.parent / "warm.expert", measure_seconds=0.05)


@pytest.fixture(scope="module")
def embedded(gained: Path) -> Any:
    return expertc.build(
        gained, classes="warm", output=gained.parent / "embedded.expert", measure_seconds=0.05,
        embed={"gain": {"yellows": 2.5}}, verification="full",
    )  # fmt: skip


def oracle(model: Path, x: np.ndarray, gain: Any) -> np.ndarray:
    """Scores by ONNX Runtime, run by hand."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x, "gain": np.float32(gain)})[0]


X = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)


# -- the bundle ----------------------------------------------------------------------------------------------------


def test_the_bundle_carries_the_defaults_of_its_classes(kept: Any) -> None:
    bundle = open_bundle(kept.path)
    assert bundle.controls == (Control("gain", (1.0, 0.5), True),)
    assert bundle.embedded == ()
    assert bundle.manifest["controls"] == [{"name": "gain", "default": [1.0, 0.5], "per_class": True, "shape": [2]}]
    assert kept.certificate.verdict == "verified"
    assert kept.certificate.steps[1].numbers["control_settings"] == 2
    assert kept.timing is not None


def test_the_expert_is_fed_the_defaults(gained: Path, kept: Any) -> None:
    wanted = oracle(gained, X, DEFAULT_GAIN)[:, [0, 3]]
    with expertc.Expert.open(kept.path) as expert:
        assert expert.controls == (Control("gain", (1.0, 0.5), True),)
        np.testing.assert_allclose(expert.scores(X), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "gain"),
    [
        ({"reds": 1.8}, (1.8, 1, 1, 0.5)),
        ({"Yellow": 3, "reds": 0}, (0, 1, 1, 3)),
        (2, (2, 1, 1, 2)),
        ([0.25, 4.0], (0.25, 1, 1, 4)),
        (np.array([0.25, 4.0], np.float32), (0.25, 1, 1, 4)),
        ({}, DEFAULT_GAIN),
    ],
)
def test_a_call_may_say_otherwise(gained: Path, kept: Any, given: Any, gain: Any) -> None:
    wanted = oracle(gained, X, gain)[:, [0, 3]]
    with expertc.Expert.open(kept.path) as expert:
        np.testing.assert_allclose(expert.scores(X, {"gain": given}), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(expert.scores(X), oracle(gained, X, DEFAULT_GAIN)[:, [0, 3]], rtol=1e-5, atol=1e-6)


def test_predict_follows_the_gain(gained: Path, kept: Any, tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png", (255, 120, 0))
    x = apply(load_image(photo), SPEC)[None]
    with expertc.Expert.open(kept.path) as expert:
        for gain in (0.1, 8.0):
            scores = oracle(gained, x, (gain, 1, 1, 0.5))[0, [0, 3]].astype(np.float64)
            [found] = expert.predict(photo, controls={"gain": {"reds": gain}})
            wanted = dict(zip(("reds", "yellows"), np.exp(scores) / np.exp(scores).sum(), strict=True))
            assert dict(found.labels) == pytest.approx(wanted, rel=1e-5)
        assert expert.predict(photo) == expert.predict(photo, controls={})


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"gian": 1}, UsageError, "no control 'gian'"),
        ({"gain": {"redz": 1}}, SelectionError, "redz"),
        ({"gain": {"blues": 1}}, SelectionError, "blues"),  # a class of the full model
        ({"gain": {"@file": 1}}, SelectionError, "not the name of a class"),
        ({"gain": [1.0]}, UsageError, "takes 2 values, not 1"),
        ({"gain": {"reds": math.nan}}, UsageError, "out of reach"),
        ({"gain": math.inf}, UsageError, "out of reach"),
        ({"gain": {"reds": "loud"}}, UsageError, "no number"),
        ({"gain": "loud"}, UsageError, "no number"),
    ],
)
def test_what_no_control_can_be(kept: Any, given: Any, kind: Any, says: str) -> None:
    with expertc.Expert.open(kept.path) as expert:
        for ask in (lambda: expert.scores(X, given), lambda: expert.iter_predict([], controls=given)):
            with pytest.raises(kind, match=says) as caught:
                ask()
            assert caught.value.hint


def test_an_expert_without_gains_refuses_them(bundle: Path) -> None:
    with expertc.Expert.open(bundle) as expert, pytest.raises(UsageError, match="has no gain"):
        expert.scores(X, {"gain": 1.0})


def tampered(bundle: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose manifest, which nobody hashes, says something else; None takes a key out."""
    copy = folder / "copy.expert"
    shutil.copytree(bundle, copy)
    about = json.loads((copy / "manifest.json").read_text()) | changes
    about = {key: value for key, value in about.items() if value is not None}
    (copy / "manifest.json").write_text(json.dumps(about))
    return copy


def test_bundles_from_before_there_were_controls_open(bundle: Path, tmp_path: Path) -> None:
    old = tampered(bundle, tmp_path, controls=None, embedded=None)
    with expertc.Expert.open(old) as expert:
        assert expert.controls == ()
        assert expert.scores(X).shape == (3, 2)


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        (None, "other controls"),
        ([], "other controls"),
        ([{"name": "gain", "default": [1.0, 2.0], "per_class": True}], "other controls"),
        ([{"name": "gain", "default": [1.0, 0.5], "per_class": False}], "other controls"),
        ({}, "malformed"),
        ([3], "malformed"),
        ([{"name": "gain"}], "malformed"),
        ([{"name": "gain", "default": ["a"], "per_class": True}], "malformed"),
    ],
)
def test_a_manifest_that_contradicts_the_model(kept: Any, tmp_path: Path, controls: Any, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        expertc.Expert.open(tampered(kept.path, tmp_path, controls=controls))


def test_the_readme_runs_without_this_package(
    kept: Any, gained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (kept.path / "README.txt").read_text()
    snippet = text.split("With ONNX Runtime alone\n")[1].split("\nWith TensorRT")[0]
    photo = picture(tmp_path / "photo.jpg", "yellows")
    for name in ("expert.onnx", "labels.txt", "manifest.json"):
        shutil.copy(kept.path / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"print": [].append}
    exec(compile("\n".join(line[2:] for line in snippet.splitlines()), "README.txt", "exec"), names)
    wanted = oracle(gained, apply(load_image(photo), SPEC)[None], DEFAULT_GAIN)[0, [0, 3]]
    np.testing.assert_allclose(names["scores"], wanted, rtol=1e-4, atol=1e-5)


# -- everything else that runs a model -----------------------------------------------------------------------------


def test_a_session_feeds_what_the_card_says(gained: Path) -> None:
    session = open_session(gained)
    assert (session.input, session.input_shape) == ("image", (None, 3, 8, 8))
    np.testing.assert_allclose(session.run(X)["scores"], oracle(gained, X, DEFAULT_GAIN), rtol=1e-6)
    gain = [0.5, 2, 3, 4]
    np.testing.assert_allclose(session.run(X, {"gain": gain})["scores"], oracle(gained, X, gain), rtol=1e-6)
    for wrong in ({"gian": gain}, {"gain": gain[:3]}):
        with pytest.raises(ModelError, match=r"gian|another number"):
            session.run(X, wrong)


def other_card(gained: Path, path: Path, change: Any) -> Path:
    proto = onnx.load(gained)
    entry = proto.metadata_props[0]
    assert entry.key == CARD_KEY
    entry.value = change(entry.value)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (lambda text: "{}", CardError, "schema"),
        (lambda text: text.replace('"gain"', '"gian"'), ModelError, "other inputs"),
        (lambda text: text.replace('"input":"image"', '"input":"picture"'), ModelError, "other inputs"),
        (
            lambda text: text.replace("[1.0,1.0,1.0,0.5]", "[1.0]").replace('class":true', 'class":false'),
            CardError,
            "1 v",
        ),
    ],
)
def test_cards_that_do_not_describe_the_inputs(gained: Path, tmp_path: Path, change: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        open_session(other_card(gained, tmp_path / "other.onnx", change))


def test_a_model_with_inputs_nobody_describes_is_refused_early(gained: Path, tmp_path: Path) -> None:
    path = other_card(gained, tmp_path / "other.onnx", lambda text: json.dumps(json.loads(text) | {"controls": []}))
    with pytest.raises(ModelError, match="'gain'"):
        open_source(path)


def test_judges_and_benchmarks_feed_the_defaults(gained: Path, kept: Any) -> None:
    with open_judge(gained, classes="warm") as judge, open_judge(kept.path) as other:
        np.testing.assert_allclose(judge.scores(X), oracle(gained, X, DEFAULT_GAIN)[:, [0, 3]], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other.scores(X), judge.scores(X), rtol=1e-5, atol=1e-6)
    assert len(bench([gained, kept.path], seconds=0.05).entries) == 2


@pytest.mark.parametrize("batch", [3, None])
def test_any_batch(gained: Path, tmp_path: Path, batch: int | None) -> None:
    made = expertc.build(gained, classes="cold", output=tmp_path / "a.expert", batch=batch, measure_seconds=0.02)
    with expertc.Expert.open(made.path) as expert:
        wanted = oracle(gained, X, (1, 2, 0.5, 1))[:, [1, 2]]
        np.testing.assert_allclose(expert.scores(X, {"gain": [2, 0.5]}), wanted, rtol=1e-5, atol=1e-6)


def test_an_expert_of_the_bundle(kept: Any, gained: Path, tmp_path: Path) -> None:
    made = expertc.build(kept.path, classes="yellows", output=tmp_path / "a.expert", measure_seconds=0)
    assert open_bundle(made.path).controls == (Control("gain", (0.5,), True),)
    with expertc.Expert.open(made.path) as expert:
        np.testing.assert_allclose(expert.scores(X), oracle(gained, X, DEFAULT_GAIN)[:, [3]], rtol=1e-5, atol=1e-6)


def test_verified_again(gained: Path, kept: Any, tmp_path: Path) -> None:
    source = open_source(gained)
    assert verify_bundle(open_bundle(kept.path), source).verdict == "verified"
    changed = [{"name": "gain", "default": [1.0, 2.0], "per_class": True}]
    with pytest.raises(VerificationError, match="in its controls"):
        verify_bundle(open_bundle(tampered(kept.path, tmp_path, controls=changed)), source)


# -- frozen --------------------------------------------------------------------------------------------------------


def test_an_embedded_expert_takes_the_image_alone(gained: Path, embedded: Any) -> None:
    proto = onnx.load(embedded.path / "expert.onnx")
    assert [value.name for value in proto.graph.input] == ["image"]
    assert Card.from_json(proto.metadata_props[0].value).controls == ()
    session = onnxruntime.InferenceSession(embedded.path / "expert.onnx", providers=["CPUExecutionProvider"])
    wanted = oracle(gained, X, (1, 1, 1, 2.5))[:, [0, 3]]
    np.testing.assert_allclose(session.run(None, {"image": X[:1]})[0], wanted[:1], rtol=1e-5, atol=1e-6)
    with expertc.Expert.open(embedded.path) as expert:
        np.testing.assert_allclose(expert.scores(X), wanted, rtol=1e-5, atol=1e-6)
        with pytest.raises(UsageError, match="has no gain"):
            expert.scores(X, {"gain": 1.0})


def test_its_manifest_says_with_what(embedded: Any) -> None:
    bundle = open_bundle(embedded.path)
    assert bundle.controls == ()
    assert bundle.embedded == (Control("gain", (1.0, 2.5), True),)
    assert "embed" in bundle.manifest["forms"]["passes"]
    assert embedded.certificate.verdict == "verified"
    assert embedded.certificate.level == "full"
    assert embedded.expert.cost.parameters == 21  # a gain is no parameter


def test_an_embedded_gain_costs_nothing(embedded: Any, gained: Path, tmp_path: Path) -> None:
    def products(path: Path) -> int:
        return [node.op_type for node in onnx.load(path / "expert.onnx").graph.node].count("Mul")

    assert products(embedded.path) == 0  # the yellows' half is in the weights of their head; the reds' is one
    made = expertc.build(gained, classes="greens,blues", output=tmp_path / "a.expert", embed={}, **QUICK)
    assert products(made.path) == 0
    assert not {"Gather", "Slice", "Identity"} & {n.op_type for n in onnx.load(made.path / "expert.onnx").graph.node}


def test_an_embedded_expert_verified_again(gained: Path, embedded: Any, tmp_path: Path) -> None:
    source = open_source(gained)
    for level in ("fast", "full"):
        assert verify_bundle(open_bundle(embedded.path), source, level=level).verdict == "verified"
    for claimed in ([1.0, 2.0], [1.0]):
        changed = [{"name": "gain", "default": claimed, "per_class": True}]
        copy = tampered(embedded.path, tmp_path / str(len(claimed)), embedded=changed)
        with pytest.raises(VerificationError, match=r"optimised|other controls"):
            verify_bundle(open_bundle(copy), source)


@pytest.mark.parametrize(
    ("embed", "kind", "says"),
    [
        ({"gain": {"blues": 2.0}}, SelectionError, "blues"),
        ({"heat": 2.0}, UsageError, "no control 'heat'"),
        ({"gain": [1.0]}, UsageError, "takes 2 values"),
    ],
)
def test_what_cannot_be_embedded(gained: Path, tmp_path: Path, embed: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        expertc.build(gained, classes="warm", output=tmp_path / "a.expert", embed=embed)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_controls_has_nothing_to_embed(tmp_path: Path) -> None:
    (tmp_path / "gained.onnx").write_bytes(rainbow().bytes())
    with pytest.raises(UsageError, match="no gain"):
        expertc.build(tmp_path / "gained.onnx", classes="warm", output=tmp_path / "a.expert", embed={})


# -- settle --------------------------------------------------------------------------------------------------------

TREE = Taxonomy.parse("tree: {fishes: {rays: {index: 1, label: Sea Rays}, sharks: {index: 0}}, 'a,b': {index: 2}}")
CONTROLS = (Control("gain", (1.0, 2.0, 3.0), True), Control("threshold", (0.25,), False))


@pytest.mark.parametrize(
    ("given", "gain", "threshold"),
    [
        ({}, (1, 2, 3), (0.25,)),
        ({"threshold": 0.5}, (1, 2, 3), (0.5,)),
        ({"gain": {"sea rays": 5}, "threshold": [1]}, (1, 5, 3), (1,)),
        ({"gain": {"fishes": 5, "a,b": 6}}, (5, 5, 6), (0.25,)),
    ],
)
def test_settle(given: Any, gain: Any, threshold: Any) -> None:
    assert settle(CONTROLS, TREE, given) == {"gain": gain, "threshold": threshold}


def test_a_control_without_classes_has_no_class() -> None:
    with pytest.raises(UsageError, match="no value per class"):
        settle(CONTROLS, TREE, {"threshold": {"rays": 1}})
