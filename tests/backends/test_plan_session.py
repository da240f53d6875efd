"""Sessions over plans against ONNX Runtime, for every release of the contract.

Simulated: TensorRT (``fake_tensorrt``, which computes with ONNX Runtime) and the GPU with its driver (``fake_cuda``).
So no number here is TensorRT's; what is real is the way of every byte through memory, streams and graphs, the order of
the calls, and that nothing is left behind, whatever fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from fake_cuda import DEVICE, EXEC, MAPPED, PINNED, UNKNOWN, FakeCuda
from fake_tensorrt import RELEASES, Scene
from onnx import TensorProto, helper
from planned import RNG, assert_same, compiled, expected, images
from rainbow import rainbow

from expertc.backends import Session
from expertc.backends.cpu import open_session
from expertc.backends.tensorrt import driver
from expertc.backends.tensorrt.session import open_plan
from expertc.bench.phases import DEVICE as PHASES
from expertc.bench.predictions import Timed
from expertc.card import CARD_KEY
from expertc.errors import (
    CardError,
    ModelError,
)  # fmt: skip

MakeClassifier = Callable[..., Any]


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
