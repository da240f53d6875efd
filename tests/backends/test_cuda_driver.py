"""The driver by ctypes, over a look-alike compiled from C (``fake_cuda``): no GPU is real here."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from fake_cuda import MISMATCH, OUT_OF_MEMORY, STUB, UNKNOWN, FakeCuda

from expertc.backends.tensorrt import driver
from expertc.backends.tensorrt.driver import CudaError, NoDeviceError, NoDriverError, OldDriverError, open_driver
from expertc.errors import ExitCode, OutOfMemoryError, UnsupportedError

# The first line of /proc/driver/nvidia/version, as a Jetson with JetPack 6 and a server have it.
JETSON = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile-u64)\n"
SERVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"


def test_the_devices_are_described(cuda: FakeCuda) -> None:
    cuda.reset(devices=2, version=12060, integrated=True, memory=2**23)
    found = open_driver()
    assert (found.cuda, found.name) == ((12, 6), "CUDA 12.6")
    assert [device.index for device in found.devices] == [0, 1]
    second = found.device(1)
    assert second.name == "Simulated GPU 1[2J"  # a name is a stranger's text: no escape is left
    assert (second.sm, second.total, second.integrated, second.maps) == ((8, 7), 2**23, True, True)
    with pytest.raises(NoDeviceError, match="no GPU 2"):
        found.device(2)


def test_free_memory_is_asked_for_without_leaving_a_trace(cuda: FakeCuda) -> None:
    found = open_driver()
    assert found.memory() == (2**24, 2**24)
    context = found.call("cuDevicePrimaryCtxRetain", found.call("cuDeviceGet", 0))
    found.call("cuCtxPushCurrent", context)
    address = found.call("cuMemAlloc", 2**20)
    assert found.memory() == (2**24 - 2**20, 2**24)
    assert cuda.depth() == 1
    found.call("cuMemFree", address)
    found.call("cuCtxPopCurrent")
    found.call("cuDevicePrimaryCtxRelease", found.call("cuDeviceGet", 0))
    cuda.fail("cuMemGetInfo_v2", UNKNOWN)
    with pytest.raises(CudaError, match="cuMemGetInfo: CUDA_ERROR_UNKNOWN, unknown error"):
        found.memory()


@pytest.mark.parametrize(
    ("text", "name"), [(JETSON, "540.4.0 (CUDA 11.4)"), (SERVER, "535.104.05 (CUDA 11.4)"), ("odd\n", "CUDA 11.4")]
)
def test_the_release_of_the_driver_is_told(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, name: str
) -> None:
    cuda.reset(version=11040)
    (tmp_path / "version").write_text(text, "utf-8")
    monkeypatch.setattr(driver, "KERNEL_MODULE", tmp_path / "version")
    assert open_driver().name == name


@pytest.mark.parametrize("file", [None, b"", b"no library"])
def test_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: bytes | None) -> None:
    """What a machine without NVIDIA's driver says; nothing of it is simulated."""
    if file is not None:
        (tmp_path / "libcuda.so.1").write_bytes(file)
    monkeypatch.setattr(driver, "LIBRARY", str(tmp_path / "libcuda.so.1"))
    with pytest.raises(NoDriverError, match="no CUDA driver") as caught:
        open_driver()
    assert caught.value.exit_code is ExitCode.UNSUPPORTED
    assert "Install NVIDIA's driver" in caught.value.hint


def test_another_library_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libc.so.6")
    with pytest.raises(OldDriverError, match="it has no cuDriverGetVersion"):
        open_driver()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (STUB, NoDriverError, "only a stub"),
        (MISMATCH, OldDriverError, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        (UNKNOWN, CudaError, "cuInit: CUDA_ERROR_UNKNOWN"),
        (OUT_OF_MEMORY, OutOfMemoryError, "no memory left"),
        (12345, CudaError, "CUresult 12345"),
    ],
)
def test_a_driver_that_does_not_start(cuda: FakeCuda, code: int, kind: type[UnsupportedError], words: str) -> None:
    cuda.fail("cuInit", code)
    with pytest.raises(kind, match=words) as caught:
        open_driver()
    assert caught.value.exit_code is ExitCode.UNSUPPORTED
    assert caught.value.hint


def test_a_driver_that_is_too_old(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.reset(version=11030)
    with pytest.raises(OldDriverError, match=r"CUDA 11\.3, older than 11\.4"):
        open_driver()
    cuda.reset(version=11040)
    found = open_driver()
    monkeypatch.setitem(driver.SIGNATURES, "cuGraphLaunch", ("_v9", (ctypes.c_void_p, ctypes.c_void_p)))
    with pytest.raises(OldDriverError, match="it has no cuGraphLaunch_v9"):
        found.call("cuGraphLaunch", 0, 0)


def test_a_driver_without_a_device(cuda: FakeCuda) -> None:
    cuda.reset(devices=0)
    with pytest.raises(NoDeviceError, match=r"sees no GPU .*CUDA_ERROR_NO_DEVICE") as caught:
        open_driver()
    assert caught.value.exit_code is ExitCode.UNSUPPORTED
