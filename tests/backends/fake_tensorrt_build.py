"""What the fakes play of TensorRT's build side. See ``fake_tensorrt``; a name is only there if its release has it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fake_tensorrt_parse import INetworkDefinition, Layer, OnnxParser

MAGIC = b"fake plan\n"
CACHE = b"fake timing cache "

# Recorded from real builds that failed.
OUT_OF_MEMORY = (
    ("ERROR", "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"),
    ("WARNING", "Requested amount of GPU memory (15485030400 bytes) could not be allocated. There may not be enough "
                "free memory for allocation to succeed."),
    ("ERROR", "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for "
              "node {ForeignNode[/1/Constant_36_output_0.../1/Slice_4]}.)"),
)  # fmt: skip
NO_DRIVER = (
    "Unable to determine GPU memory usage",
    "CUDA initialization failure with error: 35. Please check your CUDA installation: "
    "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html",
)  # 8.6.0 on a machine without one
NO_PROFILE = "Network has dynamic or shape inputs, but no optimization profile has been defined."
NO_FP16 = "fp16 precision has been set for a layer or layer output, but fp16 is not configured in the builder"
STRONG_FP16 = (
    "[builder.cpp::createNetworkBuildConfig::485] Error Code 3: API Usage Error (Parameter check failed at: "
    "optimizer/api/builder.cpp::createNetworkBuildConfig::485, condition: !config.getFlag(BuilderFlag::kFP16) )"
)


class Host(bytes):
    """``IHostMemory``: bytes that the library owns."""

    @property
    def nbytes(self) -> int:
        return len(self)


class ILogger:
    """The base of loggers."""

    def log(self, severity: Any, message: str) -> None:
        raise TypeError("pure virtual")


class Logger:
    """TensorRT's own logger, here a silent one."""

    min_severity = None

    def __init__(self, min_severity: Any = None) -> None:
        """Takes what the real one takes."""

    def log(self, severity: Any, message: str) -> None:
        """Says nothing."""


class IProgressMonitor:
    """The base of progress monitors."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True

    def phase_finish(self, phase_name: str) -> None: ...


class ITimingCache:
    """Which layers have been timed; only of use to the release that made it."""

    _trt: Any

    def __init__(self, release: str, entries: set[str]) -> None:
        self._release, self._entries = release, entries

    def serialize(self) -> Any:
        text = "".join(f"{entry}\n" for entry in sorted(self._entries)).encode()
        return self._trt.IHostMemory(CACHE + self._release.encode() + b"\n" + text)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._entries |= input_cache._entries
        return bool(ignore_mismatch) or input_cache._release == self._release

    def reset(self) -> bool:
        self._entries.clear()
        return True


class IOptimizationProfile:
    """Shapes by input: least, best, most."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    # The argument names are those of the real bindings.
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]

    def get_shape(self, input: str) -> list[tuple[int, ...]]:  # noqa: A002
        return self._shapes[input]


class IBuilderConfig:
    """Settings of a build; TF32 is on at first, as it is in TensorRT."""

    _trt: Any
    DLA_core = -1
    default_device_type = None
    profiling_verbosity = None
    builder_optimization_level = 3
    progress_monitor = None
    hardware_compatibility_level = None
    avg_timing_iterations = 1

    def __init__(self, logger: Any) -> None:
        self._logger, self._profiles, self._pools = logger, [], {}
        self._on, self._cache = {self._trt.BuilderFlag.TF32}, None

    def set_flag(self, flag: Any) -> None:
        self._on.add(self._flag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._on.discard(self._flag(flag))

    def get_flag(self, flag: Any) -> bool:
        return self._flag(flag) in self._on

    def _flag(self, flag: Any) -> Any:
        if not isinstance(flag, self._trt.BuilderFlag):
            raise TypeError("incompatible function arguments")
        return flag

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if not isinstance(pool, self._trt.MemoryPoolType) or not isinstance(pool_size, int):
            raise TypeError("incompatible function arguments")
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 2**40)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        return tactic_sources >> len(self._trt.TacticSource.__members__) == 0

    def add_optimization_profile(self, profile: Any) -> int:
        if not all(
            low <= best <= high for shapes in profile._shapes.values() for low, best, high in zip(*shapes, strict=True)
        ):
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        data = bytes(serialized_timing_cache)
        if data and not data.startswith(CACHE):
            self._logger.log(self._trt.ILogger.ERROR, "Serialized timing cache is corrupt")
            return None
        first, *entries = data.decode().splitlines() or [CACHE.decode() + self._trt.__version__]
        return self._trt.ITimingCache(first.rpartition(" ")[2], set(entries))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._release != self._trt.__version__ and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.op in self._trt.scene.dla


