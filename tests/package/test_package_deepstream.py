"""DeepStream: every key is one that nvinfer knows, and what nvinfer would feed and read gives what the bundle says.

nvinfer itself runs on NVIDIA's GPUs only. Its arithmetic, ``y = net-scale-factor * (x - offset)``, and its parser of
classifiers are done here in numpy, from its documentation.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exiting
import numpy as np
import onnx
import pytest
from networks import Array, run
from packaged import CLASSES, SIZE, SPEC, as_pixels, bundle_of, calibrated, network, pictures
from PIL import Image
from rainbow import rainbow

from expertc import Expert, build
from expertc.card import CARD_KEY, Card, Preprocess
from expertc.errors import CardError, UnsupportedError, UsageError
from expertc.package import package
from expertc.runtime.dataset import open_dataset
from expertc.runtime.preprocess import apply
from expertc.runtime.scores import scope_score

# "Gst-nvinfer File Configuration Specifications", tables "Gst-nvinfer Property Group Supported Keys" and those of
# classifiers, at docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html; ranges where the
# table gives them, and of the enumerations it points to.
WHOLE, REAL, FILE, NAME = r"\d+", r"\d+(\.\d+)?(e-?\d+)?", r"[A-Za-z0-9._-]+", r"[A-Za-z0-9._/-]+"
KEYS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "gpu-id": (WHOLE, lambda v: True),
    "gie-unique-id": (WHOLE, lambda v: int(v) > 0),
    "process-mode": (WHOLE, lambda v: int(v) in (1, 2)),
    "operate-on-gie-id": (WHOLE, lambda v: int(v) > 0),
    "network-type": (WHOLE, lambda v: int(v) == 1),  # 1: classifier
    "onnx-file": (FILE, lambda v: True),
    "model-engine-file": (FILE, lambda v: True),
    "int8-calib-file": (FILE, lambda v: True),
    "network-mode": (WHOLE, lambda v: int(v) in (0, 1, 2)),
    "batch-size": (WHOLE, lambda v: 1 <= int(v) <= 1024),
    "infer-dims": (r"\d+;\d+;\d+", lambda v: int(v.split(";")[0]) in (1, 3)),
    "network-input-order": (WHOLE, lambda v: int(v) in (0, 1)),
    "model-color-format": (WHOLE, lambda v: int(v) in (0, 1, 2)),
    "net-scale-factor": (REAL, lambda v: float(v) > 0),
    "offsets": (f"({REAL};){{2}}{REAL}", lambda v: True),
    "maintain-aspect-ratio": (WHOLE, lambda v: int(v) in (0, 1)),
    "scaling-filter": (WHOLE, lambda v: 0 <= int(v) <= 6),
    "output-blob-names": (NAME, lambda v: True),
    "labelfile-path": (FILE, lambda v: True),
    "classifier-threshold": (REAL, lambda v: float(v) >= 0),
}


def configuration(folder: Path, name: str = "config_infer_primary.txt") -> dict[str, str]:
    """The one group of a configuration, as GLib reads key files; every key and value is looked up."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((folder / name).read_text(encoding="ascii"))
    assert parser.sections() == ["property"]
    found = dict(parser["property"])
    for key, value in found.items():
        pattern, sound = KEYS[key]
        assert re.fullmatch(pattern, value), (key, value)
        assert sound(value), (key, value)
    assert (folder / found["onnx-file"]).is_file()
    assert (folder / found["labelfile-path"]).is_file()
    if found["network-mode"] == "1":  # else nvinfer falls back to halves
        assert (folder / found["int8-calib-file"]).is_file()
    assert found["infer-dims"].split(";")[0] == "3"
    return found


