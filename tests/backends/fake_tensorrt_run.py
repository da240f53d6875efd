"""What the fakes play of TensorRT's runtime. See ``fake_tensorrt``; a name is only there if its release has it.

Addresses are those of ordinary memory: beside a fake driver whose "device" memory is the host's, everything fits.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from fake_tensorrt_build import MAGIC, NUMPY

WRONG_RELEASE = (
    "1: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization assertion "
    "stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current Version: 239, Serialized "
    "Engine Version: 232)"
)
DAMAGED = "1: [stdArchiveReader.cpp::StdArchiveReader::31] Error Code 1: Serialization (Magic tag does not match)"


class Runtime:
    """Opens plans of its own release."""

    _trt: Any
    DLA_core = -1
    max_threads = 1
    error_recorder = None

    def __init__(self, logger: Any) -> None:
        if not self._trt.scene.driver:
            from fake_tensorrt import Segfault

            raise Segfault("trt.Runtime() without a driver")
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:
        return int(self._trt.scene.dla_cores)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data = bytes(serialized_engine)
        if not data.startswith(MAGIC):
            self._logger.log(self._trt.ILogger.ERROR, DAMAGED)
            return None
        header, _, model = data[len(MAGIC) :].partition(b"\n")
        about = json.loads(header)
        if about["release"] != self._trt.__version__:
            self._logger.log(self._trt.ILogger.ERROR, WRONG_RELEASE)
            return None
        return self._trt.ICudaEngine(about, model, self._logger)


class ICudaEngine:
    """An engine: inputs first, then outputs."""

    _trt: Any
    name = "Unnamed Network 0"
    refittable = False
    error_recorder = None
    num_aux_streams = 0
    device_memory_size = 0
    device_memory_size_v2 = 0

    def __init__(self, about: dict[str, Any], model: bytes, logger: Any) -> None:
        self._about, self._model, self._logger = about, model, logger
        self._tensors = {name: (shape, kind) for name, shape, kind in (*about["inputs"], *about["outputs"])}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._about["layers"])

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._about["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode, inputs = self._trt.TensorIOMode, {each[0] for each in self._about["inputs"]}
        return mode.NONE if name not in self._tensors else mode.INPUT if name in inputs else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, self._tensors[name][1])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name][0])

    def get_tensor_bytes_per_component(self, name: str) -> int:
        return int(np.dtype(NUMPY[self._tensors[name][1]]).itemsize)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        given = self._about["profiles"][profile_index].get(name, [self._tensors[name][0]] * 3)
        return [tuple(each) for each in given]

    def create_execution_context(self) -> Any:
        return self._trt.IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector(self)

    def serialize(self) -> Any:
        return self._trt.IHostMemory(MAGIC + json.dumps(self._about).encode() + b"\n" + self._model)


class EngineInspector:
    """Layers as JSON; the list of inputs and outputs has another key from 11 on."""

    _trt: Any
    execution_context = None
    error_recorder = None

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 (the real name)
        if format != self._trt.LayerInformationFormat.JSON:
            raise TypeError("incompatible function arguments")
        about = self._engine._about
        layers = [self._layer(*each) if about["detailed"] else each[0] for each in about["layers"]]
        key = "I/O Tensors" if int(self._trt.__version__.split(".")[0]) >= 11 else "Bindings"
        return json.dumps({"Layers": layers, key: list(self._engine._tensors)})

    @staticmethod
    def _layer(name: str, kind: str) -> dict[str, Any]:
        return {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": [], "TacticValue": "0x0000000000000000"}


class IExecutionContext:
    """Runs an engine: ONNX Runtime computes, and memory is read and written when the stream gets that far."""

    _trt: Any
    name = ""
    error_recorder = None
    profiler = None
    enqueue_emits_profile = True
    nvtx_verbosity = None

    def __init__(self, engine: Any) -> None:
        self._engine, self._logger, self._profile = engine, engine._logger, 0
        self._addresses: dict[str, int] = {}
        self._shapes = {name: tuple(shape) for name, shape, _ in engine._about["inputs"]}
        self._session: Any = None

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not any(-1 in shape for shape in self._shapes.values())

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return False
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        given = tuple(int(size) for size in shape)
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        fits = len(given) == len(low) and all(a <= b <= c for a, b, c in zip(low, given, high, strict=True))
        if not fits:
            self._logger.log(
                self._trt.ILogger.ERROR,
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Supplied binding dimension {given} "
                f"for bindings[0] exceed min ~ max range at index 0.)",
            )
            return False
        self._shapes[name] = given
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name, shape in self._shapes.items() if -1 in shape]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        batch = next(iter(self._shapes.values()))[0]  # outputs leave open what the first input does
        return tuple(batch if size == -1 else size for size in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = int(memory)
        return name in self._engine._tensors

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        missing = [name for name in self._engine._tensors if not self._addresses.get(name)]
        if missing or not self.all_binding_shapes_specified:
            text = f"Error Code 3: API Usage Error (Address is not set for {missing}, or a shape is not specified)"
            self._logger.log(self._trt.ILogger.ERROR, f"IExecutionContext::enqueueV3: {text}")
            return False
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        self._trt.scene.launched(int(stream_handle), lambda: self._compute(addresses, shapes))
        return True

    def _compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        kinds = {name: np.dtype(NUMPY[kind]) for name, (_, kind) in self._engine._tensors.items()}
        feeds = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * kinds[name].itemsize
            data = ctypes.string_at(addresses[name], size)
            feeds[name] = np.frombuffer(data, kinds[name]).reshape(shape)
        for name, values in self._run(feeds).items():
            data = np.ascontiguousarray(values, dtype=kinds[name]).tobytes()
            ctypes.memmove(addresses[name], data, len(data))

    def _run(self, feeds: dict[str, Any]) -> Any:
        if self._trt.scene.compute is not None:
            return self._trt.scene.compute(feeds)
        if self._session is None:
            import onnxruntime  # only here: a child that builds starts twice as fast

            options = onnxruntime.SessionOptions()
            options.log_severity_level, options.intra_op_num_threads = 4, 1
            self._session = onnxruntime.InferenceSession(
                self._engine._model, options, providers=["CPUExecutionProvider"]
            )
        wanted = {each.name: each.type for each in self._session.get_inputs()}
        wide = {name: np.int64 for name, kind in wanted.items() if kind == "tensor(int64)"}
        fed = {name: values.astype(wide.get(name, values.dtype)) for name, values in feeds.items()}
        names = [each.name for each in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, fed), strict=True))


RUN = {played.__name__: played for played in (EngineInspector, ICudaEngine, IExecutionContext, Runtime)}
