"""Sessions over plans against ONNX Runtime, for every release of the contract.

Simulated: TensorRT (``fake_tensorrt``, which computes with ONNX Runtime) and the GPU with its driver (``fake_cuda``).
So no number here is TensorRT's; what is real is the way of every byte through memory, streams and graphs, the order of
the calls, and that nothing is left behind, whatever fails.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_cuda import DEVICE, EXEC, MAPPED, OUT_OF_MEMORY, PINNED, UNKNOWN, FakeCuda
from fake_tensorrt import RELEASES, Scene, fake
from onnx import TensorProto, helper, numpy_helper
from rainbow import rainbow

from expertc.backends import Session
from expertc.backends.cpu import open_session
from expertc.backends.tensorrt import driver, library
from expertc.backends.tensorrt.builder import build_plan
from expertc.backends.tensorrt.driver import CudaError, NoDeviceError, NoDriverError, open_driver
from expertc.backends.tensorrt.identity import identity
from expertc.backends.tensorrt.options import Options
from expertc.backends.tensorrt.session import open_plan
from expertc.bench.phases import DEVICE as PHASES
from expertc.bench.predictions import Timed
from expertc.card import CARD_KEY
from expertc.errors import (
    BundleError,
    CardError,
    DeviceMismatchError,
    ExitCode,
    ModelError,
    OutOfMemoryError,
    UnsupportedError,
)  # fmt: skip

MakeClassifier = Callable[..., Any]
SIZES = (2, 3, 4)  # images per call of the plans here: the least, what they are tuned for, the most
RNG = np.random.default_rng(0)


def compiled(trt: Any, model: bytes, sizes: tuple[int, int, int] = SIZES) -> bytes:
    """A plan."""
    is_open = not onnx.load_from_string(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(model)
        return build_plan(trt, file, Options(batch=sizes if is_open else None)).data


@pytest.fixture
def scene(cuda: FakeCuda) -> Scene:
    return Scene(launched=cuda.launched)


@pytest.fixture
def install(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Puts the fake of a release in TensorRT's place."""

    def put(release: str) -> Any:
        trt = fake(release, scene)
        monkeypatch.setattr(library, "load", lambda: trt)
        return trt

    return put


@pytest.fixture
def trt(install: Callable[[str], Any]) -> Any:
    return install("10.3")


@pytest.fixture
def ranked(make_classifier: MakeClassifier) -> bytes:
    """Scores, the best three of them and where they are, and the best class: float32 and int64 outputs."""
    model = make_classifier(classes=7).model
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([3]), "three"))
    graph.node.append(helper.make_node("TopK", ["scores", "three"], ["top", "places"], axis=1))
    graph.node.append(helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0))
    for name, kind, shape in (
        ("top", TensorProto.FLOAT, ["batch", 3]), ("places", TensorProto.INT64, ["batch", 3]),
        ("best", TensorProto.INT64, ["batch"]),
    ):  # fmt: skip
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return bytes(model.SerializeToString())


def images(count: int, *shape: int) -> np.ndarray:
    return RNG.normal(size=(count, *(shape or (3, 8, 8)))).astype(np.float32)


