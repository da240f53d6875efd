"""Plans that cannot be opened or run: what is said, and that nothing is left behind.

TensorRT and the GPU are simulated, as in ``test_plan_session``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import OUT_OF_MEMORY, UNKNOWN, FakeCuda
from fake_tensorrt import Scene
from planned import assert_same, compiled, expected, images

from expertc.backends.tensorrt import driver
from expertc.backends.tensorrt.driver import CudaError, NoDeviceError, NoDriverError, open_driver
from expertc.backends.tensorrt.identity import identity
from expertc.backends.tensorrt.session import open_plan
from expertc.errors import (
    BundleError,
    DeviceMismatchError,
    ExitCode,
    ModelError,
    OutOfMemoryError,
    UnsupportedError,
)


def test_a_closed_session_does_not_run(cuda: FakeCuda, trt: Any, ranked: bytes) -> None:
    session = open_plan(compiled(trt, ranked))
    session.close()
    cuda.check()
    session.close()
    for ask in (session.timings, lambda: session.run(images(2))):
        with pytest.raises(ValueError, match="closed"):
            ask()


def test_a_forgotten_session_goes_with_its_memory(cuda: FakeCuda, trt: Any, ranked: bytes) -> None:
    session = open_plan(compiled(trt, ranked))
    session.run(images(2))
    del session
    gc.collect()
    cuda.check()


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 4, 8, 8), (3, 8, 8), (2, 3, 8, 8, 1), (), (0, 3, 8, 8)])
def test_an_input_that_does_not_fit(trt: Any, ranked: bytes, shape: tuple[int, ...]) -> None:
    with closing(open_plan(compiled(trt, ranked))) as session:
        with pytest.raises(ModelError, match="does not take an input of shape") as caught:
            session.run(np.zeros(shape, np.float32))
        assert caught.value.hint == "It takes (2 to 4)x3x8x8."
        assert session.run(images(2))["scores"].shape == (2, 7)


def test_the_driver_is_asked_before_tensorrt(
    cuda: FakeCuda, install: Callable[[str], Any], scene: Scene, ranked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compiled(install("8.6"), ranked)
    scene.driver = False  # from now on TensorRT would end the process
    cuda.reset(devices=0)
    with pytest.raises(NoDeviceError):
        open_plan(plan)
    monkeypatch.setattr(driver, "LIBRARY", "libnowhere.so.1")
    with pytest.raises(NoDriverError) as caught:
        open_plan(plan)
    assert caught.value.exit_code is ExitCode.UNSUPPORTED


def test_a_plan_of_another_release(install: Callable[[str], Any], ranked: bytes) -> None:
    plan = compiled(install("8.6"), ranked)
    install("10.3")
    with pytest.raises(DeviceMismatchError, match=r"another release of TensorRT.*Version tag does not match") as caught:
        open_plan(plan, rebuild="expertc compile sharks.expert")
    assert caught.value.exit_code is ExitCode.DEVICE_MISMATCH
    assert caught.value.hint == "Run: expertc compile sharks.expert"


def test_what_is_no_plan(trt: Any, tmp_path: Path, ranked: bytes) -> None:
    with pytest.raises(DeviceMismatchError, match="damaged, or no plan"):
        open_plan(b"not a plan")
    with pytest.raises(BundleError, match=r"engine\.plan' cannot be read"):
        open_plan(tmp_path / "engine.plan")
    (tmp_path / "engine.plan").write_bytes(compiled(trt, ranked))
    with closing(open_plan(tmp_path / "engine.plan")) as session:
        assert session.run(images(2))["scores"].shape == (2, 7)


def test_who_compiled_it_is_looked_at_first(trt: Any, scene: Scene, ranked: bytes) -> None:
    plan, here = compiled(trt, ranked), identity(trt, open_driver())
    with closing(open_plan(plan, made_by=here.to_mapping())):
        pass
    scene.calls.clear()
    other = asdict(replace(here, sm="9.0", tensorrt="8.6.0"))
    with pytest.raises(DeviceMismatchError, match=r"TensorRT '8\.6\.0', here is '10\.3\.0'.*'9\.0', here is '8\.7'"):
        open_plan(plan, made_by=other, rebuild="expertc compile x")
    assert not scene.calls


def test_the_dla_core_is_chosen_before_the_plan_is_read(trt: Any, scene: Scene, ranked: bytes) -> None:
    plan = compiled(trt, ranked)
    with pytest.raises(UnsupportedError, match="no DLA core 1"):
        open_plan(plan, dla_core=1)
    scene.dla_cores = 2
    scene.calls.clear()
    with closing(open_plan(plan, dla_core=1)):
        names = [name for name, _ in scene.calls]
    assert scene.called("Runtime.DLA_core=") == [(1,)]
    assert names.index("Runtime.DLA_core=") < names.index("Runtime.deserialize_cuda_engine")


@pytest.fixture
def says(trt: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, Any], None]:
    """Makes a method of TensorRT's return something, after it has said why."""

    def put(method: str, text: str, value: Any) -> None:
        kind, _, name = method.partition(".")

        def call(self: Any, *_: Any) -> Any:
            self._logger.log(trt.ILogger.ERROR, text)
            return value

        monkeypatch.setattr(getattr(trt, kind), name, call)

    return put


