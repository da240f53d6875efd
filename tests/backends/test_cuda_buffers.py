"""The buffers of all three bindings behave alike, over the look-alike of the driver: no GPU is real here.

ctypes is the real thing; of cuda-python and pycuda there are fakes (``fake_bindings``), and where the real cuda-python
is installed, that too.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_bindings
import numpy as np
import pytest
from fake_cuda import (
    DEVICE,
    EVENT,
    EXEC,
    GRAPH,
    MAPPED,
    OUT_OF_MEMORY,
    PINNED,
    STREAM,
    UNKNOWN,
    FakeCuda,
)  # fmt: skip

from expertc.backends.tensorrt import buffers as room
from expertc.backends.tensorrt.buffers import BINDINGS, Buffers, open_buffers
from expertc.backends.tensorrt.driver import CudaError, open_driver
from expertc.errors import OutOfMemoryError, UnsupportedError, UsageError


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> str:
    library = ctypes.CDLL(str(cuda.path))
    installed(
        monkeypatch, cuda__bindings=ModuleType("cuda.bindings"), pycuda__driver=fake_bindings.pycuda(library)
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake_bindings.cuda_python(library))
    return str(request.param)


@pytest.fixture
def buffers(binding: str, cuda: FakeCuda) -> Iterator[Buffers]:
    driver = open_driver()
    with closing(open_buffers(driver, driver.device(), binding)) as made:
        assert made.binding == binding
        with made.current():
            yield made


def test_bytes_go_there_and_back_when_the_stream_gets_there(buffers: Buffers) -> None:
    stream, device = buffers.stream(), buffers.alloc(1000)
    there, back = buffers.pinned(1000), buffers.pinned(1000)
    there.array[:] = np.arange(1000) % 251
    back.array[:] = 7
    buffers.copy_in(device, there, 1000, stream)
    buffers.copy_out(back, device, 600, stream)
    assert (back.array == 7).all()  # not before the stream is waited for
    buffers.wait(stream)
    np.testing.assert_array_equal(back.array[:600], np.arange(600) % 251)
    assert (back.array[600:] == 7).all()


def test_mapped_memory_needs_no_copy(buffers: Buffers, cuda: FakeCuda) -> None:
    mapped, pinned = buffers.pinned(64, mapped=True), buffers.pinned(64)
    mapped.array[:] = np.arange(64)
    assert ctypes.string_at(mapped.address, 64) == bytes(range(64))
    assert cuda.reaches(mapped.address, 64)
    assert pinned.address == 0
    assert (cuda.alive(MAPPED), cuda.alive(PINNED)) == (1, 1)


def test_events_tell_the_time_between_them(buffers: Buffers) -> None:
    """A copy takes a millisecond of the look-alike's."""
    stream, device, host = buffers.stream(), buffers.alloc(8), buffers.pinned(8)
    start, end = buffers.event(), buffers.event()
    buffers.record(start, stream)
    for _ in range(3):
        buffers.copy_in(device, host, 8, stream)
    buffers.record(end, stream)
    with pytest.raises(CudaError):
        buffers.milliseconds(start, end)  # neither has been reached
    buffers.wait(stream)
    assert buffers.milliseconds(start, end) == 3.0


def test_a_graph_is_work_for_later(buffers: Buffers, cuda: FakeCuda) -> None:
    stream, done = buffers.stream(), []
    graph = buffers.capture(stream, partial(cuda.launched, stream.value, lambda: done.append(1)))
    buffers.wait(stream)
    assert not done
    buffers.launch(graph, stream)
    buffers.launch(graph, stream)
    buffers.wait(stream)
    assert done == [1, 1]
    assert (cuda.alive(GRAPH), cuda.alive(EXEC)) == (0, 1)
    buffers.free(graph)
    assert cuda.alive(EXEC) == 0


def test_a_capture_that_fails_leaves_the_stream_usable(buffers: Buffers, cuda: FakeCuda) -> None:
    stream, device, host = buffers.stream(), buffers.alloc(8), buffers.pinned(8)

    def fails() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        buffers.capture(stream, fails)
    with pytest.raises(CudaError, match="captur"):
        buffers.capture(stream, lambda: buffers.wait(stream))  # forbidden while capturing
    cuda.fail("cuGraphInstantiateWithFlags", UNKNOWN)
    with pytest.raises(CudaError):
        buffers.capture(stream, lambda: buffers.copy_in(device, host, 8, stream))
    assert cuda.alive(GRAPH | EXEC) == 0
    host.array[:] = 9
    buffers.copy_in(device, host, 8, stream)
    buffers.wait(stream)
    assert ctypes.string_at(device.address, 8) == b"\t" * 8


def test_what_is_freed_is_free(buffers: Buffers, cuda: FakeCuda) -> None:
    device, host = buffers.alloc(100), buffers.pinned(100)
    stream = buffers.stream()
    buffers.copy_in(device, host, 100, stream)
    buffers.free(device)
    assert cuda.alive(DEVICE) == 0
    buffers.free(host)
    buffers.free(stream)
    assert cuda.alive() == 0
    with pytest.raises(KeyError):
        buffers.free(device)