def expected(model: bytes, x: np.ndarray, **more: Any) -> dict[str, np.ndarray]:
    """What ONNX Runtime says of the same model."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x, **more}), strict=True))


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("release", RELEASES)
def test_a_plan_says_what_onnx_runtime_says(
    cuda: FakeCuda, install: Callable[[str], Any], scene: Scene, ranked: bytes, release: str, integrated: bool
) -> None:
    """Also the types of indices, which TensorRT 8 narrows; in portions, and filled up to the least that it takes."""
    cuda.reset(integrated=integrated)
    plan = compiled(install(release), ranked)
    with closing(open_plan(plan)) as session:
        made: Session = session
        assert (made.input, made.input_shape, made.controls) == ("image", (None, 3, 8, 8), ())
        assert (made.outputs, made.classes) == (("scores", "top", "places", "best"), None)
        assert cuda.alive(DEVICE | PINNED | MAPPED) == (5 if integrated else 10)
        for call in scene.called("IExecutionContext.set_tensor_address"):
            assert cuda.reaches(call[1], 4 * 7 if call[0] == "scores" else 1)
        for count in (4, 4, 4, 1, 1, 3, 9, 9, 13):
            x = images(count)
            assert_same(session.run(x), expected(ranked, x))
        assert session.notes == ()


@pytest.mark.parametrize("options", [{"batch": 2}, {"dtype": np.float16}, {"dtype": np.float16, "batch": 1}])
def test_other_types_and_a_fixed_batch(trt: Any, make_classifier: MakeClassifier, options: dict[str, Any]) -> None:
    classifier = make_classifier(**options)
    count = options.get("batch", 3)
    x = images(count).astype(np.float64)
    with closing(open_plan(compiled(trt, classifier.data))) as session:
        assert session.input_shape == (options.get("batch"), 3, 8, 8)
        found = session.run(np.asfortranarray(x))
        assert_same(found, expected(classifier.data, x.astype(options.get("dtype", np.float32))))
        if "batch" in options:
            with pytest.raises(ModelError, match=r"does not take an input of shape \(5, 3, 8, 8\)") as caught:
                session.run(images(5))
            assert caught.value.hint == f"It takes {count}x3x8x8."


def test_bytes_in(trt: Any) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
         helper.make_node("ReduceMean", ["real"], ["scores"], axes=[2, 3], keepdims=0)],
        "bytes",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    x = RNG.integers(0, 256, (3, 3, 8, 8), np.uint8)
    with closing(open_plan(compiled(trt, model))) as session:
        assert_same(session.run(x), expected(model, x))


def test_a_type_that_tensorrt_narrows_is_restored_if_it_is_known(trt: Any, make_classifier: MakeClassifier) -> None:
    model = make_classifier(classes=3).model
    model.graph.node.append(helper.make_node("Cast", ["scores"], ["wide"], to=TensorProto.DOUBLE))
    model.graph.output.append(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["batch", 3]))
    plan, x = compiled(trt, model.SerializeToString()), images(2)
    with closing(open_plan(plan)) as session:
        assert session.run(x)["wide"].dtype == np.float32
    with closing(open_plan(plan, types={"wide": np.float64})) as session:
        assert_same(session.run(x), expected(model.SerializeToString(), x))


# -- controls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrated", [False, True])
def test_controls_are_fed(cuda: FakeCuda, trt: Any, integrated: bool) -> None:
    cuda.reset(integrated=integrated)
    net = rainbow(gained=True)
    model, card = net.bytes(), net.metadata[CARD_KEY]
    x, gain = images(3), [0.5, 2.0, 1.5, 0.25]
    with closing(open_plan(compiled(trt, model), card)) as session, closing(open_session(model)) as peer:
        assert (session.input, session.controls, session.classes) == (peer.input, peer.controls, peer.classes)
        for _ in range(3):
            assert_same(session.run(x), peer.run(x))
            assert_same(session.run(x, {"gain": gain}), peer.run(x, {"gain": gain}))
        for controls in ({"gian": gain}, {"gain": [1.0]}, {"image": gain}):
            with pytest.raises(ModelError) as ours:
                session.run(x, controls)
            with pytest.raises(ModelError) as theirs:
                peer.run(x, controls)
            if "image" not in controls:
                assert ours.value.message.removeprefix("The plan") == theirs.value.message.removeprefix("The model")


def test_inputs_that_nobody_describes(trt: Any) -> None:
    net = rainbow(gained=True)
    plan, card = compiled(trt, net.bytes()), net.metadata[CARD_KEY]
    with pytest.raises(ModelError, match="2 inputs, and no card"):
        open_plan(plan)
    with pytest.raises(ModelError, match="other inputs than its card"):
        open_plan(compiled(trt, rainbow().bytes()), card)
    with pytest.raises(CardError, match="not valid JSON"):
        open_plan(plan, "{")


# -- graphs ------------------------------------------------------------------------------------------------------------


def executions(scene: Scene) -> int:
    return len(scene.called("IExecutionContext.execute_async_v3"))


def test_a_graph_is_made_when_a_shape_comes_again(cuda: FakeCuda, scene: Scene, trt: Any, ranked: bytes) -> None:
    with closing(open_plan(compiled(trt, ranked))) as session:
        counts = []
        for count in (4, 4, 4, 4, 3, 3, 3, 4, 2):
            x = images(count)
            assert_same(session.run(x), expected(ranked, x))
            counts.append((executions(scene), cuda.alive(EXEC)))
    # (calls of TensorRT so far, graphs alive): one plain, one for the graph, then none; a new shape drops the graph.
    assert counts == [(1, 0), (2, 1), (2, 1), (2, 1), (3, 0), (4, 1), (4, 1), (5, 0), (6, 0)]


def test_graphs_can_be_left_out(cuda: FakeCuda, scene: Scene, trt: Any, ranked: bytes) -> None:
    with closing(open_plan(compiled(trt, ranked), cuda_graph=False)) as session:
        for _ in range(3):
            x = images(4)
            assert_same(session.run(x), expected(ranked, x))
    assert executions(scene) == 3


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"])
def test_without_a_graph_the_session_goes_on(cuda: FakeCuda, trt: Any, ranked: bytes, call: str) -> None:
    with closing(open_plan(compiled(trt, ranked))) as session:
        for number in range(4):
            if number == 1:
                cuda.fail(call, UNKNOWN)
            x = images(3)
            assert_same(session.run(x), expected(ranked, x))
            assert len(session.notes) == (number > 0)
        assert "No CUDA graph" in session.notes[0]
        assert "CUDA_ERROR_UNKNOWN" in session.notes[0]
    assert executions(trt.scene) == 4 + (call == "cuGraphInstantiateWithFlags")


def test_a_launch_that_cannot_be_captured(
    cuda: FakeCuda, trt: Any, ranked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT waits inside an execution where it has to, which voids a capture."""
    real = trt.IExecutionContext.execute_async_v3

    def waits(self: Any, stream: int) -> Any:
        done = real(self, stream)
        return done and cuda._library.cuStreamSynchronize(driver.ctypes.c_void_p(stream)) == 0

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", waits)
    with closing(open_plan(compiled(trt, ranked))) as session:
        for _ in range(4):
            x = images(3)
            assert_same(session.run(x), expected(ranked, x))
        assert len(session.notes) == 1
    assert cuda.alive() == 0


