"""Triton: config.pbtxt is a ModelConfig, and what Triton's backend of ONNX Runtime asks of one is true of the graph.

Triton itself is a server in a container; ``triton_rules`` is its look at a model when it loads one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import exiting
import numpy as np
import pytest
from on_device import Device
from packaged import SPEC, as_pixels, bundle_of, calibrated, network, pictures
from PIL import Image
from rainbow import COLOURS, rainbow
from triton_rules import loads, model_config, session_of

from expertc import Expert, build
from expertc.bundle import open_bundle, reserve
from expertc.engines import compile_bundle, save_engine
from expertc.errors import BundleError, UnsupportedError, UsageError
from expertc.exits import EXIT, GRANULARITY, SCORES
from expertc.package import package
from expertc.runtime.preprocess import scaled


@pytest.fixture(scope="module")
def proto() -> ModuleType:
    return model_config()


@pytest.mark.parametrize(
    ("spec", "more", "batch", "dims"),
    [
        (SPEC, {}, 0, [1, 3, 6, 9]),
        (SPEC, {"batch": 4}, 0, [4, 3, 6, 9]),
        (SPEC, {"batch": None}, 8, [3, 6, 9]),
        (SPEC, {"batch": None, "bake": True}, 8, [6, 9, 3]),
        (replace(SPEC, dtype="float16", layout="NHWC"), {"batch": None}, 8, [6, 9, 3]),
        (None, {}, 0, [1, 3, 6, 9]),
    ],
)
def test_the_bundles_own_file_as_it_is(
    spec: Any, more: dict[str, Any], batch: int, dims: list[int], proto: ModuleType, tmp_path: Path
) -> None:
    bundle = bundle_of(network(spec), tmp_path, **more)
    folder = package(bundle, "triton", tmp_path / "models").path
    assert folder == tmp_path / "models" / "trees"
    config = loads(folder, proto)
    assert (config.max_batch_size, list(config.input[0].dims)) == (batch, dims)
    assert config.output[0].label_filename == "labels.txt"
    assert (folder / "labels.txt").read_bytes() == (bundle / "labels.txt").read_bytes()
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle / "expert.onnx").read_bytes()
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert config.parameters["expertc.manifest_sha256"].string_value == digest
    assert proto.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_CPU"


def test_one_for_a_gpu(proto: ModuleType, tmp_path: Path) -> None:
    bundle = bundle_of(network(), tmp_path, target="orin-nano-8gb", batch=None)
    folder = package(bundle, "triton", tmp_path / "models", name="trees.v2", max_batch=16).path
    config = loads(folder, proto)
    assert (config.name, config.max_batch_size) == ("trees.v2", 16)
    assert proto.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"


def test_gains_become_constants_at_their_defaults(proto: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "full.onnx").write_bytes(rainbow(gained=True).bytes())
    bundle = build(
        tmp_path / "full.onnx", classes="warm", output=tmp_path / "warm.expert", verification="off",
        measure_seconds=0, batch=None,
    ).path  # fmt: skip
    folder = package(bundle, "triton", tmp_path / "models").path
    config = loads(folder, proto)
    assert [one.name for one in config.input] == ["image"]
    assert config.max_batch_size == 8
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8), np.float32)
    [got] = session_of(folder).run(None, {"image": x})
    with Expert.open(bundle) as expert:
        np.testing.assert_allclose(got, expert.scores(x), rtol=0, atol=1e-6)
        assert np.abs(got - expert.scores(x, {"gain": 1.0})).max() > 0.1
    assert "gain" in (folder / "README.txt").read_text()


@pytest.mark.parametrize("form", ["nested", "staged"])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_early_exits_are_decided_in_one_graph_for_one_client(
    form: str, batch: int | str, proto: ModuleType, tmp_path: Path
) -> None:
    """Stages become one graph; whose thresholds are the bundle's, and which no two requests share."""
    settings = {"threshold": (0.45, 0.3), "tolerance": (0.1,)}  # others than the card's
    controls = [{"name": k, "default": list(v), "per_class": False, "shape": [len(v)]} for k, v in settings.items()]
    bundle = exiting.bundle(tmp_path / "exits.expert", form, batch, controls=controls)
    folder = package(bundle, "triton", tmp_path / "models").path
    config = loads(folder, proto)
    assert config.max_batch_size == 0
    assert [one.name for one in config.input] == ["image"]
    assert {one.name: one.label_filename for one in config.output if one.label_filename} == {
        "scores": "labels.txt",
        "coarse": "categories.txt",
    }
    assert (folder / "categories.txt").read_text() == "warm\ncold\n"
    session, taken = session_of(folder), set()
    with Expert.open(bundle) as expert:
        for level, colour in itertools.product(np.linspace(0, 1, 8), COLOURS.values()):
            dark = np.zeros((1, 3, 8, 8), np.float32) + np.reshape(np.float32(colour), (3, 1, 1)) * np.float32(
                level / 255
            )
            got = dict(
                zip([one.name for one in session.get_outputs()], session.run(None, {"image": dark}), strict=True)
            )
            wanted = expert.answered(dark)
            np.testing.assert_allclose(got[SCORES], wanted.scores, rtol=0, atol=1e-5)
            assert got[EXIT] == wanted.exit
            assert got[GRANULARITY] == wanted.fine
            taken.add(int(got[EXIT][0]))
    assert taken == {1, 2, 3}
    with pytest.raises(UsageError, match="all images of a call"):
        package(bundle, "triton", tmp_path / "models", max_batch=4, force=True)


