"""Engines on a device that is simulated: which plan is opened, when one is compiled, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_device import LAYERS, Device
from rainbow import picture

from expertc import Expert, build
from expertc.backends.tensorrt import plans
from expertc.bundle import open_bundle, reserve
from expertc.engines import compile_bundle, save_engine
from expertc.errors import (
    BundleError,
    CompilationError,
    DeviceMismatchError,
    ExpertcError,
    FileSystemError,
    UnsupportedError,
    UsageError,
)  # fmt: skip
from expertc.machine import target_of
from expertc.targets import Target, load_target

NO_DRIVER = UnsupportedError("There is no CUDA driver.", "Install one.")


@pytest.fixture(scope="module")
def orin(full: Path) -> Path:
    """A bundle for the device, to be read only."""
    place = full.parent / "orin.expert"
    return build(full, classes="warm", output=place, target="orin-nano-8gb", verification="off").path


@pytest.fixture(scope="module")
def any_batch(full: Path) -> Path:
    """One that takes any number of images."""
    place = full.parent / "any.expert"
    return build(full, classes="warm", output=place, target="agx-orin-64gb", batch=None, verification="off").path


def cached() -> list[str]:
    return sorted(path.name for path in plans.folder().iterdir()) if plans.folder().exists() else []


def changed(bundle: Path, to: Path, **entries: Any) -> Path:
    """A copy whose manifest has other entries."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "manifest.json").read_text()) | entries
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_a_bundle_brings_the_profile_of_its_device(orin: Path, tmp_path: Path) -> None:
    """The device need not know it: it may be the builder's own."""
    assert target_of(open_bundle(orin)) == load_target("orin-nano-8gb")
    for name, data in (("a", {}), ("b", 3), ("c", {"description": "x", "backend": "cuda", "precisions": ["fp32"]})):
        with pytest.raises(BundleError, match="malformed"):
            target_of(open_bundle(changed(orin, tmp_path / name, device=data)))


def test_compiled_once_and_found_again(jetson: Device, orin: Path) -> None:
    first = compile_bundle(open_bundle(orin))
    assert (first.fresh, len(jetson.compiled)) == (True, 1)
    assert first.kept.path.read_bytes() == first.kept.data == f"1 {orin / 'expert.onnx'}".encode()
    assert plans.layers(first.kept) == LAYERS
    assert first.kept.record["notes"] == ["A note."]
    assert stat.S_IMODE(plans.folder().stat().st_mode) == 0o700
    assert jetson.compiled[0].workspace_mb is None  # a part of what is free there
    again = compile_bundle(open_bundle(orin))
    assert (again.fresh, again.kept.data, len(jetson.compiled)) == (False, first.kept.data, 1)
    assert compile_bundle(open_bundle(orin), force=True).fresh
    # Another release of TensorRT, another plan; another driver runs the same.
    jetson.with_release("10.7.0")
    assert compile_bundle(open_bundle(orin)).fresh
    assert len(jetson.compiled) == 3