class Builder:
    """Makes plans."""

    _trt: Any
    max_threads = 1
    max_DLA_batch_size = 4096
    error_recorder = None

    def __init__(self, logger: Any) -> None:
        if not self._trt.scene.driver:
            for text in NO_DRIVER:
                logger.log(self._trt.ILogger.WARNING, text)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:
        return int(self._trt.scene.dla_cores)

    @property
    def platform_has_fast_fp16(self) -> bool:
        return bool(self._trt.scene.fast_fp16)

    @property
    def platform_has_fast_int8(self) -> bool:
        return bool(self._trt.scene.fast_int8)

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        scene = self._trt.scene
        refusal = self._refusal(network, config)
        if refusal:
            return self._say("ERROR", f"4: [network.cpp::validate::3036] Error Code 4: Internal Error ({refusal})")
        entries = {f"{self._trt.__version__} {layer.op}" for layer in network._layers}
        if config._cache is not None:
            scene.timed.append(len(entries - config._cache._entries))
        if not self._steps(config, len(entries)):
            return None
        for severity, text in scene.log:
            self._say(severity, text)
        if scene.memory is not None and config.get_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE) > scene.memory:
            for severity, text in OUT_OF_MEMORY:
                self._say(severity, text)
            return None
        if scene.fails:
            return None
        if config._cache is not None:
            config._cache._entries |= entries
        return self._trt.IHostMemory(self._plan(network, config))

    def _say(self, severity: str, text: str) -> None:
        self._logger.log(getattr(self._trt.ILogger, severity), text)

    def _refusal(self, network: Any, config: Any) -> str:
        trt, flags = self._trt, {flag.name for flag in config._on}
        half = any(tensor.dtype == trt.DataType.HALF for tensor in (*network._inputs, *network._outputs))
        half |= any(out.dtype == trt.DataType.HALF for layer in network._layers for out in layer._outputs)
        if any(-1 in tensor.shape for tensor in network._inputs) and not config._profiles:
            return NO_PROFILE
        if network._typed and flags & {"FP16", "INT8"}:
            return STRONG_FP16
        if not network._typed and half and "FP16" not in flags:
            return NO_FP16
        if config.default_device_type == trt.DeviceType.DLA:
            if not 0 <= config.DLA_core < trt.scene.dla_cores:
                return "DLA core is out of range"
            refused = [layer.name for layer in network._layers if layer.op not in trt.scene.dla]
            if refused and "GPU_FALLBACK" not in flags:
                return f"Layer {refused[0]} is not supported on DLA and GPU fallback is not enabled."
        return ""

    def _steps(self, config: Any, count: int) -> bool:
        """Half of the steps, what the scene does in the middle, and the rest; False if the monitor stops it."""
        monitor = getattr(config, "progress_monitor", None)
        if monitor is None:
            self._trt.scene.during()
            return True
        monitor.phase_start("Building Engine", None, count)
        for step in range(count):
            if step == count // 2:
                self._trt.scene.during()
            if not monitor.step_complete("Building Engine", step):
                return False
        monitor.phase_finish("Building Engine")
        return True

    def _plan(self, network: Any, config: Any) -> bytes:
        trt = self._trt
        on_dla = config.default_device_type == trt.DeviceType.DLA
        shapes = [dict(profile._shapes) for profile in config._profiles]
        header = {
            "release": trt.__version__,
            "profiles": shapes or [{tensor.name: [tensor.shape] * 3 for tensor in network._inputs}],
            "detailed": config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED,
            "inputs": [[each.name, each.shape, each.dtype.name] for each in network._inputs],
            "outputs": [[each.name, each.shape, each.dtype.name] for each in network._outputs],
            "layers": list(self._engine_layers(network, on_dla)),
        }
        return MAGIC + json.dumps(header).encode() + b"\n" + network._model.SerializeToString()

    def _engine_layers(self, network: Any, on_dla: bool) -> Any:
        """One per node on the GPU; neighbours on the DLA become one, with a copy before and after, as in real logs."""
        together: list[Layer] = []
        for layer in (*network._layers, None):
            if layer is not None and on_dla and layer.op in self._trt.scene.dla:
                together.append(layer)
                continue
            if together:
                ends = dict.fromkeys((together[0].name, together[-1].name))
                name = f"{{ForeignNode[{'...'.join(ends)}]}}"
                old = self._trt.__version__.startswith("8.")
                self._say("INFO" if old else "VERBOSE", f"[DlaLayer] {name}")
                yield from ((f"{name} to nvm", "Reformat"), (name, "DLA"), (f"{name} from nvm", "Reformat"))
                together = []
            if layer is not None:
                yield layer.name, layer.op


BUILD = {
    played.__name__: played
    for played in (
        Builder, IBuilderConfig, ILogger, INetworkDefinition, IOptimizationProfile, IProgressMonitor, ITimingCache,
        Logger, OnnxParser,
    )
} | {"IHostMemory": Host}  # fmt: skip

NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64,
    "BOOL": np.bool_,
}  # fmt: skip