def nvinfer(folder: Path, pixels: Array, name: str = "config_infer_primary.txt") -> list[tuple[str, float] | None]:
    """What is attached to frames, RGB bytes ``[N, H, W, 3]`` that need no scaling: label and confidence, or nothing."""
    config = configuration(folder, name)
    assert tuple(map(int, config["infer-dims"].split(";"))) == (3, *pixels.shape[1:3])
    frames = pixels[..., ::-1] if config["model-color-format"] == "1" else pixels
    offsets = np.array([float(value) for value in config["offsets"].split(";")], np.float32).reshape(3, 1, 1)
    fed = np.float32(config["net-scale-factor"]) * (frames.transpose(0, 3, 1, 2).astype(np.float32) - offsets)
    onnx.checker.check_model(folder / config["onnx-file"], full_check=True)
    proto = onnx.load(folder / config["onnx-file"])
    [image], [output] = proto.graph.input, proto.graph.output
    assert image.type.tensor_type.elem_type == output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert output.name == config["output-blob-names"]
    fixed = image.type.tensor_type.shape.dim[0].dim_value
    assert int(config["batch-size"]) == fixed or not fixed
    parts = [fed] if not fixed else [fed[at : at + 1] for at in range(len(fed))]
    rows = np.concatenate([run(proto, {image.name: part})[output.name] for part in parts])
    labels = (folder / config["labelfile-path"]).read_text().rstrip("\n").split(";")
    assert rows.shape == (len(pixels), len(labels))
    found: list[tuple[str, float] | None] = []
    for row in rows:
        best = int(row.argmax())
        above = row[best] > float(config["classifier-threshold"]) and row[best] > 0
        found.append((labels[best], float(row[best])) if above else None)
    return found


def agrees(bundle: Path, folder: Path, images: list[Image.Image], close: float = 1e-5) -> list[Any]:
    """What nvinfer attaches to each image is what the bundle predicts, where it does not reject it."""
    with Expert.open(bundle) as expert:
        told = expert.predict(images)
    attached = nvinfer(folder, as_pixels(images))
    for prediction, found in zip(told, attached, strict=True):
        if prediction.none_of_these:
            assert found is None
            continue
        assert found is not None
        assert found[0] == prediction.labels[0][0]
        assert found[1] == pytest.approx(prediction.labels[0][1], abs=close)
    return attached


EXACT = replace(SPEC, resize=SIZE)


@pytest.mark.parametrize(
    ("spec", "kind", "more"),
    [
        (EXACT, "logits", {}),
        (EXACT, "logits", {"batch": None}),
        (replace(EXACT, std=(0.25,) * 3, colour="BGR"), "logits", {}),
        (replace(EXACT, colour="BGR", layout="NHWC"), "logits", {}),
        (replace(EXACT, layout="NHWC"), "joint", {"batch": None}),
        (EXACT, "probabilities", {}),
        (EXACT, "scores", {}),
        (EXACT, "logits", {"bake": True}),
        (replace(EXACT, colour="BGR"), "logits", {"bake": True, "batch": None}),
        (EXACT.as_bytes(), "logits", {}),
    ],
)
def test_frames_are_answered_as_the_bundle_answers(spec: Preprocess, kind: str, more: dict[str, Any], tmp_path: Path):
    bundle = bundle_of(network(spec, kind), tmp_path, **more)
    made = package(bundle, "deepstream", tmp_path / "out")
    attached = agrees(bundle, made.path, pictures())
    assert len({found[1] for found in attached if found}) == len(attached)  # it is not all the same


def test_the_scale_is_nvinfers_own_where_it_can_be(tmp_path: Path) -> None:
    """Three equal deviations are one factor and offsets; only what differs between channels is left to the graph."""
    for std, multiplied in (((0.25,) * 3, False), ((0.1, 0.2, 0.4), True)):
        bundle = bundle_of(network(replace(EXACT, std=std)), tmp_path, f"a{multiplied}")
        folder = package(bundle, "deepstream", tmp_path / "out").path
        config = configuration(folder)
        assert float(config["net-scale-factor"]) == pytest.approx(1 / (255 * sum(std) / 3), rel=1e-8)
        assert [float(value) for value in config["offsets"].split(";")] == pytest.approx([51, 127.5, 178.5], rel=1e-8)
        proto = onnx.load(folder / "model.onnx")
        assert ("Mul" in {node.op_type for node in proto.graph.node}) is multiplied
        card = Card.from_json({entry.key: entry.value for entry in proto.metadata_props}[CARD_KEY])
        assert card.preprocess is not None  # which says of the packaged graph what is true of it
        assert set(card.preprocess.std) == {sum(std) / 3}
        assert (card.outputs[0].name, card.outputs[0].kind) == ("probabilities", "probabilities")


