"""Golden records of real builds: what is in them by ONNX Runtime alone, and what they find when an expert changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import branched
import numpy as np
import onnx
import onnxruntime
import pytest
from exitnets import network
from forest import forest
from on_device import Device
from onnx import numpy_helper
from rainbow import photos, rainbow

import expertc
from expertc.bundle import open_bundle, reserve
from expertc.engines import compile_bundle, save_engine
from expertc.errors import BundleError, DeviceMismatchError, UnsupportedError
from expertc.evaluate.calibration import calibration
from expertc.verify.agreement import check_bundle
from expertc.verify.golden import Golden

Array = np.ndarray[Any, Any]


def int8(folder: Path) -> dict[str, Any]:
    pictures = photos(folder / "photos", each=8)
    return {
        "precision": "int8", "max_drop": 40.0,
        "calibration": lambda source, chosen: calibration(
            str(pictures), source.card.preprocess, chosen.classes, taxonomy=source.card.taxonomy,
            progress=lambda done, total: None,
        ),
    }  # fmt: skip


MADE: dict[str, tuple[Callable[[], bytes], str, Callable[[Path], dict[str, Any]]]] = {
    "any batch": (lambda: rainbow().bytes(), "warm", lambda _: {"batch": None}),
    "two at a time": (lambda: rainbow().bytes(), "warm", lambda _: {"batch": 2}),
    "bytes": (lambda: rainbow().bytes(), "warm", lambda _: {"bake": True}),
    "gains": (lambda: rainbow(gained=True).bytes(), "warm", lambda _: {}),
    "fp16": (lambda: forest("separate").bytes(), "warm", lambda _: {"precision": "fp16"}),
    "int8": (lambda: forest("separate").bytes(), "warm", int8),
    "several outputs": (lambda: branched.several().full, "#1,#4", lambda _: {}),
    "nested": (lambda: network("gran"), "ray,owl,eel", lambda _: {"exits": "nested"}),
    "staged": (lambda: network("gran"), "ray,owl,eel", lambda _: {"exits": "staged"}),
}


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A bundle of each kind, to be read only."""
    folder, done = tmp_path_factory.mktemp("experts"), {}

    def made(kind: str) -> Path:
        if kind not in done:
            model, classes, options = MADE[kind]
            (folder / f"{kind}.onnx").write_bytes(model())
            done[kind] = expertc.build(
                folder / f"{kind}.onnx", classes=classes, output=folder / kind, measure_seconds=0, fuse="off",
                **options(folder),
            ).path  # fmt: skip
        return done[kind]

    return made


def by_hand(bundle: Path, golden: Any) -> dict[str, Array]:
    """What ONNX Runtime makes of the record's inputs, called as somebody would who has no expertc."""
    session = onnxruntime.InferenceSession(bundle / "expert.onnx", providers=["CPUExecutionProvider"])
    image, *beside = session.get_inputs()
    if beside and beside[0].name == "image":
        image, beside = beside[0], [image]
    controls = {name: golden[f"control_{at}"].astype(np.float32) for at, name in enumerate(golden["controls"])}
    assert controls.keys() == {value.name for value in beside}
    size = image.shape[0] if isinstance(image.shape[0], int) else 1
    calls = [golden["input"][start : start + size] for start in range(0, 2, size)]
    names = [value.name for value in session.get_outputs()]
    found = [session.run(names, {image.name: x, **controls}) for x in calls]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}


