"""A plan brought to life: TensorRT's runtime, engine and execution context, what they say, and their end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import DeviceMismatchError, ExpertcError, ModelError, OutOfMemoryError, UnsupportedError
from ...text import shown
from .driver import FULL
from .identity import again
from .library import has
from .listener import Log, logger
from .readings import LONGEST, BuildMemoryError, read

_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""numpy's types by the names of ``DataType``; those numpy lacks (BF16, FP8, ...) are neither images nor scores."""

_READINGS = (
    (re.compile(r"version tag|library version|serialization version|not compatible with this version", re.IGNORECASE),
     "it was compiled with another release of TensorRT"),
    (re.compile(r"incompatible device|compute capability|expecting compute", re.IGNORECASE),
     "it was compiled for another GPU"),
    (re.compile(r"magic tag|corrupt|checksum|truncated|size mismatch", re.IGNORECASE), "it is damaged, or no plan"),
)  # fmt: skip
"""What TensorRT's words for a plan that it does not take come down to."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; -1 stands for an axis that is left open, ``least`` and ``most`` for how far.

    ``least`` and ``most`` of an output are of the smallest and the largest input.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    least: Shape
    most: Shape

    @property
    def size(self) -> int:
        """Bytes of its largest value."""
        return int(np.prod(self.most, dtype=np.int64)) * self.dtype.itemsize


class Engine:
    """An engine with one execution context, of its first optimisation profile.

    The GPU has to be current whenever it is used. Raises ``DeviceMismatchError`` for a plan that TensorRT does not
    take, ``ModelError`` for tensors that are not of an image classifier, ``UnsupportedError`` for a DLA core that
    there is not.
    """

    def __init__(self, trt: ModuleType, plan: bytes, *, dla_core: int | None, rebuild: str) -> None:
        self._trt, self._log = trt, Log()
        self._logger = logger(trt, self._log)  # has to outlive everything else
        try:
            self._runtime: Any = trt.Runtime(self._logger)
        except TypeError as error:  # "factory function returned nullptr": its CUDA and the driver do not fit
            raise self._failure(f"TensorRT {trt.__version__} does not start") from error
        if dla_core is not None:
            cores = self._runtime.num_DLA_cores
            if not 0 <= dla_core < cores:
                raise UnsupportedError(f"There is no DLA core {dla_core}.", f"This device has {cores}.")
            self._runtime.DLA_core = dla_core
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refused(rebuild)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise self._failure("TensorRT cannot make an execution context")
        self.inputs: tuple[Tensor, ...] = tuple(map(self._input, self._names(trt.TensorIOMode.INPUT)))
        self.outputs: tuple[Tensor, ...] = tuple(self._outputs())

    def set_shape(self, name: str, shape: Shape) -> None:
        """Give an input its shape, within its ``least`` and ``most``."""
        if not self._context.set_input_shape(name, shape):
            raise self._failure(f"TensorRT does not take {shown(name)} of shape {shape}")

    def shapes(self) -> dict[str, Shape]:
        """Shapes of the outputs for the shapes that the inputs have."""
        if missing := self._context.infer_shapes():
            raise self._failure(f"TensorRT still wants the shape of {shown(missing[0])}")
        names = self._names(self._trt.TensorIOMode.OUTPUT)
        found = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        for name, shape in found.items():
            if any(size < 0 for size in shape):
                raise ModelError(f"The size of the output {shown(name)} depends on the image.", "Export it without.")
        return found

    def set_address(self, name: str, address: int) -> None:
        """Where the device finds a tensor."""
        if not self._context.set_tensor_address(name, address):
            raise self._failure(f"TensorRT does not take an address for {shown(name)}")

    def execute(self, stream: int) -> None:
        """Put one execution into a stream."""
        if not self._context.execute_async_v3(stream):
            raise self._failure("TensorRT cannot run the plan")

    def close(self) -> None:
        """Free it all, in the order that TensorRT asks for."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _names(self, mode: Any) -> list[str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return [name for name in names if self._engine.get_tensor_mode(name) == mode]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name)
        for known, dtype in _TYPES.items():
            if has(self._trt, f"DataType.{known}") and kind == getattr(self._trt.DataType, known):
                return np.dtype(dtype)
        raise ModelError(f"The tensor {shown(name)} is of type {shown(kind)}, which numpy lacks.", "Export it without.")

    def _input(self, name: str) -> Tensor:
        shape = tuple(self._engine.get_tensor_shape(name))
        least, most = shape, shape
        if -1 in shape:
            least, _, most = map(tuple, self._engine.get_tensor_profile_shape(name, 0))
        return Tensor(name, self._dtype(name), shape, least, most)

    def _outputs(self) -> list[Tensor]:
        extremes = []
        for end in ("least", "most"):
            for tensor in self.inputs:
                self.set_shape(tensor.name, getattr(tensor, end))
            extremes.append(self.shapes())
        least, most = extremes
        return [
            Tensor(name, self._dtype(name), tuple(self._engine.get_tensor_shape(name)), least[name], most[name])
            for name in most
        ]

    def _refused(self, rebuild: str) -> ExpertcError:
        said = " ".join(self._log.errors)
        why = next((reading for pattern, reading in _READINGS if pattern.search(said)), None)
        if why is None and read(self._log.errors) is not None:
            return self._failure("TensorRT cannot open the plan")
        return DeviceMismatchError(
            f"TensorRT {self._trt.__version__} does not take the plan: "
            f"{why or 'it is for another machine'}{self._quoted()}.",
            again(rebuild),
        )

    def _failure(self, what: str) -> UnsupportedError:
        reading = read(self._log.errors)
        if reading is not None and reading.kind is BuildMemoryError:
            return OutOfMemoryError(f"{what}: the GPU has no memory left{self._quoted()}.", FULL)
        known = reading is not None and reading.kind is UnsupportedError
        return UnsupportedError(f"{what}{self._quoted()}.", reading.hint if reading and known else again(""))

    def _quoted(self) -> str:
        """TensorRT's last own words; they are of this failure only."""
        said = f" ('{self._log.errors[-1][:LONGEST]}')" if self._log.errors else ""
        self._log.errors.clear()
        return said
