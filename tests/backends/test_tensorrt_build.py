"""Building a plan, over the fakes of eight releases.

**Simulated**: which calls are made, with what, and what becomes of refusals. What the fake engines compute is held
against ONNX's reference evaluator, which says that the fakes are worth something, not that TensorRT computes right.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import RELEASES, Scene, fake, names
from networks import Net, feeds, reference
from onnx import TensorProto

from expertc.backends.tensorrt.builder import Plan, build_plan
from expertc.backends.tensorrt.inspector import dla_share
from expertc.backends.tensorrt.library import has
from expertc.backends.tensorrt.listener import monitor
from expertc.backends.tensorrt.options import Options, batch_range
from expertc.backends.tensorrt.readings import BuildMemoryError
from expertc.errors import CompilationError, ExitCode, ExpertcError, ModelError, UnsupportedError, UsageError

MIB = 2**20


def classifier(precision: str = "fp32", batch: int | str = "batch") -> bytes:
    """A convolution, a rectifier and a head; in half precision, or with quantised data, on request."""
    net = Net(19 if precision == "int8" else 17, seed=3, batch=batch)  # before 19 the evaluator has no int8
    x = net.image(3, 8, 8)
    kind = np.float16 if precision == "fp16" else np.float32
    if precision == "fp16":
        x = net.node("Cast", x, to=TensorProto.FLOAT16, out="half")
    if precision == "int8":
        scale, zero = net.constant(np.asarray(0.05, np.float32)), net.constant(np.asarray(0, np.int8))
        x = net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, zero, out="q"), scale, zero, out="dq")
    x = net.node("Conv", x, net.weight(4, 3, 3, 3, dtype=kind), out="conv", kernel_shape=[3, 3], pads=[1] * 4)
    x = net.node("GlobalAveragePool", net.node("Relu", x, out="relu"), out="pool")
    if precision == "fp16":
        x = net.node("Cast", x, to=TensorProto.FLOAT, out="single")
    net.node("Gemm", net.node("Flatten", x, out="flat"), net.weight(4, 5), out="scores")
    net.result("scores", 5)
    return net.bytes()


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "expert.onnx"
    path.write_bytes(classifier())
    return path


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(trt: Any, plan: Plan, x: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """What the plan computes, by the calls of the runtime that all releases have."""
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan.data)
    context = engine.create_execution_context()
    arrays = {}
    for at in range(engine.num_io_tensors):
        name = engine.get_tensor_name(at)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            assert context.set_input_shape(name, x.shape)
            arrays[name] = np.ascontiguousarray(x)
    assert context.infer_shapes() == []
    for at in range(engine.num_io_tensors):
        name = engine.get_tensor_name(at)
        arrays.setdefault(name, np.full(context.get_tensor_shape(name), np.nan, np.float32))
        assert context.set_tensor_address(name, arrays[name].ctypes.data_as(ctypes.c_void_p).value)
    assert context.execute_async_v3(0)
    return {name: values for name, values in arrays.items() if values is not x}


def test_a_plan_is_built_and_computes_what_the_model_does(release: str, onnx: Path) -> None:
    scene, phases, counts = Scene(), [], []
    trt = fake(release, scene)
    plan = build_plan(trt, onnx, Options(batch=(1, 2, 4), workspace_mb=64), told=phases.append, counted=counts.append)
    given = feeds(classifier(), batch=3)
    expected = reference(classifier(), given)["scores"]
    np.testing.assert_allclose(run(trt, plan, given["image"])["scores"], expected, rtol=1e-5)

    assert plan.tensors == ("image", "scores")  # "Bindings", and "I/O Tensors" from 11 on
    assert [layer["Name"] for layer in plan.layers] == ["Conv:conv", "Relu:relu", "GlobalAveragePool:pool",
                                                        "Flatten:flat", "Gemm:scores"]  # fmt: skip
    assert all({"LayerType", "Inputs", "Outputs"} <= layer.keys() for layer in plan.layers)
    assert (plan.dla_share, plan.notes) == (None, ())
    assert plan.seconds > 0
    assert counts == [5]
    assert (phases[0], phases[-1]) == ("reading the model", "inspecting the engine")
    assert ("Building Engine, 60 %" in phases) == has(trt, "IProgressMonitor")

    pool, flag = trt.MemoryPoolType.WORKSPACE, trt.BuilderFlag
    assert scene.called("IBuilderConfig.set_memory_pool_limit") == [(pool, 64 * MIB)]
    assert scene.called("IBuilderConfig.profiling_verbosity=") == [(trt.ProfilingVerbosity.DETAILED,)]
    assert scene.called("IBuilderConfig.clear_flag") == [(flag.TF32,)]
    assert scene.called("IBuilderConfig.set_flag") == []
    sizes = [(size, 3, 8, 8) for size in (1, 2, 4)]
    assert scene.called("IOptimizationProfile.set_shape") == [("image", *sizes)]
    assert not [name for name, _ in scene.calls if "alibra" in name]


def test_networks_are_strongly_typed_from_10_on(release: str, onnx: Path) -> None:
    scene = Scene()
    trt = fake(release, scene)
    build_plan(trt, onnx, Options())
    named = trt.NetworkDefinitionCreationFlag
    old = release.startswith("8.")
    assert scene.called("Builder.create_network") == [
        (1 << int(named.EXPLICIT_BATCH if old else named.STRONGLY_TYPED),)
    ]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precision_is_in_the_model_and_before_10_in_the_flags_too(release: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / "expert.onnx"
    path.write_bytes(classifier(precision))
    scene = Scene()
    trt = fake(release, scene)
    plan = build_plan(trt, path, Options(precision=precision))
    given = feeds(path.read_bytes(), batch=1)
    expected = reference(path.read_bytes(), given)["scores"]
    np.testing.assert_allclose(run(trt, plan, given["image"])["scores"], expected, rtol=1e-2)
    flags = [flag.name for (flag,) in scene.called("IBuilderConfig.set_flag")]
    assert flags == ([precision.upper()] if release.startswith("8.") else [])


def test_a_model_of_another_precision_is_refused_where_nothing_lowers_it(release: str, onnx: Path) -> None:
    scene = Scene()
    trt = fake(release, scene)
    for precision in ("fp16", "int8"):
        if precision == "fp16" and release.startswith("8."):
            build_plan(trt, onnx, Options(precision=precision))  # weakly typed: TensorRT may lower it
            assert scene.called("IBuilderConfig.set_flag") == [(trt.BuilderFlag.FP16,)]
            continue
        with pytest.raises(CompilationError, match=f"nothing in {precision}.* makes nothing so by itself") as caught:
            build_plan(trt, onnx, Options(precision=precision))
        assert f"--precision {precision}" in caught.value.hint


def test_int8_on_a_gpu_without_it(release: str, tmp_path: Path) -> None:
    path = tmp_path / "expert.onnx"
    path.write_bytes(classifier("int8"))
    trt = fake(release, Scene(fast_int8=False, fast_fp16=False))
    if "platform_has_fast_int8" not in names("Builder", release):
        build_plan(trt, path, Options(precision="int8"))  # 11 does not tell, and finds out by itself
        return
    with pytest.raises(UnsupportedError, match="does not compute in int8") as caught:
        build_plan(trt, path, Options(precision="int8"))
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
    path.write_bytes(classifier("fp16"))
    assert "no faster than single" in " ".join(build_plan(trt, path, Options(precision="fp16")).notes)


def test_tf32_the_level_and_foreign_kernels_are_on_request(release: str, onnx: Path) -> None:
    scene = Scene()
    trt = fake(release, scene)
    plan = build_plan(trt, onnx, Options(tf32=True, level=5, libraries=False))
    assert scene.called("IBuilderConfig.set_flag") == [(trt.BuilderFlag.TF32,)]
    assert scene.called("IBuilderConfig.clear_flag") == []
    own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    assert scene.called("IBuilderConfig.set_tactic_sources") == [(sum(1 << int(source) for source in own),)]
    if release.startswith("8.5"):
        assert plan.notes == ("TensorRT 8.5.2.2 has no optimisation levels.",)
    else:
        assert scene.called("IBuilderConfig.builder_optimization_level=") == [(5,)]


def test_of_nested_phases_the_outer_is_told_and_nothing_twice() -> None:
    heard: list[str] = []
    watching = monitor(fake("10.3"), heard.append)
    watching.phase_start("Tactics \x1b[31m", None, 1000)
    watching.phase_start("inner", "Tactics \x1b[31m", 3)
    for step in range(1000):
        assert watching.step_complete("inner", step % 3)
        assert watching.step_complete("Tactics \x1b[31m", step)
    watching.phase_finish("Tactics \x1b[31m")
    assert heard == ["Tactics [31m", *(f"Tactics [31m, {share} %" for share in range(101))]
    assert monitor(fake("8.6"), heard.append) is None


# -- the DLA -----------------------------------------------------------------------------------------------------------


def test_a_dla_core_takes_what_it_can_and_the_share_is_said(release: str, tmp_path: Path) -> None:
    path = tmp_path / "expert.onnx"
    path.write_bytes(classifier("fp16", batch=2))
    scene = Scene(dla_cores=2)
    trt = fake(release, scene)
    plan = build_plan(trt, path, Options(precision="fp16", dla_core=1))
    assert scene.called("IBuilderConfig.DLA_core=") == scene.called("Runtime.DLA_core=") == [(1,)]
    assert scene.called("IBuilderConfig.default_device_type=") == [(trt.DeviceType.DLA,)]
    assert (trt.BuilderFlag.GPU_FALLBACK,) in scene.called("IBuilderConfig.set_flag")
    assert "{ForeignNode[Conv:conv...GlobalAveragePool:pool]}" in {layer["Name"] for layer in plan.layers}
    assert plan.dla_share == 3 / 7  # of Cast, Conv, Relu, GlobalAveragePool, Cast, Flatten and Gemm
    assert plan.notes == ("43% of the network's layers run on DLA core 1, the rest on the GPU.",)
    adjusted = scene.called("OnnxParser.set_flag")
    assert bool(adjusted) == ("ADJUST_FOR_DLA" in names("OnnxParserFlag", release))


def test_the_share_counts_what_the_engines_layers_stand_for() -> None:
    network = [f"conv{at}" for at in range(8)] + ["(Unnamed Layer* 8) [Shuffle]", "fc"]
    layers = [
        {"Name": "Reformatting CopyNode for Input Tensor 0 to {ForeignNode[conv0...conv5]}", "LayerType": "Reformat"},
        {"Name": "{ForeignNode[conv0...conv5]}", "LayerType": "DLA"},
        {"Name": "conv3 + PWN(conv4)", "LayerType": "CaskConvolution"},
        {"Name": "{ForeignNode[conv6]}"},
        {"Name": "{ForeignNode[conv7...fc]}", "LayerType": "Myelin"},
    ]
    assert dla_share(layers, network, ()) == 4 / 10
    assert dla_share(layers, network, ("{ForeignNode[conv6]}",)) == 5 / 10  # that it runs there, only the log said
    assert dla_share([], [], ()) == 0


@pytest.mark.parametrize(("cores", "words"), [(0, "finds none"), (2, "only 2, counted from 0")])
def test_a_dla_core_that_does_not_exist(release: str, onnx: Path, cores: int, words: str) -> None:
    onnx.write_bytes(classifier("fp16"))
    with pytest.raises(UnsupportedError, match=f"no DLA core 2: .*{words}") as caught:
        build_plan(fake(release, Scene(dla_cores=cores)), onnx, Options(precision="fp16", dla_core=2))
    assert caught.value.exit_code == ExitCode.UNSUPPORTED


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_one_image_is_the_size_of_an_open_batch_unless_one_is_given(onnx: Path) -> None:
    scene = Scene()
    build_plan(fake("10.3", scene), onnx, Options())
    assert scene.called("IOptimizationProfile.set_shape") == [("image", (1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))]


def test_a_fixed_batch_needs_no_profile_and_takes_no_other(onnx: Path) -> None:
    onnx.write_bytes(classifier(batch=4))
    scene = Scene()
    plan = build_plan(fake("10.3", scene), onnx, Options(batch=(4, 4, 4)))
    assert scene.called("IBuilderConfig.add_optimization_profile") == []
    assert len(plan.layers) == 5
    with pytest.raises(UsageError, match="takes exactly 4 images"):
        build_plan(fake("10.3"), onnx, Options(batch=(1, 2, 4)))


def test_an_open_height_is_refused_by_name(tmp_path: Path, make_classifier: Any) -> None:
    path = tmp_path / "open.onnx"
    path.write_bytes(make_classifier(size="side").data)
    with pytest.raises(UnsupportedError, match="input 'image' leaves more than its batch open"):
        build_plan(fake("10.3"), path, Options())


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(kind: type[ExpertcError], scene: Scene, onnx: Path, release: str = "10.3") -> ExpertcError:
    with pytest.raises(kind) as caught:
        build_plan(fake(release, scene), onnx, Options(workspace_mb=1024))
    assert type(caught.value) is kind
    return caught.value


def test_an_operator_that_is_not_read_is_said_in_tensorrts_words_and_ours(release: str, onnx: Path) -> None:
    error = refused(UnsupportedError, Scene(unread=("Relu",)), onnx, release)
    assert f"cannot be read by TensorRT {release}: TensorRT says “In node 1" in error.message
    assert "Plugin not found" in error.message
    assert "does not read the operator" in error.hint


def test_running_out_of_memory_is_told_from_the_cause_not_from_what_follows(release: str, onnx: Path) -> None:
    error = refused(BuildMemoryError, Scene(memory=512 * MIB), onnx, release)
    assert "Cuda Runtime (out of memory)" in error.message
    assert "any implementation" not in error.message
    assert error.exit_code == ExitCode.COMPILATION
    build_plan(fake(release, Scene(memory=2048 * MIB)), onnx, Options(workspace_mb=1024))


@pytest.mark.parametrize(
    ("severity", "text", "kind", "hint"),
    [
        ("ERROR", "Error Code 9: Internal Error (Target GPU SM 61 is not supported by this TensorRT release.)",
         UnsupportedError, "no kernels for this GPU"),
        ("ERROR", "CUDA initialization failure with error: 35. Please check your CUDA installation:",
         UnsupportedError, "driver does not fit"),
        ("ERROR", "Unable to load library: libnvinfer_builder_resource_sm86.so.10.8.0: cannot open",
         UnsupportedError, "not installed completely"),
        ("ERROR", "10: Could not find any implementation for node conv1 + relu1.", CompilationError, "allow more"),
        ("INTERNAL_ERROR", "Assertion engine != nullptr failed. \x1b[31m" + "x" * 1000, CompilationError, "trtexec"),
        ("INFO", "all is well and goes on as it should", CompilationError, "trtexec"),
    ],
)  # fmt: skip
def test_what_tensorrt_says_is_read(severity: str, text: str, kind: type[ExpertcError], hint: str, onnx: Path) -> None:
    error = refused(kind, Scene(log=((severity, text),), fails=True), onnx)
    assert hint in error.hint
    assert "\x1b" not in error.message
    assert len(error.message) < 400
    assert (text[18:34] in error.message) == (severity != "INFO")


def test_without_a_gpu_it_says_so(release: str, onnx: Path) -> None:
    error = refused(UnsupportedError, Scene(driver=False), onnx, release)
    assert "does not start: TensorRT says “CUDA initialization failure with error: 35" in error.message
    assert "driver" in error.hint


def test_what_is_no_model(tmp_path: Path) -> None:
    refused(ModelError, Scene(), tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x09 no model")
    assert "complete ONNX model" in refused(CompilationError, Scene(), broken).hint


def test_weights_elsewhere_are_never_read(tmp_path: Path) -> None:
    import onnx as library

    (tmp_path / "secret").write_bytes(bytes(2**16))
    place = tmp_path / "inner" / "expert.onnx"
    place.parent.mkdir()
    model = library.load_from_string(classifier())
    for tensor in model.graph.initializer:
        library.external_data_helper.set_external_data(tensor, "../secret", 0, 4)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    place.write_bytes(model.SerializeToString())
    scene = Scene()
    assert "'../secret'" in refused(ModelError, scene, place).message
    assert not scene.called("OnnxParser.parse_from_file")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"batch": (2, 1, 4)}, "2:1:4"),
        ({"batch": (0, 1, 1)}, "0:1:1"),
        ({"workspace_mb": 0}, "workspace of 0 MB"),
        ({"level": 6}, "optimisation level 6"),
        ({"precision": "fp16", "dla_core": -1}, "no DLA core -1"),
        ({"dla_core": 0}, "half precision and int8 only"),
        ({"precision": "int8", "dla_core": 0, "batch": (1, 2, 4)}, "one size of batch"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Options(**given)


def test_options_and_batches_are_written_and_read() -> None:
    options = Options("int8", (1, 8, 32), None, 512, True, 5, False)
    assert Options.from_mapping(options.to_mapping()) == options
    assert Options.from_mapping(Options().to_mapping()) == Options()
    assert batch_range("8") == (8, 8, 8)
    assert batch_range("1:8:32") == (1, 8, 32)
    for text in ("", "1:2", "a", "-1", "1:8:", "٣", "1:2:3:4", "1000000"):
        with pytest.raises(UsageError):
            batch_range(text)
