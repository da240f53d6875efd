"""Build, compile, predict: every part of the road at work, on a device of which TensorRT, driver and GPU are simulated.

So the numbers are ONNX Runtime's; what is real is the bundle, the child process, the cache of plans, the session and
what the command line says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import Scene, fake
from rainbow import CLASSES, picture

from expertc import Expert
from expertc.backends.tensorrt import library

CHILD = """
import sys
from fake_cuda import FakeCuda
from fake_tensorrt import Scene, fake
from expertc.backends.tensorrt import driver
driver.LIBRARY = {library!r}
FakeCuda(driver.LIBRARY)
sys.modules["tensorrt"] = fake({release!r}, Scene())
"""


@pytest.fixture
def install(cuda: FakeCuda, cuda_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a release of TensorRT here, and into the processes that are started from here."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(site))

    def put(release: str) -> Scene:
        (site / "tensorrt.py").write_text(CHILD.format(release=release, library=str(cuda_library)))
        trt = fake(release, Scene(launched=cuda.launched))
        monkeypatch.setattr(library, "load", lambda: trt)
        scene: Scene = trt.scene
        return scene

    return put


@pytest.mark.parametrize("release", ["8.5", "11.4"])
def test_a_device_says_what_the_processor_says(cli, full: Path, tmp_path: Path, install: Any, release: str) -> None:
    scene = install(release)
    files = [picture(tmp_path / f"{name}.png", name) for name in CLASSES]
    options = ("--classes", "-blues", "--batch", "dynamic", "--precision", "fp16", "--measure", "0")
    for target in ("cpu", "gpu"):
        assert cli("build", full, *options, "--target", target, "-o", tmp_path / target).code == 0
    code, out, err = cli("compile", tmp_path / "gpu", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["fresh"]
    assert record["identity"]["tensorrt"].startswith(release)
    assert record["options"]["batch"] == [1, 1, 8]
    assert "fake plan" in Path(record["plan"]).read_bytes()[:20].decode()
    code, plain, _ = cli("predict", tmp_path / "cpu", *files, "--json")
    code, engine, err = cli("predict", tmp_path / "gpu", *files, "--json", "--strict")
    assert (code, err) == (0, "")
    assert json.loads(engine) == json.loads(plain)
    assert scene.called("IExecutionContext.execute_async_v3")
    x = np.random.default_rng(0).random((19, 3, 8, 8), np.float32)  # more than the profile takes at a time
    with Expert.open(tmp_path / "gpu") as one, Expert.open(tmp_path / "cpu") as other:
        np.testing.assert_array_equal(one.scores(x), other.scores(x))


def test_another_release_is_another_plan(cli, full: Path, tmp_path: Path, install: Any) -> None:
    """After an update of the system: compiled once more, and the plan in the bundle is refused."""
    install("10.3")
    place = tmp_path / "a"
    assert cli("build", full, "--classes", "warm", "--target", "gpu", "--measure", "0", "-o", place).code == 0
    assert cli("compile", place, "--save-engine").code == 0
    photo = picture(tmp_path / "photo.png", "reds")
    assert cli("predict", place, photo, "--trust-plan").err == ""
    install("10.7")
    code, _, err = cli("predict", place, photo, "--trust-plan")
    assert (code, "10.3.0" in err, "10.7.0" in err) == (7, True, True)
    code, out, err = cli("predict", place, photo)
    assert (code, "reds" in out, "compiled in" in err) == (0, True, True)
    assert cli("predict", place, photo).err == ""
