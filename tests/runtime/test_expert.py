from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from expertc.bundle import write_bundle
from expertc.card import Preprocess
from expertc.errors import BundleError, CardError, UsageError
from expertc.runtime import Expert, expand_images
from expertc.runtime.scores import probabilities

SPEC = Preprocess((8, 8), 8, "bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
RED, GREEN, PINK = (Image.new("RGB", (12, 9), colour) for colour in ("red", "lime", (255, 127, 127)))


def network(weights: np.ndarray, batch: int | str = "N", height: int = 8) -> bytes:
    """ONNX: the mean of each colour channel of [batch, 3, height, 8], times ``weights`` [3, classes]."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("MatMul", ["means", "weights"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, height, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [onnx.numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class Maker:
    """Writes bundles of ``network`` and opens them; closes them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.opened = folder, 0, list[Expert]()

    def write(
        self, weights: Any = None, labels: str = "reds\ngreens\nblues\n", kind: str = "logits", *,
        batch: int | str = "N", height: int = 8, preprocess: Preprocess | None = SPEC, **manifest: Any,
    ) -> Path:  # fmt: skip
        weights = np.eye(3) if weights is None else np.asarray(weights)
        files = {"expert.onnx": network(weights, batch, height), "labels.txt": labels.encode()}
        if preprocess is not None:
            files["preprocess.json"] = json.dumps(preprocess.to_mapping()).encode()
        described = {
            "input": {"name": "image", "shape": [None, 3, 8, 8]},
            "output": {"name": "out", "kind": kind, "axis": 1},
        }
        self.made += 1
        return write_bundle(self.folder / f"{self.made}.expert", files, described | manifest, {})

    def __call__(self, *args: Any, **options: Any) -> Expert:
        self.opened.append(Expert.open(self.write(*args, **options)))
        return self.opened[-1]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    maker = Maker(tmp_path)
    yield maker
    for expert in maker.opened:
        expert.close()


def test_predict_end_to_end(make: Maker, tmp_path: Path) -> None:
    """Against ONNX Runtime run by hand on a tensor made by hand."""
    path = make.write(np.eye(3) * 5)
    PINK.save(tmp_path / "pink.png")
    with Expert.open(path, threads=1) as expert:
        (prediction,) = expert.predict([tmp_path / "pink.png"])
    tensor = np.empty((1, 3, 8, 8), np.float32)
    tensor[0, 0], tensor[0, 1:] = 1, 127 / 255
    session = onnxruntime.InferenceSession(str(path / "expert.onnx"), providers=["CPUExecutionProvider"])
    red, green, blue = session.run(None, {"image": tensor})[0][0].tolist()
    whole = math.exp(red) + math.exp(green) + math.exp(blue)
    assert [label for label, _ in prediction.labels] == ["reds", "greens", "blues"]
    assert [share for _, share in prediction.labels] == pytest.approx(
        [math.exp(red) / whole, math.exp(green) / whole, math.exp(blue) / whole], rel=1e-9
    )
    assert (prediction.image, prediction.error, prediction.raw) == (str(tmp_path / "pink.png"), None, False)


def test_kinds_of_sources_may_be_mixed(make: Maker, tmp_path: Path) -> None:
    expert = make()
    RED.save(tmp_path / "a.png")
    data = io.BytesIO()
    RED.save(data, "PNG")
    array = np.asarray(RED)
    with Image.open(tmp_path / "a.png") as opened:
        images = [tmp_path / "a.png", str(tmp_path / "a.png"), data.getvalue(), data, RED, opened, array, array[..., 0]]
        found = expert.predict(images)
    assert [p.error for p in found] == [None] * 8
    assert [p.labels[0][0] for p in found] == ["reds"] * 8
    name = str(tmp_path / "a.png")
    assert [p.image for p in found] == [name, name, "#2", "#3", "#4", name, "#6", "#7"]


@pytest.mark.parametrize("given", ["path", "name", "bytes", "stream", "image", "array"])
def test_one_image_alone_is_a_list_of_one(make: Maker, tmp_path: Path, given: str) -> None:
    GREEN.save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    sources = {"path": path, "name": str(path), "bytes": path.read_bytes(), "stream": io.BytesIO(path.read_bytes()),
               "image": GREEN, "array": np.asarray(GREEN)}  # fmt: skip
    (prediction,) = make().predict(sources[given])
    assert prediction.labels[0][0] == "greens"


def test_a_stack_of_arrays_is_several_images(make: Maker) -> None:
    found = make().predict(np.stack([np.asarray(RED), np.asarray(GREEN)]))
    assert [p.labels[0][0] for p in found] == ["reds", "greens"]


@pytest.mark.parametrize(("graph_batch", "batch"), [("N", 1), ("N", 3), ("N", 64), (1, 1), (1, 4), (3, 1), (5, 5)])
def test_batches_give_what_single_calls_give(make: Maker, graph_batch: int | str, batch: int) -> None:
    rng = np.random.default_rng(0)
    images: list[Any] = [rng.integers(0, 256, (10, 10, 3), dtype=np.uint8) for _ in range(7)]
    images.insert(2, b"junk")
    alone, many = make(np.eye(3) * 9), make(np.eye(3) * 9, batch=graph_batch)
    expected = [alone.predict([image])[0] for image in images]
    found = many.predict(images, batch=batch)
    assert [p.image for p in found] == [f"#{i}" for i in range(8)]
    for one, other in zip(expected, found, strict=True):
        assert [label for label, _ in one.labels] == [label for label, _ in other.labels]
        assert [p for _, p in one.labels] == pytest.approx([p for _, p in other.labels], rel=1e-6)
    assert [p.error is not None for p in found] == [False, False, True] + [False] * 5


@pytest.mark.parametrize(("graph_batch", "batch", "sizes"), [("N", 3, [3, 3, 1]), (1, 3, [1] * 7), (4, 1, [4, 3])])
def test_a_model_call_takes_as_many_images_as_it_can(
    make: Maker, monkeypatch: pytest.MonkeyPatch, graph_batch: int | str, batch: int, sizes: list[int]
) -> None:
    expert = make(batch=graph_batch)
    real, seen = expert._outputs, list[int]()
    monkeypatch.setattr(expert, "_outputs", lambda x, controls: seen.append(len(x)) or real(x, controls))
    expert.predict([RED] * 7, batch=batch)
    assert seen == sizes


def test_a_bad_image_is_reported_by_name_while_the_others_go_on(make: Maker, tmp_path: Path) -> None:
    RED.save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:50])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    names = ["cut.png", "good.png", "text.jpg", "missing.jpg", "good.png", "empty.jpg"]
    for batch in (1, 2, 6):
        found = make().predict([tmp_path / name for name in names], batch=batch)
        assert [p.error is None for p in found] == [False, True, False, False, True, False]
        for name, prediction in zip(names, found, strict=True):
            assert prediction.image == str(tmp_path / name)
            assert prediction.error is None or (name in prediction.error and prediction.labels == ())


