"""From an ONNX file to a network of TensorRT's, and what the build is told about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import CompilationError, ModelError, UnsupportedError, UsageError
from ...text import clean_text, shown
from ..weights import refuse_foreign_weights
from .library import has
from .listener import Log
from .options import Options
from .readings import failure

_TYPES = {"fp16": "HALF", "int8": "INT8"}


@dataclass(frozen=True)
class Parsed:
    """A network, and the parser that owns its weights; ``typed`` if its types are those of the model."""

    network: Any
    parser: Any
    typed: bool

    @property
    def layers(self) -> list[str]:
        """The names of the network's layers, in order."""
        return [self.network.get_layer(at).name for at in range(self.network.num_layers)]

    @property
    def inputs(self) -> list[Any]:
        """Its inputs."""
        return [self.network.get_input(at) for at in range(self.network.num_inputs)]

    @property
    def types(self) -> set[str]:
        """The names of the data types that it computes in: of its tensors, and INT8 wherever it quantises."""
        layers = [self.network.get_layer(at) for at in range(self.network.num_layers)]
        made = [layer.get_output(place) for layer in layers for place in range(layer.num_outputs)]
        quantises = any(layer.type.name == "QUANTIZE" for layer in layers)  # TensorRT 8 may call the result FLOAT
        return {tensor.dtype.name for tensor in (*self.inputs, *made)} | ({"INT8"} if quantises else set())


def parse(trt: ModuleType, builder: Any, listener: Any, log: Log, onnx: Path, options: Options) -> Parsed:
    """Read an ONNX file; strongly typed wherever the release can do that.

    Raises ``ModelError`` if the file cannot be read or keeps weights in strange places, ``UnsupportedError`` if this
    TensorRT does not read it, ``CompilationError`` if it cannot be parsed for another reason.
    """
    name = f"The model '{clean_text(str(onnx))}'"
    if not onnx.is_file():
        raise ModelError(f"{name} does not exist or is not a file.", "Check the path.")
    try:
        refuse_foreign_weights(onnx, name)
    except OSError as error:
        raise ModelError(f"{name} cannot be read ({error.strerror}).", "Check its permissions.") from error
    flags, typed = 0, not has(trt, "BuilderFlag.FP16")
    if has(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED"):
        flags, typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED), True
    elif has(trt, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"):
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, listener)
    if options.dla_core is not None and has(trt, "OnnxParserFlag.ADJUST_FOR_DLA"):
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse_from_file(str(onnx)):
        said = [clean_text(parser.get_error(at).desc()) for at in range(parser.num_errors)]
        raise failure(f"{name} cannot be read by TensorRT {trt.__version__}", log, said)
    return Parsed(network, parser, typed)


def set_precision(trt: ModuleType, builder: Any, config: Any, parsed: Parsed, options: Options) -> Iterator[str]:
    """Hold the model's types against what was asked for; before 10 tell the builder. Gives what is good to know.

    Raises ``UnsupportedError`` if the device has no int8, ``CompilationError`` if the model is not of that precision:
    there is no calibration here, and from 10 on TensorRT does not lower anything by itself.
    """
    found, wanted = parsed.types, _TYPES.get(options.precision)
    if wanted is not None and wanted not in found and (parsed.typed or wanted == "INT8"):
        raise CompilationError(
            f"The model has nothing in {options.precision}, and TensorRT {trt.__version__} makes nothing so by itself.",
            f"Build the expert with --precision {options.precision}, or compile it without.",
        )
    needed = found | ({wanted} if wanted else set())
    if "INT8" in needed and has(trt, "Builder.platform_has_fast_int8") and not builder.platform_has_fast_int8:
        raise UnsupportedError("This GPU does not compute in int8.", "Build the expert with --precision fp16 or fp32.")
    if "HALF" in needed and has(trt, "Builder.platform_has_fast_fp16") and not builder.platform_has_fast_fp16:
        yield "This GPU computes half precision no faster than single."
    if not parsed.typed:
        if "HALF" in needed and has(trt, "BuilderFlag.FP16"):
            config.set_flag(trt.BuilderFlag.FP16)
        if "INT8" in needed and has(trt, "BuilderFlag.INT8"):
            config.set_flag(trt.BuilderFlag.INT8)
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on at first


def set_shapes(builder: Any, config: Any, parsed: Parsed, options: Options) -> None:
    """Give the builder the sizes of what the model leaves open: one optimisation profile.

    Raises ``UsageError`` if the model has another fixed batch, ``UnsupportedError`` if more than the batch is open.
    """
    batch = options.batch or (1, 1, 1)
    profile = builder.create_optimization_profile()
    for tensor in parsed.inputs:
        first, *rest = tuple(tensor.shape) or (1,)
        if -1 in rest:
            raise UnsupportedError(
                f"The model's input {shown(tensor.name)} leaves more than its batch open.",
                "Export it with a fixed height and width.",
            )
        if first == -1:
            profile.set_shape(tensor.name, *((size, *rest) for size in batch))
    if all(-1 not in tuple(tensor.shape) for tensor in parsed.inputs):
        fixed = next((size for tensor in parsed.inputs for size in tensor.shape), 1)
        if options.batch is not None and set(batch) != {fixed}:
            raise UsageError(
                f"The model takes exactly {fixed} images at a time.",
                "Leave out --batch, or build the expert with --batch dynamic.",
            )
    elif config.add_optimization_profile(profile) < 0:
        raise CompilationError("TensorRT does not take these sizes of a batch.", "Give other ones with --batch.")


def set_dla(trt: ModuleType, builder: Any, config: Any, options: Options) -> None:
    """Let a DLA core do what it can, and the GPU the rest. Raises ``UnsupportedError`` if there is no such core."""
    if options.dla_core is None:
        return
    cores = builder.num_DLA_cores
    if options.dla_core >= cores:
        some = f"only {cores}, counted from 0" if cores else "none"
        raise UnsupportedError(
            f"There is no DLA core {options.dla_core}: TensorRT {trt.__version__} finds {some} on this device.",
            "Compile without it, for the GPU.",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
