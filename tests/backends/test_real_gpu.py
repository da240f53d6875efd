"""On a machine with an NVIDIA GPU: the same driver and buffers, and the same sessions where TensorRT is there too.

Nothing is simulated here; elsewhere it is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expertc.backends.cpu import open_session
from expertc.backends.tensorrt import library
from expertc.backends.tensorrt.buffers import BINDINGS, Buffers, open_buffers
from expertc.backends.tensorrt.builder import build_plan
from expertc.backends.tensorrt.driver import Driver, NoDeviceError, NoDriverError, open_driver
from expertc.backends.tensorrt.options import Options
from expertc.backends.tensorrt.session import open_plan
from expertc.errors import OutOfMemoryError, UnsupportedError

TOLERANCE = 1e-5  # relative, in single precision without TF32: what is asked of TensorRT against ONNX Runtime
SIZE = 2**20


@pytest.fixture(scope="module")
def gpu() -> Driver:
    try:
        return open_driver()
    except (NoDriverError, NoDeviceError) as error:
        pytest.skip(f"there is no GPU here: {error}")


@pytest.fixture(params=BINDINGS)
def buffers(request: pytest.FixtureRequest, gpu: Driver) -> Iterator[Buffers]:
    try:
        made = open_buffers(gpu, gpu.device(), request.param)
    except UnsupportedError as error:
        pytest.skip(str(error))
    with closing(made), made.current():
        yield made


def test_the_gpu_is_described(gpu: Driver) -> None:
    device = gpu.device()
    free, total = gpu.memory()
    assert device.name
    assert (5, 0) <= device.sm < (20, 0)
    assert 0 < free <= total <= device.total * 1.01


def test_bytes_events_and_graphs(buffers: Buffers) -> None:
    stream, device = buffers.stream(), buffers.alloc(SIZE)
    there, back = buffers.pinned(SIZE), buffers.pinned(SIZE)
    there.array[:] = np.random.default_rng(0).integers(0, 256, SIZE)
    start, end = buffers.event(), buffers.event()
    buffers.record(start, stream)
    buffers.copy_in(device, there, SIZE, stream)
    buffers.copy_out(back, device, SIZE, stream)
    buffers.record(end, stream)
    buffers.wait(stream)
    np.testing.assert_array_equal(back.array, there.array)
    assert 0 < buffers.milliseconds(start, end) < 1000
    graph = buffers.capture(stream, lambda: buffers.copy_in(device, there, SIZE, stream))
    there.array[:] = 7
    buffers.launch(graph, stream)
    buffers.copy_out(back, device, SIZE, stream)
    buffers.wait(stream)
    assert (back.array == 7).all()
    with pytest.raises(UnsupportedError):
        buffers.capture(stream, lambda: buffers.wait(stream))
    buffers.wait(stream)  # it can be used again


def test_mapped_memory_and_too_much_memory(buffers: Buffers, gpu: Driver) -> None:
    mapped, back, stream = buffers.pinned(SIZE, mapped=True), buffers.pinned(SIZE), buffers.stream()
    mapped.array[:] = 9
    buffers.copy_out(back, mapped, SIZE, stream)  # the device reads what the host wrote
    buffers.wait(stream)
    assert (back.array == 9).all()
    with pytest.raises(OutOfMemoryError):
        buffers.alloc(gpu.device().total * 2)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_plan_agrees_with_onnx_runtime(
    gpu: Driver, make_classifier: Callable[..., Any], tmp_path: Path, cuda_graph: bool
) -> None:
    try:
        trt = library.load()
    except UnsupportedError as error:
        pytest.skip(str(error))
    model = make_classifier(classes=50, size=32).data
    (tmp_path / "model.onnx").write_bytes(model)
    plan = build_plan(trt, tmp_path / "model.onnx", Options(batch=(1, 4, 8), libraries=False))
    with (
        closing(open_plan(plan.data, cuda_graph=cuda_graph)) as session,
        closing(open_session(model)) as peer,
    ):
        for count in (1, 1, 1, 8, 8, 8, 3, 20):
            x = np.random.default_rng(count).normal(size=(count, 3, 32, 32)).astype(np.float32)
            found, wanted = session.run(x)["scores"], peer.run(x)["scores"]
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted)
            assert session.timings()["GPU Compute Time"] > 0
        assert session.notes == ()