def test_only_bad_images(make: Maker) -> None:
    assert [p.error is None for p in make().predict([b"", b"x"], batch=2)] == [False, False]
    assert make().predict([]) == []


def test_top(make: Maker) -> None:
    expert = make()
    assert [label for label, _ in expert.predict([GREEN], top=1)[0].labels] == ["greens"]
    assert len(expert.predict([GREEN], top=2)[0].labels) == 2
    assert len(expert.predict([GREEN], top=99)[0].labels) == 3
    for wrong in ({"top": 0}, {"top": -1}, {"batch": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            expert.iter_predict([GREEN], **wrong)


def test_predictions_come_one_after_another(make: Maker) -> None:
    seen = []

    def images() -> Iterator[Image.Image]:
        for number, image in enumerate((RED, GREEN, PINK)):
            seen.append(number)
            yield image

    iterator = make().iter_predict(images())
    assert next(iterator).labels[0][0] == "reds"
    assert seen == [0]


def test_labels_stay_with_their_outputs(make: Maker) -> None:
    """The model's third output answers to green: the third label must win, whatever the labels' order."""
    expert = make(np.array([[0, 0, 0], [0, 0, 9], [0, 0, 0]]), "x\nb\na\n")
    assert expert.labels == ("x", "b", "a")
    assert expert.predict([GREEN])[0].labels[0][0] == "a"
    assert expert.scores(np.ones((1, 3, 8, 8), np.float32)).tolist() == [[0, 0, 9]]


def test_nan_is_an_error_of_that_image_only(make: Maker) -> None:
    """Green overflows to infinity minus infinity; red does not."""
    expert = make(np.array([[1, 0, 0], [np.nan, 0, 0], [0, 0, 0]]))
    (nan,) = expert.predict([GREEN])
    assert nan.labels == ()
    assert "no number" in str(nan.error)
    expert = make(np.array([[1, 0, 0], [3e38, 0, 0], [3e38, 0, 0]]))
    cyan = Image.new("RGB", (4, 4), "cyan")
    found = expert.predict([RED, cyan, RED], batch=3)
    assert [p.error is None for p in found] == [True, False, True]


def test_far_off_classes_are_still_ranked(make: Maker) -> None:
    """Their probabilities are all 0; the scores tell them apart."""
    prediction = make(np.array([[0, -9000, -8000], [0, 0, 0], [0, 0, 0]]), "a\nb\nc\n").predict([RED])[0]
    assert prediction.labels == (("a", 1.0), ("c", 0.0), ("b", 0.0))


def test_one_class_alone_gives_its_raw_score(make: Maker) -> None:
    prediction = make(np.array([[-2.5], [0], [0]]), "only\n").predict([RED])[0]
    assert prediction.raw
    assert prediction.labels == (("only", -2.5),)
    assert prediction.to_mapping()["predictions"] == [{"label": "only", "score": -2.5}]
    assert make(np.array([[np.nan], [0], [0]]), "only\n").predict([RED])[0].error


def test_probabilities_by_kind() -> None:
    scores = np.array([[1.0, 3.0, 4.0], [0.0, 0.0, 0.5]], np.float32)
    exponents = np.exp(scores.astype(np.float64))
    assert probabilities(scores, "logits") == pytest.approx(exponents / exponents.sum(axis=1, keepdims=True))
    assert probabilities(scores, "joint") == pytest.approx(np.array([[1 / 8, 3 / 8, 4 / 8], [0, 0, 1]]))
    for kind in ("probabilities", "scores"):
        assert np.array_equal(probabilities(scores, kind), scores)
    assert probabilities(np.array([[1e4, 1e4 - 1, -np.inf]]), "logits")[0] == pytest.approx(
        [1 / (1 + math.exp(-1)), math.exp(-1) / (1 + math.exp(-1)), 0]
    )
    assert np.isnan(probabilities(np.zeros((1, 2)), "joint")).all()


@pytest.mark.parametrize("kind", ["probabilities", "joint", "scores"])
def test_the_kind_is_read_from_the_manifest(make: Maker, kind: str) -> None:
    prediction = make(kind=kind).predict([PINK])[0]
    means = np.array([1, 127 / 255, 127 / 255])
    expected = means / means.sum() if kind == "joint" else means
    assert [p for _, p in prediction.labels] == pytest.approx(expected.tolist(), rel=1e-6)


def test_scores_takes_any_number_of_tensors(make: Maker) -> None:
    batch = np.random.default_rng(0).random((5, 3, 8, 8)).astype(np.float32)
    expected = batch.mean(axis=(2, 3), dtype=np.float64)
    for graph_batch in ("N", 1, 2, 5, 8):
        assert make(batch=graph_batch).scores(batch) == pytest.approx(expected, abs=1e-6)


def test_half_precision_and_channels_last_are_handed_through(make: Maker) -> None:
    spec = Preprocess((8, 8), 8, mean=(0.0,) * 3, std=(1.0,) * 3, dtype="float16")
    assert make(preprocess=spec).predict([GREEN])[0].labels[0][0] == "greens"


def test_json(make: Maker) -> None:
    good, bad = make().predict([GREEN, b"x"], top=2)
    assert list(good.to_mapping()) == ["image", "predictions"]
    assert [set(p) for p in json.loads(json.dumps(good.to_mapping()))["predictions"]] == [{"label", "probability"}] * 2
    assert bad.to_mapping() == {"image": "#1", "error": bad.error}


# -- bundles that contradict themselves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        None,
        [],
        {},
        {"name": "out", "kind": "guess", "axis": 1},
        {"name": "out", "kind": ["logits"], "axis": 1},
        {"name": "out", "kind": "logits", "axis": 0},
        {"name": "out", "kind": "logits"},
        {"name": "other", "kind": "logits", "axis": 1},
        {"name": ["out"], "kind": "logits", "axis": 1},
        {"kind": "logits", "axis": 1},
    ],
    ids=str,
)
def test_a_manifest_without_a_usable_output(make: Maker, output: Any) -> None:
    with pytest.raises(BundleError):
        make(output=output)