def test_the_plan_that_was_asked_for_last_is_opened(jetson: Device, orin: Path, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.png", "yellows")
    compile_bundle(open_bundle(orin), workspace_mb=100)
    compile_bundle(open_bundle(orin), workspace_mb=200)
    with Expert.open(orin) as expert:
        assert expert.notices == ()
        (answer,) = expert.predict(photo)
    assert answer.labels[0][0] == "yellows"
    compile_bundle(open_bundle(orin), workspace_mb=100)
    Expert.open(orin).close()
    assert [plan[:1] for plan in jetson.opened] == [b"2", b"1"]
    assert len(jetson.compiled) == 2


def test_an_expert_is_compiled_when_it_is_first_opened(jetson: Device, orin: Path) -> None:
    with Expert.open(orin) as expert:
        assert any("compiled in 7 s" in notice for notice in expert.notices)
    with Expert.open(orin, strict=True) as expert:
        assert expert.notices == ()
    assert (len(jetson.compiled), len(jetson.opened)) == (1, 2)


@pytest.mark.parametrize(
    "trouble",
    [{"missing": NO_DRIVER}, {"fails": CompilationError("TensorRT gave up.", "")}],
    ids=["no driver", "does not compile"],
)
def test_without_an_engine_it_runs_on_the_processor(
    jetson: Device, orin: Path, full: Path, trouble: dict[str, Any]
) -> None:
    vars(jetson).update(trouble)
    with Expert.open(orin) as expert, Expert.open(build(full, classes="warm", output=orin.parent / "cpu",
                                                        measure_seconds=0, force=True).path) as plain:  # fmt: skip
        (notice,) = expert.notices
        assert "ONNX Runtime, not on 'orin-nano-8gb'" in notice
        x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
        np.testing.assert_allclose(expert.scores(x), plain.scores(x), rtol=1e-6)
    with pytest.raises(DeviceMismatchError, match="no engine for 'orin-nano-8gb'"):
        Expert.open(orin, strict=True)
    assert (jetson.opened, cached()) == ([], [])


def test_another_device(jetson: Device, full: Path, tmp_path: Path) -> None:
    place = build(full, classes="warm", output=tmp_path / "a", target="rtx-4090", verification="off").path
    with pytest.raises(DeviceMismatchError, match=r"'rtx-4090', of SM 8\.9; here is Orin, of SM 8\.7"):
        compile_bundle(open_bundle(place))
    with Expert.open(place) as expert:
        assert "SM 8.9" in expert.notices[0]
    # Whatever is here is what this one is for.
    place = build(full, classes="warm", output=tmp_path / "b", target="gpu", verification="off").path
    assert compile_bundle(open_bundle(place), strict=True).fresh


def test_an_older_tensorrt_than_the_target_knows(jetson: Device, orin: Path) -> None:
    jetson.with_release("8.5.3")
    assert "older than what 'orin-nano-8gb' is known with" in compile_bundle(open_bundle(orin)).notes[0]
    with pytest.raises(DeviceMismatchError, match="older"):
        compile_bundle(open_bundle(orin), strict=True)


def test_what_the_tensorrt_that_is_here_would_miscompile(jetson: Device, full: Path, tmp_path: Path) -> None:
    """Built for 10.x, whose opset 8.6 does not read."""
    import onnx

    place = build(full, classes="warm", output=tmp_path / "a", target="orin-nano-8gb-super", verification="off").path
    model = onnx.load(place / "expert.onnx")
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "newer.onnx")
    data = (tmp_path / "newer.onnx").read_bytes()
    manifest = json.loads((place / "manifest.json").read_text())
    from hashlib import sha256

    manifest["files"]["expert.onnx"] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (place / "expert.onnx").write_bytes(data)
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert compile_bundle(open_bundle(place)).fresh
    jetson.with_release("8.6.2")
    with pytest.raises(UnsupportedError, match="opset 20"):
        compile_bundle(open_bundle(place))
    assert len(jetson.compiled) == 1


# -- trust -------------------------------------------------------------------------------------------------------------


def test_a_plan_that_was_changed_in_the_cache_is_not_opened(jetson: Device, orin: Path) -> None:
    kept = compile_bundle(open_bundle(orin)).kept
    for damage in (b"x" * len(kept.data), kept.data + b"x", b""):
        kept.path.write_bytes(damage)
        Expert.open(orin).close()
        assert jetson.opened.pop() not in (damage, kept.data)  # compiled again
    record = kept.path.with_suffix(".json")
    for text in ("", "{}", "[]", "{" * 9999, '{"format": 1}', record.read_text().replace('"format": 1', '"format": 2')):
        record.write_text(text)
        assert compile_bundle(open_bundle(orin)).fresh
    kept.path.unlink()
    kept.path.symlink_to(orin / "expert.onnx")
    assert compile_bundle(open_bundle(orin)).fresh


def test_a_cache_that_others_may_write_to_is_refused(jetson: Device, orin: Path, tmp_path: Path) -> None:
    compile_bundle(open_bundle(orin))
    for mode in (0o770, 0o707, 0o750):
        plans.folder().chmod(mode)
        for attempt in (compile_bundle, Expert.open):
            with pytest.raises(FileSystemError, match="is open to others, so no plan in it is trusted") as caught:
                attempt(open_bundle(orin))
            assert "chmod 700" in caught.value.hint
    plans.folder().chmod(0o700)
    real = plans.folder().rename(tmp_path / "real")
    plans.folder().symlink_to(real)
    with pytest.raises(FileSystemError, match="cannot be opened"):
        compile_bundle(open_bundle(orin))
    assert (len(jetson.compiled), jetson.opened) == (1, [])