def test_the_readme_prepares_a_photo_as_the_bundle_does(proto: ModuleType, tmp_path: Path) -> None:
    """Its lines are run, with a client that runs the packaged graph in place of a server."""
    bundle = bundle_of(network(), tmp_path)
    folder = package(bundle, "triton", tmp_path / "models").path
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 40, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.jpg", quality=95)
    lines = (folder / "README.txt").read_text().split("so a photo is prepared by who asks\n")[1]
    stub = f"""
import onnxruntime, sys, types
class InferInput:
    def __init__(self, name, shape, kind):
        self.about = name, list(shape), kind
    def set_data_from_numpy(self, x):
        assert self.about == ("image", list(x.shape), "FP32") and str(x.dtype) == "float32"
        self.x = x
class Client:
    def __init__(self, url): self.session = onnxruntime.InferenceSession({str(folder / "1" / "model.onnx")!r})
    def infer(self, name, inputs, outputs):
        assert name == "trees"
        self.found = self.session.run(None, {{"image": inputs[0].x}})[0]
        return self
    def as_numpy(self, name): return self.found.tolist()
made = types.ModuleType("tritonclient.http")
made.InferInput, made.InferenceServerClient = InferInput, Client
made.InferRequestedOutput = lambda name, class_count: (name, class_count)
parent = types.ModuleType("tritonclient")
parent.http = made
sys.modules |= {{"tritonclient": parent, "tritonclient.http": made}}
"""
    program = stub + "\n".join(line[2:] for line in lines.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    from expertc.runtime import load_image
    from expertc.runtime.preprocess import apply

    with Expert.open(bundle) as expert:
        wanted = expert.scores(apply(load_image(tmp_path / "photo.jpg"), SPEC)[None])
    np.testing.assert_allclose(json.loads(done.stdout), wanted, rtol=0, atol=1e-4)


def test_the_readme_says_when_a_photo_shows_none_of_the_classes(tmp_path: Path) -> None:
    bundle = calibrated(bundle_of(network(), tmp_path), "max-logit", 1.25)
    text = (package(bundle, "triton", tmp_path / "models").path / "README.txt").read_text()
    assert text.endswith("A photo shows none of these classes\n  if its max-logit, scores.max(),\n  is below 1.25\n")


# -- the plan in the bundle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "most"), [(1, 0), (None, 8)])
def test_a_plan_only_when_it_is_asked_for(
    batch: int | None, most: int, jetson: Device, proto: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = bundle_of(network(), tmp_path, target="orin-nano-8gb", batch=batch)
    with pytest.raises(BundleError, match=r"no engine\.plan") as caught:
        package(path, "triton", tmp_path / "models", engine=True)
    assert "--save-engine" in caught.value.hint
    bundle = open_bundle(path)
    with reserve(path, force=True) as place:
        save_engine(bundle, place, compile_bundle(bundle))
    plain = package(path, "triton", tmp_path / "plain").path
    assert loads(plain, proto).platform == "onnxruntime_onnx"
    assert not list(plain.rglob("*.plan"))
    folder = package(path, "triton", tmp_path / "models", engine=True).path
    config = loads(folder, proto)
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", most)
    assert (folder / "1" / "model.plan").read_bytes() == (path / "engine.plan").read_bytes()
    assert not list(folder.rglob("*.onnx"))
    text = " ".join((folder / "README.txt").read_text().split())
    assert "tensorrt 10.3.0, device Orin, sm 8.7" in text
    assert "native code" in text
    if most:
        with pytest.raises(UsageError, match="up to 8 images"):
            package(path, "triton", tmp_path / "models", engine=True, max_batch=9, force=True)


def test_a_plan_of_another_network(jetson: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = bundle_of(network(), tmp_path, target="orin-nano-8gb")
    bundle = open_bundle(path)
    with reserve(path, force=True) as place:
        save_engine(bundle, place, compile_bundle(bundle))
    record = json.loads((path / "manifest.json").read_text())["engine"] | {"onnx": "0" * 64}
    with reserve(path, force=True) as place:
        place.again(open_bundle(path), {}, {"engine": record}, {})
    with pytest.raises(BundleError, match="was compiled from"):
        package(path, "triton", tmp_path / "models", engine=True)


def test_a_plan_with_inputs_that_nobody_feeds(tmp_path: Path) -> None:
    (tmp_path / "full.onnx").write_bytes(rainbow(gained=True).bytes())
    path = build(
        tmp_path / "full.onnx", classes="warm", output=tmp_path / "warm.expert", verification="off",
        measure_seconds=0, target="orin-nano-8gb",
    ).path  # fmt: skip
    with reserve(path, force=True) as place:
        place.again(open_bundle(path), {"engine.plan": b"a plan"}, {}, {})
    with pytest.raises(UnsupportedError, match="inputs beside the image"):
        package(path, "triton", tmp_path / "models", engine=True)


def test_scores_from_bytes(tmp_path: Path) -> None:
    """What takes bytes is given the pixels as they are."""
    spec = replace(SPEC, resize=SPEC.size)
    plain, baked = (
        bundle_of(network(spec), tmp_path),
        bundle_of(network(spec), tmp_path, "baked", bake=True, batch=None),
    )
    pixels = as_pixels(pictures())
    got = session_of(package(baked, "triton", tmp_path / "models").path).run(None, {"pixels": pixels})[0]
    with Expert.open(plain) as expert:
        np.testing.assert_allclose(got, expert.scores(scaled(pixels, spec)), rtol=0, atol=1e-4)