@pytest.mark.parametrize("kind", MADE)
def test_the_record_is_what_the_shipped_expert_gives(experts: Callable[[str], Path], kind: str) -> None:
    bundle = experts(kind)
    with np.load(bundle / "golden.npz") as file:
        golden = dict(file)
    assert golden["input"].shape[0] == 2
    assert golden["input"].dtype == (np.uint8 if kind == "bytes" else np.float32)
    recorded = {name: golden[f"output_{at}"] for at, name in enumerate(golden["outputs"])}
    # The rule of the staged form is the nested one's graph.
    other = experts("nested") if kind == "staged" else bundle
    wanted = by_hand(other, golden)
    assert recorded.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(recorded[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    if kind in ("nested", "staged"):
        assert golden["controls"].tolist() == ["threshold", "tolerance"]
        assert {"scores", "coarse", "exit", "granularity"} == recorded.keys()
    if kind == "gains":
        assert golden["control_0"].tolist() == [1.0, 0.5]
    listed = json.loads((bundle / "manifest.json").read_text())["files"]
    assert "golden.npz" not in listed


@pytest.mark.parametrize("kind", MADE)
def test_it_agrees_here_and_a_changed_expert_does_not(
    experts: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    found = check_bundle(open_bundle(experts(kind)), threads=2)
    assert found.passed, found.detail
    assert (found.inputs, found.decided_otherwise, found.notices) == (2, 0, ())
    assert found.largest_difference < 1e-6
    copy = Path(shutil.copytree(experts(kind), tmp_path / "copy"))
    tamper(copy)
    found = check_bundle(open_bundle(copy))
    assert not found.passed
    assert found.largest_difference > found.allowed or found.decided_otherwise
    assert json.dumps(found.to_mapping(), allow_nan=False)


def tamper(bundle: Path) -> None:
    """Turn every weight of two axes or more around, and make the hash fit again."""
    path = bundle / "expert.onnx"
    model = onnx.load(path)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    for tensor in weights:
        tensor.CopyFrom(numpy_helper.from_array(np.flip(numpy_helper.to_array(tensor)).copy(), tensor.name))
    path.write_bytes(model.SerializeToString(deterministic=True))
    rehash(bundle, "expert.onnx")


def rehash(bundle: Path, name: str) -> None:
    manifest, data = json.loads((bundle / "manifest.json").read_text()), (bundle / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_photos_are_what_is_recorded_if_there_are_any(full: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(3).random((3, 3, 8, 8), np.float32)
    done = expertc.build(full, classes="warm", output=tmp_path / "a", measure_seconds=0, images=images)
    np.testing.assert_array_equal(Golden.read(tmp_path / "a" / "golden.npz").input, images[:2])
    assert done.certificate.golden == (tmp_path / "a" / "golden.npz").read_bytes()
    assert "golden" not in done.certificate.to_mapping()


def test_without_verification_there_is_none(full: Path, tmp_path: Path) -> None:
    expertc.build(full, classes="warm", output=tmp_path / "a", measure_seconds=0, verification="off")
    bundle = open_bundle(tmp_path / "a")
    assert bundle.golden is None
    with pytest.raises(BundleError, match="carries no golden record") as caught:
        check_bundle(bundle)
    assert "--verify off" in caught.value.hint


def test_a_record_of_another_expert(experts: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(experts("any batch"), tmp_path / "copy"))
    for other in ("gains", "nested", "bytes"):
        shutil.copy(experts(other) / "golden.npz", copy)
        with pytest.raises(BundleError, match="is another expert's"):
            check_bundle(open_bundle(copy))
    manifest = json.loads((copy / "manifest.json").read_text()) | {"precision": "fp3"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="in no precision that is known"):
        check_bundle(open_bundle(copy))


def test_on_a_device_and_where_the_device_is_missing(jetson: Device, full: Path, tmp_path: Path) -> None:
    path = expertc.build(full, classes="warm", output=tmp_path / "a", target="orin-nano-8gb").path
    before = (path / "golden.npz").read_bytes()
    with reserve(path, force=True) as output:
        save_engine(open_bundle(path), output, compile_bundle(open_bundle(path)))
    assert (path / "golden.npz").read_bytes() == before
    found = check_bundle(open_bundle(path), strict=True)
    assert (found.passed, found.notices, len(jetson.opened)) == (True, (), 1)
    jetson.missing = UnsupportedError("There is no CUDA driver.", "Install one.")
    found = check_bundle(open_bundle(path))
    assert found.passed
    assert "on the processor with ONNX Runtime" in found.notices[0]
    with pytest.raises(DeviceMismatchError, match="no engine"):
        check_bundle(open_bundle(path), strict=True)