def test_a_cache_of_somebody_else(jetson: Device, orin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_bundle(open_bundle(orin))
    monkeypatch.setattr(os, "geteuid", lambda: plans.folder().stat().st_uid + 1)
    with pytest.raises(FileSystemError, match="is somebody else's"):
        compile_bundle(open_bundle(orin))


@pytest.fixture
def shipped(jetson: Device, orin: Path, tmp_path: Path) -> Path:
    """A bundle with a plan in it, compiled on this device; its cache is gone."""
    place = Path(shutil.copytree(orin, tmp_path / "shipped.expert"))
    opened = open_bundle(place)
    ready = compile_bundle(opened)
    with reserve(place, force=True) as output:
        save_engine(opened, output, ready)
    shutil.rmtree(plans.folder())
    jetson.compiled.clear()
    return place


def test_the_plan_goes_into_the_bundle_byte_for_byte(shipped: Path, orin: Path) -> None:
    now, before = (open_bundle(path).manifest for path in (shipped, orin))
    assert (shipped / "engine.plan").read_bytes() == f"1 {shipped / 'expert.onnx'}".encode()
    assert now["files"].keys() - before["files"].keys() == {"engine.plan"}
    assert {key: value for key, value in now.items() if key not in ("files", "engine")} == {
        key: value for key, value in before.items() if key != "files"
    }
    assert all(now["files"][name] == facts for name, facts in before["files"].items())
    assert now["engine"]["identity"]["tensorrt"] == "10.3.0"
    assert json.loads((shipped / "report.json").read_text())["engine"]["layers"] == LAYERS


def test_a_plan_in_a_bundle_is_opened_only_if_it_is_trusted(jetson: Device, shipped: Path) -> None:
    Expert.open(shipped).close()
    assert len(jetson.compiled) == 1  # again, from the ONNX
    Expert.open(shipped, trust_plan=True).close()
    assert len(jetson.compiled) == 1
    assert jetson.opened[-1] == (shipped / "engine.plan").read_bytes()


def test_a_trusted_plan_of_another_machine(jetson: Device, shipped: Path) -> None:
    jetson.with_release("10.7.0")
    with pytest.raises(DeviceMismatchError, match=r"10\.3\.0.*10\.7\.0") as caught:
        Expert.open(shipped, trust_plan=True)
    assert f"expertc compile {shipped} --save-engine --force" in caught.value.hint
    assert jetson.opened == []


def test_a_trusted_plan_of_another_expert(jetson: Device, shipped: Path, tmp_path: Path) -> None:
    record = json.loads((shipped / "manifest.json").read_text())["engine"]
    odd = [None, {}, 7, {**record, "onnx": "0" * 64}, {**record, "identity": 1}]
    for number, entry in enumerate(odd):
        with pytest.raises(BundleError, match=r"does not say that engine\.plan was compiled from its expert\.onnx"):
            Expert.open(changed(shipped, tmp_path / str(number), engine=entry), trust_plan=True)
    assert jetson.opened == []


def test_a_plan_that_was_changed_in_the_bundle(jetson: Device, shipped: Path) -> None:
    (shipped / "engine.plan").write_bytes(b"x" * (shipped / "engine.plan").stat().st_size)
    with pytest.raises(BundleError, match=r"engine\.plan in .* is not what the manifest says"):
        Expert.open(shipped, trust_plan=True)


def test_a_bundle_that_is_replaced_while_it_is_compiled(jetson: Device, orin: Path, shipped: Path) -> None:
    """Its plan could be of either, so it is nobody's."""
    opened = open_bundle(shipped)

    def compile_plan(onnx: Path, options: Any, *, told: Any) -> Any:
        shutil.rmtree(shipped)
        shutil.copytree(orin, shipped)
        return Device.compile_plan(jetson, onnx, options, told=told)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expertc.backends.tensorrt.process.compile_plan", compile_plan)
        with pytest.raises(BundleError, match="was replaced while it was compiled"):
            compile_bundle(opened)
    assert cached() == []


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"workspace_mb": 0}, UsageError, "workspace"),
        ({"batch": (1, 2, 4)}, UsageError, "takes 1 images per call"),
        ({"dla_core": 0}, UnsupportedError, "it has no such accelerator"),
    ],
)
def test_options_that_cannot_be(
    jetson: Device, orin: Path, options: dict[str, Any], kind: type[ExpertcError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        compile_bundle(open_bundle(orin), **options)
    assert jetson.compiled == []


def test_profiles_of_a_dynamic_batch(jetson: Device, any_batch: Path) -> None:
    opened = open_bundle(any_batch)
    compile_bundle(opened)
    compile_bundle(opened, batch=(2, 4, 16))
    assert [options.batch for options in jetson.compiled] == [(1, 1, 8), (2, 4, 16)]
    with pytest.raises(UsageError):
        compile_bundle(opened, batch=(4, 2, 16))
    with pytest.raises(UnsupportedError, match="no DLA core 2: its accelerators are 0 to 1"):
        compile_bundle(opened, dla_core=2)
    with pytest.raises(UsageError, match="half precision and int8"):
        compile_bundle(opened, dla_core=1)


def test_a_dla_that_takes_only_a_part(jetson: Device, full: Path, tmp_path: Path) -> None:
    how = {"target": "agx-orin-64gb", "precision": "fp16", "verification": "off"}
    place = build(full, classes="warm", output=tmp_path / "a", **how).path
    jetson.dla_share = 0.8
    ready = compile_bundle(open_bundle(place), dla_core=1)
    assert (ready.kept.record["dla_share"], jetson.compiled[0].dla_core) == (0.8, 1)
    with pytest.raises(UnsupportedError, match="Only 80%"):
        compile_bundle(open_bundle(place), dla_core=1, strict=True)


def test_a_precision_that_the_target_lost(jetson: Device, orin: Path, tmp_path: Path) -> None:
    wrong = changed(orin, tmp_path / "a", precision="int4")
    with pytest.raises(BundleError, match="no precision that is known"):
        compile_bundle(open_bundle(wrong))
    about = json.loads((orin / "manifest.json").read_text())["device"] | {"precisions": ["fp32", "fp16"]}
    wrong = changed(orin, tmp_path / "b", precision="int8", device=about)
    with pytest.raises(UnsupportedError, match="does not compute in int8"):
        compile_bundle(open_bundle(wrong))


def test_a_bundle_for_a_processor(jetson: Device, bundle: Path) -> None:
    with pytest.raises(UnsupportedError, match="'cpu', which runs onnxruntime") as caught:
        compile_bundle(open_bundle(bundle))
    assert "--target gpu" in caught.value.hint


def test_a_full_disk_leaves_nothing(jetson: Device, orin: Path) -> None:
    """A file may not grow beyond what the limit of this process says, which the kernel reports as a disk does."""
    compile_bundle(open_bundle(orin))
    before = cached()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(FileSystemError, match="disk is full"):
            compile_bundle(open_bundle(orin), workspace_mb=77)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cached() == before


def test_a_cache_that_cannot_be_written_is_said_before_compiling(
    jetson: Device, orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(FileSystemError):
        compile_bundle(open_bundle(orin))
    assert jetson.compiled == []


def test_other_profiles_say_the_same_about_themselves(tmp_path: Path) -> None:
    from expertc.targets import list_targets, parse_target

    for target in list_targets():
        data = json.loads(json.dumps(target.to_mapping(), sort_keys=True))
        assert parse_target(target.name, data, tmp_path) == target
    assert isinstance(target, Target)


def test_a_record_of_another_plan_is_not_believed(jetson: Device, orin: Path) -> None:
    """Names of files are short: what counts is what the record says."""
    kept = compile_bundle(open_bundle(orin)).kept
    place = kept.path.with_suffix(".json")
    record = json.loads(place.read_text())
    for change in ({"onnx": "0" * 64}, {"identity": {**record["identity"], "tensorrt": "8.6.2"}}, {"identity": 3}):
        place.write_text(json.dumps(record | change))
        assert compile_bundle(open_bundle(orin)).fresh
    Expert.open(orin).close()
    assert len(jetson.compiled) == 4
