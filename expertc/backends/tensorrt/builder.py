"""Compiling an ONNX model to a plan, by one path for every TensorRT from 8.5 to 11.

What not all of them have stands behind ``library.has``; nowhere is a release compared, nor the number of an enum kept.
Precision is in the model: from 10 on the network is strongly typed, before it the builder's flags follow the types that
the network has. Nothing is calibrated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import UnsupportedError
from . import timing
from .inspector import dla_share, inspect
from .library import has
from .listener import Log, logger, monitor
from .network import Parsed, parse, set_dla, set_precision, set_shapes
from .options import Options
from .readings import failure, read

_MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """A compiled engine.

    Attributes:
        data: the plan, byte for byte as TensorRT wrote it. Native code for this machine and this TensorRT only.
        layers: what the inspector says of each layer of the engine; empty if it said nothing.
        dla_share: the share of the network's layers that run on the DLA core, None without one.
        seconds: how long the whole took.
        notes: what is good to know, in sentences.
        tensors: the names of the engine's inputs and outputs.
    """

    data: bytes = field(repr=False)
    layers: list[dict[str, Any]] = field(repr=False)
    dla_share: float | None
    seconds: float
    notes: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


def build_plan(
    trt: ModuleType,
    onnx: Path,
    options: Options,
    *,
    cache: Path | None = None,
    told: Callable[[str], None] = lambda phase: None,
    counted: Callable[[int], None] = lambda layers: None,
) -> Plan:
    """Compile the ONNX file for the GPU that is here. A driver must be there: see ``driver.open_driver``.

    Args:
        trt: the module ``tensorrt``.
        onnx: the model, with external weights beside it if it has any.
        options: see there.
        cache: a timing cache to use and to keep up, see ``timing``.
        told: is told each phase, and how far it is where TensorRT tells.
        counted: is told how many layers the network has.

    Raises ``ModelError``, ``UnsupportedError`` and ``UsageError`` as ``network`` says; ``BuildMemoryError`` if TensorRT
    did not get the memory it wanted, ``CompilationError`` if it cannot build this for another reason.
    """
    began, log, notes = time.monotonic(), Log(), list[str]()
    listener = logger(trt, log)
    builder = _builder(trt, listener, log)
    told("reading the model")
    parsed = parse(trt, builder, listener, log, onnx, options)
    layers = parsed.layers
    counted(len(layers))
    config = builder.create_builder_config()
    notes += _configure(trt, builder, config, parsed, options)
    watching = monitor(trt, told)
    if watching is not None and has(trt, "IBuilderConfig.progress_monitor"):
        config.progress_monitor = watching
    notes += timing.attach(config, cache)
    told("building the engine")
    memory = builder.build_serialized_network(parsed.network, config)
    if memory is None:
        raise failure(f"TensorRT {trt.__version__} cannot build this model", log)
    data = bytes(memory)
    notes += timing.keep(config, cache)
    del memory, config, parsed, builder  # the engine needs the room on a small board
    told("inspecting the engine")
    found = inspect(trt, listener, data, options.dla_core)
    if found is None:
        notes.append("TensorRT's inspector did not list the engine's layers.")
    share = None if options.dla_core is None or found is None else dla_share(found.layers, layers, log.on_dla)
    if share is not None:
        notes.append(f"{share:.0%} of the network's layers run on DLA core {options.dla_core}, the rest on the GPU.")
    return Plan(
        data,
        [] if found is None else found.layers,
        share,
        time.monotonic() - began,
        tuple(notes),
        () if found is None else found.tensors,
    )


def _configure(trt: ModuleType, builder: Any, config: Any, parsed: Parsed, options: Options) -> Iterator[str]:
    """Everything that a build is told but its cache; gives what is good to know."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * _MIB)
    if options.level is not None and has(trt, "IBuilderConfig.builder_optimization_level"):
        config.builder_optimization_level = options.level
    elif options.level is not None:
        yield f"TensorRT {trt.__version__} has no optimisation levels."
    if not options.libraries:
        own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
        config.set_tactic_sources(sum(1 << int(source) for source in own))
    yield from set_precision(trt, builder, config, parsed, options)
    set_shapes(builder, config, parsed, options)
    set_dla(trt, builder, config, options)


def _builder(trt: ModuleType, listener: Any, log: Log) -> Any:
    try:
        return trt.Builder(listener)
    except TypeError as error:  # "factory function returned nullptr": what it says without a GPU, or without memory
        if log.errors or read(log.warnings):
            raise failure(f"TensorRT {trt.__version__} does not start", log) from error
        raise UnsupportedError(
            f"TensorRT {trt.__version__} finds no GPU.", "Check NVIDIA's driver: 'nvidia-smi' must list the GPU."
        ) from error
