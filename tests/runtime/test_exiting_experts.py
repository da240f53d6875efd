"""Bundles of networks with early exits, one graph or stages: what they answer, against a decision by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exiting import PLAIN, bundle, by_hand, entropies, plain
from networks import run
from on_device import Device
from rainbow import SPEC, photos

from expertc import Expert
from expertc.backends.cpu import CpuSession
from expertc.backends.staged import StagedSession
from expertc.backends.tensorrt import plans
from expertc.bundle import open_bundle, reserve
from expertc.engines import compile_bundle, save_engine
from expertc.errors import BundleError, ModelError, UsageError
from expertc.exits import THRESHOLD, TOLERANCE, Exit, Exits
from expertc.runtime import load_image
from expertc.runtime.exits import Chosen
from expertc.runtime.preprocess import apply
from expertc.targets import load_target

FORMS = ("nested", "staged")
CATEGORIES, CLASSES = PLAIN.categories, ("reds", "greens", "blues", "yellows")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = photos(tmp_path_factory.mktemp("photos"), each=12)
    return sorted(folder.rglob("*.png"))


@pytest.fixture(scope="module")
def tensors(files: list[Path]) -> np.ndarray:
    return np.stack([apply(load_image(file), SPEC) for file in files])


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The inputs of every session of ONNX Runtime's that is run."""
    found: list[tuple[str, ...]] = []
    run = CpuSession.run

    def watched(self: CpuSession, *arguments: Any) -> Any:
        found.append((self.input, *self.carried))
        return run(self, *arguments)

    monkeypatch.setattr(CpuSession, "run", watched)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_image_is_answered_as_by_hand(form: str, tmp_path: Path, files: Any, tensors: Any, ran: Any) -> None:
    wanted = by_hand(tensors, PLAIN.thresholds, PLAIN.tolerance)
    assert {(number, fine) for number, fine, *_ in wanted} >= {(1, True), (1, False), (2, True), (3, True), (3, False)}
    with Expert.open(bundle(tmp_path / "x.expert", form)) as expert:
        found = expert.predict(files)
        again = expert.answered(tensors)  # one after the other, as the model takes one
    for prediction, (number, fine, *logits) in zip(found, wanted, strict=True):
        assert (prediction.exit, prediction.granularity) == (number, "fine" if fine else "coarse")
        values, names = (logits[0], CLASSES) if fine else (logits[1], CATEGORIES)
        shares = np.exp(values - values.max())
        order = np.argsort(-values, kind="stable")
        assert [label for label, _ in prediction.labels] == [names[at] for at in order]
        np.testing.assert_allclose([p for _, p in prediction.labels], (shares / shares.sum())[order], atol=1e-6)
        assert prediction.to_mapping().keys() == {"image", "predictions", "granularity", "exit"}
    assert again.exit.tolist() == [number for number, *_ in wanted]
    np.testing.assert_allclose(again.scores, [fine for *_, fine, _ in wanted], atol=1e-4)
    np.testing.assert_allclose(again.coarse, [coarse for *_, coarse in wanted], atol=1e-4)
    calls = 2 * sum(number for number, *_ in wanted)  # a stage is run only if an image gets there
    assert len(ran) == (calls if form == "staged" else 2 * len(files))
    if form == "staged":
        assert set(ran) == {("image",), ("features1",), ("features1", "features2")}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_decides_as_one(form: str, tmp_path: Path, tensors: Any) -> None:
    """By the mean of its entropies; and settings change what it decides."""
    x = tensors[24:32]
    with Expert.open(bundle(tmp_path / "x.expert", form, "batch")) as expert:
        for thresholds, tolerance in (((0.5, 0.4), 0.25), ((0.1, 0.9), 0.0), ((0.0, 0.0), 5.0), ((0.0, 0.0), -5.0)):
            settings = {THRESHOLD: thresholds, TOLERANCE: tolerance}
            found = expert.answered(x, settings)
            assert len({*found.exit.tolist()}) == len({*found.fine.tolist()}) == 1
            for number in (1, 2, 3):
                every = expert.answered(x, Chosen(exit=number).settings(expert.controls))
                assert every.exit.tolist() == [number] * len(x)
                assert every.coarse is not None
                fine, coarse = (float(entropies(values).mean()) for values in (every.scores, every.coarse))
                finer, limit = fine - tolerance < coarse, (*thresholds, 9.0)[number - 1]
                if number == 3 or (finer and fine < limit) or coarse < limit:
                    break
            assert found.exit[0] == number
            assert found.fine[0] == (finer and fine < limit)
            np.testing.assert_allclose(found.scores, every.scores, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_last_call_decides_by_its_own_images(form: str, left: int, tmp_path: Path, tensors: Any) -> None:
    """A call takes four: one or two photos that are left decide as alone; of three the first counts twice."""
    counted = [0, 1, 2, 0] if left == 3 else range(left)
    groups = [tensors[start : start + left] for start in range(0, len(tensors) - left, 5)]
    as_filled_with_the_last = []
    with Expert.open(bundle(tmp_path / "x.expert", form, 4)) as expert:
        for group in groups:
            found = expert.answered(np.concatenate([tensors[:4], group]))
            assert found.exit[4:].tolist() == [_one_decision(group[counted])] * left
            as_filled_with_the_last.append(_one_decision(group[[*range(left), *[-1] * (4 - left)]]))
    assert left == 1 or as_filled_with_the_last != [_one_decision(group[counted]) for group in groups]


def _one_decision(x: np.ndarray) -> int:
    """The exit by Algorithm 1, from the means of what the plain network says of each image."""
    logits = run(plain(), {"image": x})
    for number, limit in enumerate(PLAIN.thresholds, 1):
        fine, coarse = (float(entropies(logits[f"{which}{number}"]).mean()) for which in ("fine", "coarse"))
        if (fine < limit and fine - PLAIN.tolerance < coarse) or coarse < limit:
            return number
    return 3


def test_settings_that_make_no_sense(tmp_path: Path, built: Any) -> None:
    with Expert.open(bundle(tmp_path / "x.expert", "nested")) as expert:
        assert expert.set_exits(Chosen()) == {}
        assert expert.set_exits(Chosen((0.5,), np.inf)) == {THRESHOLD: (0.5, 0.5), TOLERANCE: (1e30,)}
        for chosen, said in (
            (Chosen((0.5, 0.4, 0.3)), "3 thresholds are given for 2 early exits"),
            (Chosen(exit=4), "no exit 4: the last is 3"),
        ):
            with pytest.raises(UsageError, match=said):
                expert.set_exits(chosen)
    for arguments in ({"threshold": (np.nan,)}, {"tolerance": np.nan}, {"exit": 0}, {"threshold": (1,), "exit": 1}):
        with pytest.raises(UsageError):
            Chosen(**arguments)
    with Expert.open(built.path) as other, pytest.raises(UsageError, match="no early exits"):
        other.set_exits(Chosen(exit=1))
    with Expert.open(built.path) as other, pytest.raises(UsageError, match="no early exits"):
        other.answered(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match="frozen"):
        Chosen(exit=1).settings((), replace(PLAIN, frozen=True))
    with pytest.raises(UsageError, match="One exit"):
        Chosen(exit=1).settings((), Exits((), (Exit("fine1"),)))


def changed(path: Path, **entries: Any) -> Path:
    manifest = json.loads((path / "manifest.json").read_text()) | entries
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_bundles_that_contradict_themselves(tmp_path: Path) -> None:
    for name, entries, said in (
        ("a", {"exits": None}, "stages, but decides in one"),
        ("b", {"exits": PLAIN.to_mapping() | {"of": [0, 1, 1]}}, "not every class is in a category"),
        ("c", {"exits": PLAIN.to_mapping() | {"thresholds": [1.0]}}, "thresholds"),
    ):
        path = changed(bundle(tmp_path / name, "staged"), **entries)
        with pytest.raises(BundleError, match=said):
            Expert.open(path)
    files = json.loads((path / "manifest.json").read_text())["files"]
    (tmp_path / "a" / "stage3.onnx").unlink()
    short = changed(tmp_path / "a", exits=PLAIN.to_mapping(), files={k: v for k, v in files.items() if "3" not in k})
    with pytest.raises(ModelError, match="A stage of the network is missing"):
        Expert.open(short)


def test_a_graph_that_says_more_than_its_manifest(tmp_path: Path, files: Any, tensors: Any) -> None:
    driven = replace(PLAIN, driven=True)
    two = replace(driven, exits=PLAIN.exits[:2], thresholds=(0.5,))
    with Expert.open(changed(bundle(tmp_path / "a", "nested"), exits=two.to_mapping())) as expert:
        assert expert.answered(tensors[:1]).exit.tolist() == [1]
        with pytest.raises(BundleError, match="names an exit that it does not have"):
            expert.answered(tensors[:1], {THRESHOLD: 0.0})
    none = replace(driven, categories=(), exits=tuple(Exit(one.fine) for one in PLAIN.exits), of=())
    with Expert.open(changed(bundle(tmp_path / "b", "nested"), exits=none.to_mapping())) as expert:
        assert {one.granularity for one in expert.predict(files)} == {"fine"}


def device(target: str = "orin-nano-8gb") -> dict[str, Any]:
    return {"device": load_target(target).to_mapping(), "target": target}


def test_a_plan_for_every_stage(jetson: Device, tmp_path: Path, files: Any, tensors: Any) -> None:
    """Compiled when it is first opened, found again, and taken along with the bundle."""
    path = bundle(tmp_path / "x.expert", "staged", **device())
    wanted = by_hand(tensors, PLAIN.thresholds, PLAIN.tolerance)
    for compiled_before in (0, 3):
        with Expert.open(path) as expert:
            assert isinstance(expert.session, StagedSession)
            assert [one.exit for one in expert.predict(files)] == [number for number, *_ in wanted]
            assert len(expert.notices) == (0 if compiled_before else 1)
    assert [plan.rpartition(b"/")[2] for plan in jetson.opened] == 2 * [b"expert.onnx", b"stage2.onnx", b"stage3.onnx"]
    assert len(jetson.compiled) == 3
    ready = compile_bundle(open_bundle(path))
    assert (ready.fresh, len(ready.later), len(jetson.compiled)) == (False, 2, 3)
    with reserve(path, force=True) as place:
        save_engine(open_bundle(path), place, ready)
    assert (path / "stage3.plan").read_bytes().endswith(b"stage3.onnx")
    shutil.rmtree(plans.folder())
    with Expert.open(path, trust_plan=True) as expert:
        assert [one.exit for one in expert.predict(files[:4])] == [number for number, *_ in wanted[:4]]
    assert len(jetson.compiled) == 3
    record = json.loads((path / "manifest.json").read_text())["engine"]
    with pytest.raises(BundleError, match=r"stage2\.plan was compiled from its stage2\.onnx"):
        Expert.open(changed(path, engine={**record, "later": {}}), trust_plan=True)