@pytest.mark.parametrize("opset", [12, 17, 18])
@pytest.mark.parametrize(
    ("score", "kind"), [("energy", "logits"), ("max-logit", "logits"), ("max-probability", "joint")]
)
def test_a_frame_of_none_of_the_classes_gets_no_label(opset: int, score: str, kind: str, tmp_path: Path) -> None:
    bundle = bundle_of(network(EXACT, kind, opset=opset), tmp_path, batch=None)
    with Expert.open(bundle) as expert:
        levels = [scope_score(score, expert.scores(np.stack([made]), None), kind)[0] for made in map(fed, pictures())]
    calibrated(bundle, score, float(np.median(levels)) + 1e-6)
    attached = agrees(bundle, package(bundle, "deepstream", tmp_path / "out").path, pictures())
    assert 0 < sum(found is None for found in attached) < len(attached)


def fed(image: Image.Image) -> Array:
    return apply(image, EXACT)


def test_gains_are_constants_at_what_the_bundle_says(tmp_path: Path) -> None:
    (tmp_path / "full.onnx").write_bytes(rainbow(gained=True).bytes())
    bundle = build(
        tmp_path / "full.onnx", classes="warm", output=tmp_path / "warm.expert", verification="off", measure_seconds=0
    ).path
    random = np.random.default_rng(1)
    images = [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(4)]
    folder = package(bundle, "deepstream", tmp_path / "out").path
    agrees(bundle, folder, images)
    assert "gain are constants" in " ".join((folder / "README.txt").read_text().split())


def test_halves(tmp_path: Path) -> None:
    """Halves inside and at both ends; nvinfer feeds and reads single precision."""
    bundle = bundle_of(network(replace(EXACT, dtype="float16")), tmp_path)
    agrees(bundle, package(bundle, "deepstream", tmp_path / "out").path, pictures(), close=2e-3)
    fp16 = bundle_of(network(EXACT), tmp_path, "fp16", target="orin-nano-8gb", precision="fp16")
    made = package(fp16, "deepstream", tmp_path / "out")
    config = configuration(made.path)
    assert (config["network-mode"], config["model-engine-file"]) == ("2", "model.onnx_b1_gpu0_fp16.engine")
    agrees(fp16, made.path, pictures(), close=2e-3)
    assert not [note for note in made.notes if "built for" in note]


def test_real_photos_of_the_bundled_model(data_dir: Path, tmp_path: Path) -> None:
    bundle = build(
        classes="sharks,rays", output=tmp_path / "a.expert", verification="off", measure_seconds=0, batch=None
    ).path
    folder = package(bundle, "deepstream", tmp_path / "out", max_batch=4).path
    assert configuration(folder)["batch-size"] == "4"
    photos = open_dataset(data_dir / "sea-animals-128")
    images = []
    for index in range(0, len(photos), len(photos) // 8):
        with Image.open(photos.open(index)) as photo:
            images.append(photo.convert("RGB").resize((112, 112), Image.Resampling.BICUBIC))
    assert len({found[0] for found in agrees(bundle, folder, images, close=1e-4)}) == 2


def test_objects_of_a_detector(tmp_path: Path) -> None:
    bundle = bundle_of(network(EXACT), tmp_path)
    folder = package(bundle, "deepstream", tmp_path / "out", objects_of=3).path
    config = configuration(folder, "config_infer_secondary.txt")
    assert [config[key] for key in ("process-mode", "operate-on-gie-id", "gie-unique-id")] == ["2", "3", "4"]
    assert nvinfer(folder, as_pixels(pictures()), "config_infer_secondary.txt")
    assert not (folder / "config_infer_primary.txt").exists()
    assert (
        "process-mode=1"
        in (package(bundle, "deepstream", tmp_path / "b").path / "config_infer_primary.txt").read_text()
    )


def test_the_readme_says_what_nvinfer_shows_it(tmp_path: Path) -> None:
    """A short side of 256 and a crop of 224, of a frame of 1920 x 1080: 945 pixels of it, by hand."""
    spec = Preprocess.imagenet()
    bundle = bundle_of(big(spec), tmp_path)
    made = package(bundle, "deepstream", tmp_path / "out")
    text = " ".join((made.path / "README.txt").read_text().split())
    for words in ("0.49 times as wide and 0.88 times as high", "the middle 43%", "src-crop=488:68:944:944"):
        assert words in text
    assert any("0.49 times as wide" in note for note in made.notes)
    assert configuration(made.path)["scaling-filter"] == "2"
    same = package(bundle_of(network(EXACT), tmp_path, "same"), "deepstream", tmp_path / "out").path
    assert "src-crop" not in (same / "README.txt").read_text()


def big(spec: Preprocess) -> bytes:
    from networks import Net
    from networks import card as flat

    net = Net(17)
    net.result(net.head(net.image(3, *spec.size), 3, 3), 3, name="scores")
    net.metadata = {CARD_KEY: replace(flat(CLASSES), preprocess=spec).to_json()}
    return net.bytes()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda folder: bundle_of(network(None), folder), CardError, "how a picture becomes"),
        (lambda folder: bundle_of(network(labels=("oak",)), folder), UnsupportedError, "single class"),
        (lambda folder: bundle_of(network(), folder, batch=4), UnsupportedError, "exactly 4 images"),
        (lambda folder: exiting.bundle(folder / "a.expert", "nested"), UnsupportedError, "early exits"),
        (lambda folder: exiting.bundle(folder / "a.expert", "staged"), UnsupportedError, "early exits"),
        (lambda folder: exiting.bundle(folder / "a.expert", "staged", precision="int8"), UnsupportedError, "quantised"),
    ],
)
def test_what_nvinfer_cannot_run_is_refused(make: Any, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words) as caught:
        package(make(tmp_path), "deepstream", tmp_path / "out")
    assert getattr(caught.value, "hint", "")
    assert not (tmp_path / "out").exists()


