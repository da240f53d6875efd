"""Building networks with early exits: bundles in every form, verified, repeated, taken as sources, tampered with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exiting
import numpy as np
import onnx
import pytest
from exitnets import QUICK, built, card, forcing, image, network, plain_outputs, saved
from networks import cut, run
from onnx import numpy_helper

import expertc
from expertc.audit import verify_bundle
from expertc.bundle import BUNDLE_SCHEMA, open_bundle
from expertc.card import CARD_KEY
from expertc.driven import require_exits, taken_apart
from expertc.earlier import read_earlier
from expertc.errors import CardError, UsageError, VerificationError
from expertc.exit_rule import decide
from expertc.exits import COARSE, EXIT, GRANULARITY, SCORES
from expertc.graph import read_model, to_bytes
from expertc.runtime import Expert
from expertc.source import open_source
from expertc.surgery.exits import nested
from expertc.targets import load_target


@pytest.mark.parametrize(
    ("kind", "form"),
    [("gran", "nested"), ("sem", "staged"), ("ag", "nested"), ("strict", "staged"), ("branchy", "nested"),
     ("sem", "nested"), ("ag", "staged"), ("gran", "plain")],
)  # fmt: skip
def test_a_bundle_answers_as_the_rule_on_the_full_models_outputs(kind: str, form: str, tmp_path: Path) -> None:
    done = built(tmp_path, saved(tmp_path, network(kind)), form, batch=2, verification="fast")
    assert done.certificate.verdict in ("verified", "uninformative")
    bundle = open_bundle(done.path)
    assert bundle.manifest["forms"]["exits"] == form
    assert [f for f in sorted(bundle.manifest["files"]) if f.endswith(".onnx")] == (
        ["expert.onnx", "stage2.onnx", "stage3.onnx"] if form == "staged" else ["expert.onnx"]
    )
    assert ("exits" in {step.name for step in done.certificate.steps}) == (form != "plain")
    own, full = card(kind).restrict([0, 1, 3]).exits, card(kind).exits
    assert own is not None
    assert full is not None
    if form == "plain":
        assert bundle.exits is None
        return
    # By hand: the rows of what the full network says.
    categories = [full.categories.index(name) for name in own.categories]
    everything = plain_outputs(network(kind), image())
    rows = {n: [0, 1] if n == own.semantic else [0, 1, 3] if "fine" in n else categories for n in own.tensors}
    logits = {name: everything[name][:, columns] for name, columns in rows.items()}
    with Expert.open(done.path) as expert:
        for thresholds, tolerance in forcing(own):
            settings = {"threshold": thresholds} | ({"tolerance": tolerance} if own.compares else {})
            want = decide(own, lambda _: logits, thresholds, tolerance)
            got = expert.answered(image(), settings)
            assert got.exit.tolist() == [want.exit] * 2
            assert got.fine.tolist() == [want.fine] * 2


def test_verify_takes_every_form_again_and_finds_what_was_changed(tmp_path: Path) -> None:
    model = saved(tmp_path, network("gran"))
    for form, file in (("nested", "expert.onnx"), ("staged", "stage2.onnx")):
        done = built(tmp_path, model, form)
        certificate = verify_bundle(open_bundle(done.path), open_source(model))
        assert certificate.verdict == "verified", form
        tamper(done.path, file)
        with pytest.raises(VerificationError):
            verify_bundle(open_bundle(done.path), open_source(model))


def tamper(bundle: Path, name: str) -> None:
    """Change the rule, or a weight where there is none, and hash it again."""
    proto = onnx.load(bundle / name)
    for node in proto.graph.node:
        if node.op_type == "Less":
            node.input[:] = [node.input[1], node.input[0]]
            break
    else:
        tensor = next(t for t in proto.graph.initializer if t.name.endswith(".w"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    resave(bundle, name, bytes(proto.SerializeToString()))


def resave(bundle: Path, name: str, data: bytes) -> None:
    import hashlib

    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("form", ["nested", "staged"])
def test_the_same_build_gives_the_same_bytes_and_is_repeated(form: str, tmp_path: Path) -> None:
    model = saved(tmp_path, network("ag"))
    first = built(tmp_path, model, form, embed={"threshold": (0.0, 1.0)})
    options = read_earlier(first.path).options()
    again = expertc.build(
        model,
        classes=read_earlier(first.path).classes,
        output=tmp_path / "again.expert",
        measure_seconds=0,
        verification="off",
        **options,
    )
    for file in first.path.iterdir():
        if file.name != "report.json":
            assert file.read_bytes() == (again.path / file.name).read_bytes(), file.name
    # A threshold of 0 that never changes: the first exit is gone, but the semantic branch is not.
    bundle = open_bundle(first.path)
    assert bundle.exits is not None
    assert [one.fine for one in bundle.exits.exits] == ["exit2.fine", "exit3.fine"]
    assert (bundle.exits.frozen, bundle.controls) == (True, ())
    assert [control.default for control in bundle.embedded] == [(0.0, 1.0)]
    assert verify_bundle(bundle, open_source(model)).verdict == "verified"


@pytest.mark.parametrize("form", ["nested", "staged"])
def test_stages_behind_an_exit_that_always_answers_are_left_out(form: str, tmp_path: Path) -> None:
    """Of two categories: the coarse entropy is at most ln 2, so that no image goes on. A cut of that cuts on."""
    model = saved(tmp_path, network("gran"))
    done = built(tmp_path, model, form, embed={"threshold": 0.8})
    bundle = open_bundle(done.path)
    assert (bundle.stages, bundle.exits is not None and bundle.exits.thresholds) == (("expert.onnx",), (0.8,))
    assert [list(control.default) for control in bundle.embedded] == [[0.8, 0.8], [0.5]]
    assert verify_bundle(bundle, open_source(model)).verdict in ("verified", "uninformative")
    how = read_earlier(done.path).options()
    again = expertc.build(model, classes="ray,owl,eel", output=tmp_path / "2.expert", **QUICK | how)
    assert (again.path / "expert.onnx").read_bytes() == (done.path / "expert.onnx").read_bytes()
    onwards = built(tmp_path, done.path, form, name="onwards", classes="ray,owl")
    assert verify_bundle(open_bundle(onwards.path), open_source(done.path)).verdict in ("verified", "uninformative")
    assert open_bundle(onwards.path).embedded == (), "its source had them already"


def test_frozen_thresholds_in_a_manifest_are_those_of_the_model(tmp_path: Path) -> None:
    """Stages are driven by what the manifest says, and nobody can have calibrated these."""
    model = saved(tmp_path, network("gran"))
    done = built(tmp_path, model, "staged", embed={"threshold": 0.3})
    assert len(open_bundle(done.path).stages) == 3
    path = done.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["exits"]["thresholds"] = [0.1, 0.2]
    path.write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="its exits"):
        verify_bundle(open_bundle(done.path), open_source(model))


@pytest.mark.parametrize("form", ["nested", "staged"])
def test_a_bundle_and_a_nested_model_are_sources(form: str, tmp_path: Path) -> None:
    model = saved(tmp_path, network("gran"))
    made, own = nested(read_model(network("gran")), card("gran"))
    deep = saved(tmp_path, to_bytes(made), "nested.onnx")
    source = open_source(deep)
    assert (source.card, source.driven) == (card("gran"), True)
    assert own.exits is not None
    wide = built(tmp_path, model, form, batch=None)
    narrow = {
        "once": built(tmp_path, model, form, name="once", classes="ray,owl"),
        "deep": built(tmp_path, deep, form, name="deep", classes="ray,owl"),
        "again": built(tmp_path, wide.path, form, name="again", classes="ray,owl"),
    }
    assert narrow["deep"].full.cost == narrow["once"].full.cost
    for name, origin in (("deep", deep), ("again", wide.path)):
        certificate = verify_bundle(open_bundle(narrow[name].path), open_source(origin), level="fast")
        assert certificate.verdict in ("verified", "uninformative")
    x, found = image(1), {}
    for name, done in narrow.items():
        with Expert.open(done.path) as expert:
            found[name] = expert.answered(x, {"threshold": 0.0})
    for name in ("deep", "again"):
        assert np.allclose(found[name].scores, found["once"].scores, atol=1e-5)


def test_photos_are_answered_by_a_built_bundle(tmp_path: Path) -> None:
    """A network made by hand, whose nested and staged forms were too: what is built must do as those."""
    model = saved(tmp_path, exiting.plain())
    x = np.random.default_rng(0).random((2, 3, exiting.SIDE, exiting.SIDE), np.float32)
    by_hand = run(
        exiting.nested(2),
        {"image": x, "threshold": np.array([0.5, 0.4], np.float32), "tolerance": np.array([0.25], np.float32)},
    )
    for form in ("nested", "staged"):
        done = built(tmp_path, model, form, classes=",".join(exiting.CLASSES), batch=2)
        with Expert.open(done.path) as expert:
            found = expert.answered(x)
        assert found.exit.tolist() == by_hand[EXIT].tolist()
        assert found.fine.tolist() == by_hand[GRANULARITY].astype(bool).tolist()
        assert np.allclose(found.scores, by_hand[SCORES], atol=1e-4)
        assert found.coarse is not None
        assert np.allclose(found.coarse, by_hand[COARSE], atol=1e-4)


def test_lower_precision_and_baked_pixels_are_driven_too(tmp_path: Path) -> None:
    model = saved(tmp_path, exiting.plain())
    for form in ("nested", "staged"):
        done = built(tmp_path, model, form, classes="warm", bake=True, precision="fp16", verification="fast")
        assert [step.name for step in done.certificate.steps][-2:] == ["precision", "exits"]
        assert verify_bundle(open_bundle(done.path), open_source(model)).verdict == "verified"


def test_quantised_experts_are_driven_too(tmp_path: Path) -> None:
    """The child converts again; what it makes of that in memory and of the file must be the same stages."""
    proto = onnx.load_from_string(network("gran"))
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("exit"):  # so that no answer is so sure that int8 moves it far
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 50, tensor.name))
    model = saved(tmp_path, proto.SerializeToString())
    x = np.random.default_rng(3).random((64, 3, 8, 8), np.float32)
    photos = SimpleNamespace(observed=x[:32], judged=x[32:], notes=())
    for form in ("nested", "staged"):
        done = built(
            tmp_path, model, form, precision="int8", max_drop=99.0, verification="fast",
            calibration=lambda source, selection: photos,
        )  # fmt: skip
        assert "QuantizeLinear" in (done.path / "expert.onnx").read_bytes().decode("latin-1")
        assert [step.name for step in done.certificate.steps][-2:] == ["precision", "exits"]


def test_the_form_follows_the_device() -> None:
    cpu, orin = load_target("cpu"), load_target("orin-nano-8gb")
    assert [require_exits(None, card("gran"), device) for device in (cpu, orin)] == ["nested", "staged"]
    assert require_exits("nested", card("gran"), orin) == "nested"
    flat = replace(card("gran"), exits=None)
    assert require_exits(None, flat, orin) == "plain"
    with pytest.raises(UsageError, match="no early exits"):
        require_exits("staged", flat, cpu)
    with pytest.raises(UsageError, match="There is no form"):
        require_exits("\x1b[31m", card("gran"), cpu)


@pytest.mark.parametrize("embed", [{"threshold": "x"}, {"threshold": (0.1,)}, {"tolerance": float("nan")}])
def test_settings_that_are_none_are_refused(embed: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        built(tmp_path, saved(tmp_path, network("gran")), "nested", embed=embed)
    assert not list(tmp_path.glob("*.expert"))


def test_a_manifest_that_describes_other_exits_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, network("gran"))
    done = built(tmp_path, model, "nested")
    path = done.path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["schema"] == BUNDLE_SCHEMA
    manifest["exits"]["strict_coarse"] = True
    path.write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="its exits"):
        verify_bundle(open_bundle(done.path), open_source(model))
    # The fewer stages than exits: what is missing is named, whoever opens it.
    done = built(tmp_path, model, "staged")
    manifest = json.loads((done.path / "manifest.json").read_text())
    del manifest["files"]["stage3.onnx"]
    (done.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CardError, match=r"no tensor 'exit3"):
        open_source(done.path)
    with pytest.raises(CardError, match=r"no tensor 'exit3"):
        taken_apart([(done.path / name).read_bytes() for name in ("expert.onnx", "stage2.onnx")])


def test_a_card_that_says_driven_of_a_plain_graph_is_refused(tmp_path: Path) -> None:
    proto = onnx.load_from_string(network("gran"))
    own = nested(read_model(network("gran")), card("gran"))[1]
    next(entry for entry in proto.metadata_props if entry.key == CARD_KEY).value = own.to_json()
    with pytest.raises(CardError, match=r"no input 'threshold'|no output 'scores'"):
        open_source(saved(tmp_path, bytes(proto.SerializeToString())))
    assert cut(network("gran"), card("gran"), (0, 1))[1].card.exits is not None


def test_inspect_counts_what_it_costs_to_get_to_each_exit(tmp_path: Path, cli: Any) -> None:
    model = saved(tmp_path, to_bytes(nested(read_model(network("gran")), card("gran"))[0]))
    code, out, _ = cli("inspect", model, "--json")
    exits = json.loads(out)["exits"]
    # Two convolutions and two heads a stage; 64 places, 4 channels, the first reads 3.
    heads, first, later = 4 * (5 + 3), 64 * (27 * 4 + 16), 64 * (36 * 4 + 16)
    assert (code, [one["macs"] for one in exits]) == (0, [first + heads + (later + heads) * u for u in range(3)])
    biases, weights = 4 + 4 + 5 + 3, 16 + 4 * 8
    assert [one["parameters"] for one in exits] == [
        27 * 4 + weights + biases + (36 * 4 + weights + biases) * u for u in range(3)
    ]
    code, out, _ = cli("inspect", model)
    assert "to exit 2, fine and coarse" in out
    for arguments in (
        ("classes", model),
        ("build", model, "--classes", "ray", "--plan"),
        ("inspect", model, "--explain"),
    ):
        assert cli(*arguments)[0] == 0


def test_the_command_line_builds_every_form(tmp_path: Path, cli: Any) -> None:
    model = saved(tmp_path, network("gran"))
    place = tmp_path / "a.expert"
    common = ("--classes", "ray,owl,eel", "--verify", "off", "-o", place, "--force")
    code, out, err = cli("build", model, "--measure", "0.05", *common)
    assert (code, err) == (0, "")
    assert "last exit" in " ".join(out.split())
    assert open_bundle(place).exits is not None
    code, out, _ = cli("build", model, "--exits", "staged", "--embed", "--exit", "2", "--measure", "0", *common)
    bundle = open_bundle(place)
    assert (code, bundle.stages) == (0, ("expert.onnx",)), "the second exit alone is one stage"
    assert bundle.exits is not None
    assert [one.fine for one in bundle.exits.exits] == ["exit2.fine"]
    assert verify_bundle(bundle, open_source(model), level="fast").verdict in ("verified", "uninformative")
    with Expert.open(place) as expert:
        assert expert.answered(image(1)).exit.tolist() == [1]
    for wrong, says in (
        (("--exits", "deep"), "There is no form 'deep'"),
        (("--threshold", "0.5"), "Add --embed"),
        (("--threshold", "x", "--embed"), "not a number"),
        (("--threshold", "1,2,3", "--embed"), "3 thresholds"),
        (("--tolerance", "nan", "--embed"), "not a number"),
    ):
        code, _, err = cli("build", model, *wrong, *common)
        assert (code, says in " ".join(err.split())) == (2, True), err