def test_what_fills_a_call_up_are_images_of_it(trt: Any, scene: Scene, ranked: bytes) -> None:
    fed = []
    scene.compute = lambda feeds: fed.append(feeds["image"]) or expected(ranked, feeds["image"])
    with closing(open_plan(compiled(trt, ranked))) as session:
        session.run(images(4))
        x = images(1)
        session.run(x)
    np.testing.assert_array_equal(fed[-1], np.concatenate([x, x]))


# -- what it tells, and threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrated", [False, True])
def test_it_tells_where_the_time_went(cuda: FakeCuda, trt: Any, ranked: bytes, integrated: bool) -> None:
    """By the look-alike's clock: 1 ms a copy, 10 ms an execution."""
    cuda.reset(integrated=integrated)
    with closing(open_plan(compiled(trt, ranked))) as session:
        assert isinstance(session, Timed)
        assert session.timings() == {}
        for count, calls in ((4, 1), (4, 1), (9, 3)):
            session.run(images(count))
            told = session.timings()
            assert told.pop("Enqueue Time") > 0
            compute = {"GPU Compute Time": 0.010 * calls}
            copies = {} if integrated else {"H2D Latency": 0.001 * calls, "D2H Latency": 0.004 * calls}
            parts = {**compute, **copies}
            assert told == pytest.approx({**parts, "Latency": sum(parts.values())})
            assert told.keys() <= PHASES.keys()


def test_threads_take_turns(trt: Any, scene: Scene, ranked: bytes) -> None:
    wrong: list[int] = []

    def slowly(feeds: Any) -> Any:
        time.sleep(0.002)  # in which another thread would change the buffers
        return expected(ranked, feeds["image"])

    scene.compute = slowly
    with closing(open_plan(compiled(trt, ranked))) as session:

        def work(seed: int) -> None:
            x = np.random.default_rng(seed).normal(size=(1 + seed % 5, 3, 8, 8)).astype(np.float32)
            right = expected(ranked, x)["scores"]
            wrong.extend(seed for _ in range(4) if not np.array_equal(session.run(x)["scores"], right))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


# -- what goes wrong ---------------------------------------------------------------------------------------------------


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
    "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuEventCreate",
    "cuMemHostAlloc", "cuMemHostGetDevicePointer_v2", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2",
    "cuEventRecord", "cuStreamSynchronize", "cuGraphLaunch",
)  # fmt: skip
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