def test_bytes_that_more_than_a_cast_reads(tmp_path: Path) -> None:
    from networks import Net
    from networks import card as flat
    from onnx import TensorProto

    net = Net(17)
    x = net.image(*SIZE, 3, dtype=TensorProto.UINT8)
    picked = net.node("Cast", net.node("Transpose", x, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    net.result(net.head(picked, 3, 3), 3, name="scores")
    net.metadata = {CARD_KEY: replace(flat(CLASSES), preprocess=EXACT.as_bytes()).to_json()}
    with pytest.raises(UnsupportedError, match="takes bytes"):
        package(bundle_of(net.bytes(), tmp_path), "deepstream", tmp_path / "out")


def test_a_batch_that_the_expert_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one image per call"):
        package(bundle_of(network(), tmp_path), "deepstream", tmp_path / "out", max_batch=8)


def test_exits_that_are_all_computed_answer_with_the_last(tmp_path: Path) -> None:
    (tmp_path / "full.onnx").write_bytes(exiting.plain())
    bundle = build(
        tmp_path / "full.onnx", classes="warm,greens", output=tmp_path / "a.expert", verification="off",
        measure_seconds=0, exits="plain",
    ).path  # fmt: skip
    folder = package(bundle, "deepstream", tmp_path / "out").path
    random = np.random.default_rng(1)
    agrees(bundle, folder, [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(4)])
    assert len(onnx.load(folder / "model.onnx").graph.output) == 1


def test_the_marker_names_the_bundle(tmp_path: Path) -> None:
    import hashlib

    bundle = bundle_of(network(), tmp_path)
    folder = package(bundle, "deepstream", tmp_path / "out").path
    marker = json.loads((folder / "package.json").read_text())
    assert marker["bundle"]["manifest_sha256"] == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert marker["files"].keys() == {path.name for path in folder.iterdir()} - {"package.json"}


def test_eight_bits_for_a_device(tmp_path: Path) -> None:
    """nvinfer turns them on only where a table is named, and TensorRT reads the ranges in the graph."""
    photos = np.stack([fed(image) for image in pictures(16)])
    given = SimpleNamespace(observed=photos[:8], judged=photos[8:], notes=())
    bundle = bundle_of(
        network(EXACT), tmp_path, target="orin-nano-8gb", precision="int8", max_drop=99.0,
        calibration=lambda source, selection: given,
    )  # fmt: skip
    folder = package(bundle, "deepstream", tmp_path / "out").path
    config = configuration(folder)
    assert (config["network-mode"], config["model-engine-file"]) == ("1", "model.onnx_b1_gpu0_int8.engine")
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    agrees(bundle, folder, pictures(), close=1e-4)


def test_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep the name that the graph calls them, and lie beside it."""
    monkeypatch.setattr("expertc.graph.write.EXTERNAL_ABOVE", 100)
    bundle = bundle_of(network(EXACT, width=64), tmp_path)
    folder = package(bundle, "deepstream", tmp_path / "out").path
    agrees(bundle, folder, pictures())
    repository = package(bundle, "triton", tmp_path / "models").path
    for place, name in ((folder, "model.onnx.data"), (repository / "1", "expert.onnx.data")):
        assert [path.name for path in place.glob("*.data")] == [name]
        assert name in (place / "model.onnx").read_bytes().decode("latin-1")