def test_an_execution_that_fails(trt: Any, says: Any, ranked: bytes) -> None:
    with closing(open_plan(compiled(trt, ranked))) as session:
        says("IExecutionContext.execute_async_v3", "Error Code 1: Cask (Cask convolution execution)\x1b[2J", False)
        with pytest.raises(UnsupportedError, match=r"cannot run the plan \('Error Code 1: Cask \(Cask conv") as caught:
            session.run(images(2))
        assert "\x1b" not in str(caught.value)
        says("IExecutionContext.execute_async_v3", "Error Code 1: Cuda Runtime (out of memory)", False)
        with pytest.raises(OutOfMemoryError, match="no memory left"):
            session.run(images(2))


def test_an_engine_without_memory(trt: Any, says: Any, ranked: bytes) -> None:
    says("ICudaEngine.create_execution_context", "Error Code 2: OutOfMemory (no further information)", None)
    with pytest.raises(OutOfMemoryError, match="execution context: the GPU has no memory left"):
        open_plan(compiled(trt, ranked))

    says("Runtime.deserialize_cuda_engine", "[defaultAllocator.cpp::allocate::61] Error Code 1 (out of memory)", None)
    with pytest.raises(OutOfMemoryError, match="cannot open the plan: the GPU has no memory left"):
        open_plan(b"any")


def test_a_tensorrt_that_does_not_fit_the_driver(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the bindings end when TensorRT's own initialisation fails."""

    def start(self: Any, logger: Any) -> None:
        logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Runtime, "__init__", start)
    with pytest.raises(UnsupportedError, match=r"10\.3\.0 does not start .*failure with error: 35") as caught:
        open_plan(b"any")
    assert caught.value.hint == "NVIDIA's driver does not fit this TensorRT: update it."


def test_outputs_whose_size_nobody_knows(trt: Any, ranked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt.IExecutionContext, "get_tensor_shape", lambda self, name: (-1, 2))
    with pytest.raises(ModelError, match="'scores' depends on the image"):
        open_plan(compiled(trt, ranked))


CALLS = (
    "cuDeviceGet",
    "cuDevicePrimaryCtxRetain",
    "cuStreamCreate",
    "cuEventCreate",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemAlloc_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuEventRecord",
    "cuStreamSynchronize",
    "cuGraphLaunch",
)
UNUSED = {
    False: {"cuMemHostGetDevicePointer_v2"}, True: {"cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"}
}  # fmt: skip


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_leaves_nothing_behind(
    cuda: FakeCuda, trt: Any, ranked: bytes, call: str, integrated: bool
) -> None:
    """The first, second, ... call of a function runs out of memory, until everything works."""
    plan, x = compiled(trt, ranked), images(3)
    for nth in range(1, 40):
        cuda.reset(integrated=integrated)
        cuda.fail(call, OUT_OF_MEMORY, nth)
        try:
            with closing(open_plan(plan)) as session:
                for _ in range(3):
                    found = session.run(x)
        except UnsupportedError:
            cuda.check()
        else:
            assert_same(found, expected(ranked, x))
            assert (nth > 1) is (call not in UNUSED[integrated])
            break
    else:
        pytest.fail(f"{call} is called more often than that")


def test_a_failed_run_does_not_spoil_the_next(cuda: FakeCuda, trt: Any, ranked: bytes) -> None:
    with closing(open_plan(compiled(trt, ranked))) as session:
        session.run(images(4))
        for call in ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuEventRecord", "cuStreamSynchronize"):
            cuda.fail(call, UNKNOWN)
            with pytest.raises(CudaError):
                session.run(images(3))
            x = images(4)
            assert_same(session.run(x), expected(ranked, x))