def test_more_labels_than_outputs(make: Maker) -> None:
    for labels in ("a\nb\n", "a\nb\nc\nd\n"):
        with pytest.raises(BundleError, match="labels"):
            make(labels=labels).predict([RED])


def test_preprocessing_for_another_model(make: Maker) -> None:
    for spec in (Preprocess((9, 8), 9), Preprocess((8, 8), 8, layout="NHWC")):
        with pytest.raises(BundleError, match="contradicts"):
            make(preprocess=spec)


def test_height_and_width_are_not_mixed_up(make: Maker) -> None:
    assert make(height=4, preprocess=Preprocess((4, 8), 8)).predict([GREEN])[0].error is None
    with pytest.raises(BundleError, match="contradicts"):
        make(height=4, preprocess=Preprocess((8, 4), 8))


def test_without_preprocessing_only_scores_work(make: Maker) -> None:
    expert = make(preprocess=None)
    assert expert.preprocess is None
    assert expert.scores(np.ones((1, 3, 8, 8), np.float32)).tolist() == [[1, 1, 1]]
    with pytest.raises(BundleError, match="become tensors"):
        expert.predict([RED])


def test_a_tampered_bundle_is_not_opened(make: Maker) -> None:
    path = make.write()
    (path / "labels.txt").write_text("greens\nreds\nblues\n")
    with pytest.raises(BundleError, match=r"labels\.txt"):
        Expert.open(path)


