"""``expertc compile``, and what the other commands make of a bundle for a device; the device is simulated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from on_device import Device
from rainbow import picture

from expertc import build
from expertc.errors import CompilationError, UnsupportedError

NO_DRIVER = UnsupportedError("There is no CUDA driver.", "Install one.")


@pytest.fixture
def orin(full: Path, tmp_path: Path) -> Path:
    return build(full, classes="warm", output=tmp_path / "a.expert", target="orin-nano-8gb", verification="off").path


def test_compile_and_predict(cli, jetson: Device, orin: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    orin = Path(orin.name)
    code, out, err = cli("compile", orin)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for words in ("orin-nano-8gb", "SM 8.7", "TensorRT 10.3.0", "compiled in 7 s", "A note.", "expertc predict"):
        assert words in " ".join(out.split())
    code, out, err = cli("compile", orin, "--json")
    found = json.loads(out)
    assert (code, err, found["fresh"], found["options"]["precision"]) == (0, "", False, "fp32")
    code, out, err = cli("compile", orin, "--quiet")
    assert Path(out.strip()).read_bytes().startswith(b"1 ")
    code, out, err = cli("predict", orin, picture(tmp_path / "photo.png", "yellows"), "--strict")
    assert (code, err) == (0, "")
    assert "yellows" in out
    assert len(jetson.opened) == 1


def test_save_engine(cli, jetson: Device, orin: Path, tmp_path: Path) -> None:
    assert cli("compile", orin, "--save-engine", "-q")[0] == 0
    assert (orin / "engine.plan").read_bytes().startswith(b"1 ")
    assert "tensorrt 10.3.0, device Orin, sm 8.7" in " ".join(cli("inspect", orin).out.split())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    jetson.with_release("10.7.0")
    code, _, err = cli("predict", orin, picture(tmp_path / "photo.png", "reds"), "--trust-plan")
    assert code == 7
    assert f"expertc compile {orin} --save-engine --force" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--batch", "1:2"), 2, "no batch"),
        (("--batch", "1:4:16"), 2, "takes 1 images per call"),
        (("--workspace", "0"), 2, "workspace"),
        (("--dla-core", "0"), 4, "no DLA core 0"),
    ],
)
def test_options_that_cannot_be(cli, jetson: Device, orin: Path, options: tuple[str, ...], code: int, words: str):
    found = cli("compile", orin, *options)
    assert (found.code, found.out) == (code, "")
    assert words in found.err


def test_each_reason_has_its_code(cli, jetson: Device, orin: Path, bundle: Path, full: Path, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.png", "reds")
    assert cli("compile", bundle).code == 4
    assert cli("compile", tmp_path / "missing").code == 3
    jetson.fails = CompilationError("TensorRT gave up.", "Look.")
    assert cli("compile", orin).code == 6
    jetson.fails = None
    jetson.missing = NO_DRIVER
    code, _, err = cli("compile", orin)
    assert (code, "no CUDA driver" in err, "Install one." in err) == (4, True, True)
    code, out, err = cli("predict", orin, photo)
    assert (code, "reds" in out, "not on 'orin-nano-8gb': There is no CUDA driver." in err) == (0, True, True)
    assert cli("predict", orin, photo, "--strict").code == 7
    jetson.missing = None
    place = build(full, classes="warm", output=tmp_path / "b", target="t4", verification="off").path
    assert cli("compile", place).code == 7
    (orin / "expert.onnx").write_bytes(b"")
    assert cli("compile", orin).code == 3


def test_interrupted(cli, jetson: Device, orin: Path, tmp_path: Path) -> None:
    before = sorted(orin.iterdir())
    jetson.fails = KeyboardInterrupt()
    assert cli("compile", orin, "--save-engine").code == 130
    assert sorted(orin.iterdir()) == before
    cache = tmp_path / "cache"
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    shutil.rmtree(cache)


def test_bench_runs_the_engine_and_says_where(cli, jetson: Device, orin: Path) -> None:
    assert cli("compile", orin, "-q")[0] == 0
    code, out, err = cli("bench", orin, "--duration", "0.2")
    assert code == 0, err
    assert "Its engine runs, on the GPU." in " ".join(out.split())
    assert len(jetson.opened) == 1
    jetson.missing = NO_DRIVER
    code, out, _ = cli("bench", orin, "--duration", "0.2")
    assert code == 0
    assert "runs on the processor with ONNX Runtime, not on 'orin-nano-8gb': There is no CUDA driver." in " ".join(
        out.split()
    )
    code, _, err = cli("bench", orin, "--cold")
    assert (code, "Leave out --cold" in err) == (2, True)