def test_no_memory(buffers: Buffers, cuda: FakeCuda) -> None:
    for ask in (buffers.alloc, buffers.pinned):
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            ask(2**30)
    for call in ("cuMemHostGetDevicePointer_v2", "cuMemHostAlloc"):
        cuda.fail(call, OUT_OF_MEMORY)
        with pytest.raises(OutOfMemoryError):
            buffers.pinned(8, mapped=True)
    assert cuda.alive() == 0


def test_the_end_frees_everything(binding: str, cuda: FakeCuda) -> None:
    driver = open_driver()
    made = open_buffers(driver, driver.device(), binding)
    with made.current():
        made.alloc(10), made.pinned(10), made.pinned(10, mapped=True), made.event()
        stream = made.stream()
        made.capture(stream, lambda: None)
        cuda.launched(stream.value, lambda: None)
    assert cuda.alive(DEVICE | PINNED | MAPPED | EVENT | STREAM | EXEC) == 6
    made.close()
    cuda.check()
    made.close()
    with pytest.raises(ValueError, match="closed"), made.current():
        pass


def test_the_end_frees_what_it_can(binding: str, cuda: FakeCuda) -> None:
    driver = open_driver()
    made = open_buffers(driver, driver.device(), binding)
    with made.current():
        made.alloc(10), made.pinned(10), made.alloc(20)
    cuda.fail("cuMemFree_v2", UNKNOWN)
    with pytest.raises(CudaError):
        made.close()
    assert (cuda.alive(), cuda.contexts(), cuda.depth()) == (1, 0, 0)
    cuda.reset()


def test_a_device_that_cannot_be_held(binding: str, cuda: FakeCuda) -> None:
    driver = open_driver()
    cuda.fail("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError):
        open_buffers(driver, driver.device(), binding)


def test_the_binding_is_chosen_by_name(binding: str, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = open_driver()
    monkeypatch.setenv(room.VARIABLE, binding)
    with closing(open_buffers(driver, driver.device())) as made:
        assert made.binding == binding
    monkeypatch.setenv(room.VARIABLE, "cudnn\x1b")
    with pytest.raises(UsageError, match="no CUDA binding 'cudnn'"):
        open_buffers(driver, driver.device())
    monkeypatch.delenv(room.VARIABLE)
    with closing(open_buffers(driver, driver.device())) as made:
        assert made.binding == "ctypes"


def installed(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """Modules of two levels: ``cuda__bindings`` is cuda.bindings."""
    for name, module in modules.items():
        package, _, inner = name.partition("__")
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.{inner}", module)


def test_pycuda_without_graphs(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, pycuda__driver=fake_bindings.pycuda(ctypes.CDLL(str(cuda.path)), graphs=False))
    driver = open_driver()
    with closing(open_buffers(driver, driver.device(), "pycuda")) as made, made.current():
        stream = made.stream()
        with pytest.raises(CudaError, match="no CUDA graphs"):
            made.capture(stream, lambda: None)


@pytest.mark.parametrize("name", ["cuda-python", "pycuda"])
def test_a_binding_that_is_not_installed(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for package in ("cuda", "pycuda"):
        monkeypatch.setitem(sys.modules, package, None)
    driver = open_driver()
    with pytest.raises(UnsupportedError, match=f"{name} cannot be imported") as caught:
        open_buffers(driver, driver.device(), name)
    assert "unset EXPERTC_CUDA" in caught.value.hint


def test_the_older_layout_of_cuda_python(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cuda.bindings.driver", raising=False)
    installed(monkeypatch, cuda__cuda=fake_bindings.cuda_python(ctypes.CDLL(str(cuda.path)), layout=11))
    driver = open_driver()
    with closing(open_buffers(driver, driver.device(), "cuda-python")) as made, made.current():
        stream = made.stream()
        made.launch(made.capture(stream, lambda: None), stream)


REAL = """
import ctypes
library = ctypes.CDLL("libcuda.so.1")
library.fake_reset(1, 12060, 0, ctypes.c_size_t(2**24))
from expertc.backends.tensorrt.buffers import open_buffers
from expertc.backends.tensorrt.driver import open_driver
from expertc.errors import OutOfMemoryError
driver = open_driver()
made = open_buffers(driver, driver.device(), "cuda-python")
with made.current():
    stream, device, there, back = made.stream(), made.alloc(256), made.pinned(256, mapped=True), made.pinned(256)
    start, end = made.event(), made.event()
    there.array[:] = range(256)
    made.record(start, stream)
    made.copy_in(device, there, 256, stream)
    graph = made.capture(stream, lambda: made.copy_out(back, device, 256, stream))
    made.launch(graph, stream)
    made.record(end, stream)
    made.wait(stream)
    assert there.address and back.array.tolist() == list(range(256)), back.array
    assert made.milliseconds(start, end) == 2.0
    try:
        made.alloc(2**40)
    except OutOfMemoryError as error:
        print(error)
made.close()
print(library.fake_faults(), library.fake_alive(127), library.fake_contexts())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None,
    reason="cuda-python is not installed: its fake is tested instead",
)
def test_the_real_cuda_python(cuda_library: Path) -> None:
    """The package's own prototypes against those of the look-alike, and against our calls."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(cuda_library.parent), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", REAL], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert "CUDA_ERROR_OUT_OF_MEMORY" in first
    assert second == "0 0 0"
