"""Who a plan is for, told apart in words. The driver is a look-alike (``fake_cuda``), TensorRT only a version here."""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cuda import FakeCuda

from expertc.backends.tensorrt.driver import NoDeviceError, open_driver
from expertc.backends.tensorrt.identity import Identity, differences, identity, rebuild_command, require_same
from expertc.errors import DeviceMismatchError, ExitCode

HERE = Identity("10.3.0", "8.7", "Orin", "540.4.0 (CUDA 12.6)", "linux aarch64")


def test_who_this_machine_is(cuda: FakeCuda) -> None:
    trt: Any = SimpleNamespace(__version__="8.5.2.2")
    found = identity(trt, open_driver())
    assert (found.tensorrt, found.sm, found.device) == ("8.5.2.2", "8.7", "Simulated GPU 0[2J")
    assert (found.driver, found.os) == ("CUDA 12.6", f"linux {platform.machine().lower()}")
    assert found.to_mapping() == asdict(found)
    with pytest.raises(NoDeviceError):
        identity(trt, open_driver(), 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensorrt": "8.6.2"}, "it is for TensorRT '8.6.2', here is '10.3.0'"),
        ({"sm": "9.0"}, "it is for a GPU of compute capability '9.0', here is '8.7'"),
        ({"device": "NVIDIA H100\x1b[2J"}, "it is for the GPU 'NVIDIA H100[2J', here is 'Orin'"),
        ({"os": "linux x86_64"}, "it is for the system 'linux x86_64', here is 'linux aarch64'"),
        ({"sm": 8.7}, "it is for a GPU of compute capability '8.7', here is '8.7'"),
    ],
)
def test_what_keeps_a_plan_from_running(change: dict[str, Any], words: str) -> None:
    plan = HERE.to_mapping() | change
    assert differences(plan, HERE) == (words,)
    with pytest.raises(DeviceMismatchError) as caught:
        require_same(plan, HERE, rebuild_command(Path("sharks; rm -rf .expert")))
    assert caught.value.exit_code is ExitCode.DEVICE_MISMATCH
    assert words in caught.value.message
    assert caught.value.hint == "Run: expertc compile 'sharks; rm -rf .expert'"


def test_what_does_not() -> None:
    require_same(HERE.to_mapping(), replace(HERE, driver="580.1 (CUDA 13.0)"), "")
    assert len(differences({}, HERE)) == 4
    assert differences({}, HERE)[0] == "it is for TensorRT 'not said', here is '10.3.0'"