def test_malformed_preprocessing(make: Maker) -> None:
    path = write_bundle(
        make.folder / "m.expert",
        {"expert.onnx": network(np.eye(3)), "labels.txt": b"a\nb\nc\n", "preprocess.json": b"{}"},
        {"output": {"name": "out", "kind": "logits", "axis": 1}},
        {},
    )
    with pytest.raises((BundleError, CardError)):
        Expert.open(path)


def test_a_closed_expert_does_not_answer(make: Maker) -> None:
    expert = make()
    expert.close()
    with pytest.raises(ValueError, match="closed"):
        expert.predict([RED])


# -- what the command line hands over ------------------------------------------------------------------------------


def test_expand_images_and_predict(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    RED.save(tmp_path / "photos" / "b.PNG")
    GREEN.save(tmp_path / "photos" / "deep" / "a.jpg")
    (tmp_path / "photos" / "notes.txt").touch()
    paths = expand_images([tmp_path / "photos", tmp_path / "gone.jpg"])
    found = make().predict(paths)
    assert [Path(p.image).name for p in found] == ["b.PNG", "a.jpg", "gone.jpg"]
    assert [p.labels[0][0] if p.labels else p.error for p in found[:2]] == ["reds", "greens"]
    assert "does not exist" in str(found[2].error)
