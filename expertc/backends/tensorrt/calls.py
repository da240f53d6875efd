"""Buffers by calls of the driver's own functions, as ctypes and cuda-python both make them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import UnsupportedError
from ...text import clean_text
from .buffers import CUDA_PYTHON, VARIABLE, Handle, Kept, Ledger, Memory
from .driver import CudaError, Device, failure

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile; trtexec's mode too
DEFAULT = 0
WITH_FLAGS = "cuGraphInstantiateWithFlags"

Call = Callable[..., Any]
"""Calls a function of cuda.h by its name there, results as Python values: see ``Driver.call``."""


class CallBuffers(Ledger):
    """``Buffers`` through a ``Call``; pointers are plain integers."""

    def __init__(self, call: Call, device: Device, binding: str) -> None:
        super().__init__()
        self.binding = binding
        self._call = call
        self._device: int = call("cuDeviceGet", device.index)
        self._context: int | None = call("cuDevicePrimaryCtxRetain", self._device)  # the one TensorRT uses

    @contextmanager
    def current(self) -> Iterator[None]:
        """See ``Buffers.current``."""
        if self._context is None:
            raise ValueError("the buffers are closed")
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def alloc(self, size: int) -> Memory:
        """See ``Buffers.alloc``."""
        address = self._call("cuMemAlloc", size)
        return self._kept(Memory(size, address), "cuMemFree", address)

    def pinned(self, size: int, *, mapped: bool = False) -> Memory:
        """See ``Buffers.pinned``."""
        pointer = self._call("cuMemHostAlloc", size, DEVICEMAP if mapped else DEFAULT)
        with ExitStack() as undo:
            undo.callback(self._call, "cuMemFreeHost", pointer)
            address = self._call("cuMemHostGetDevicePointer", pointer, 0) if mapped else 0
            undo.pop_all()
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))
        return self._kept(Memory(size, address, array, pointer), "cuMemFreeHost", pointer)

    def stream(self) -> Handle:
        """See ``Buffers.stream``."""
        stream = self._call("cuStreamCreate", NON_BLOCKING)
        return self._kept(Handle(stream), "cuStreamDestroy", stream)

    def event(self) -> Handle:
        """See ``Buffers.event``."""
        event = self._call("cuEventCreate", DEFAULT)
        return self._kept(Handle(event), "cuEventDestroy", event)

    def copy_in(self, device: Memory, host: Memory, size: int, stream: Handle) -> None:
        """See ``Buffers.copy_in``."""
        self._call("cuMemcpyHtoDAsync", device.address, host.pointer, size, stream.value)

    def copy_out(self, host: Memory, device: Memory, size: int, stream: Handle) -> None:
        """See ``Buffers.copy_out``."""
        self._call("cuMemcpyDtoHAsync", host.pointer, device.address, size, stream.value)

    def wait(self, stream: Handle) -> None:
        """See ``Buffers.wait``."""
        self._call("cuStreamSynchronize", stream.value)

    def record(self, event: Handle, stream: Handle) -> None:
        """See ``Buffers.record``."""
        self._call("cuEventRecord", event.value, stream.value)

    def milliseconds(self, start: Handle, end: Handle) -> float:
        """See ``Buffers.milliseconds``."""
        return float(self._call("cuEventElapsedTime", start.value, end.value))

    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        """See ``Buffers.capture``."""
        self._call("cuStreamBeginCapture", stream.value, THREAD_LOCAL)
        try:
            work()
        except BaseException:
            with suppress(CudaError):  # that the capture is void is what the error in flight says
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream.value))
            raise
        captured = self._call("cuStreamEndCapture", stream.value)
        try:
            graph = self._call(WITH_FLAGS, captured, DEFAULT)
        finally:
            self._call("cuGraphDestroy", captured)
        return self._kept(Handle(graph), "cuGraphExecDestroy", graph)

    def launch(self, graph: Handle, stream: Handle) -> None:
        """See ``Buffers.launch``."""
        self._call("cuGraphLaunch", graph.value, stream.value)

    def close(self) -> None:
        """See ``Buffers.close``."""
        if self._context is None:
            return
        with ExitStack() as stack:
            stack.callback(self._call, "cuDevicePrimaryCtxRelease", self._device)
            stack.enter_context(self.current())
            self._context = None
            self.free_all()

    def _kept(self, what: Kept, function: str, pointer: int) -> Kept:
        return self.keep(what, lambda: self._call(function, pointer))


def cuda_python() -> Call:
    """A ``Call`` through NVIDIA's cuda-python, whichever of its two layouts is installed.

    Every function there is called ``function(*arguments) -> (CUresult, *results)`` ("CUDA Python API Reference").
    Raises ``UnsupportedError`` without it.
    """
    binding = _cuda_python()
    # CUDA 12 gave the shorter name, another function's before, to this one; cuda-python has no longer name since.
    renamed = {} if hasattr(binding, WITH_FLAGS) else {WITH_FLAGS: "cuGraphInstantiate"}

    def call(function: str, *arguments: Any) -> Any:
        if function == "cuStreamBeginCapture":  # the only one of ours that takes an enumeration, and no integer
            arguments = (arguments[0], binding.CUstreamCaptureMode(arguments[1]))
        result, *values = getattr(binding, renamed.get(function, function))(*arguments)
        if int(result):
            said = [binding.cuGetErrorName(result), binding.cuGetErrorString(result)]
            words = ", ".join(clean_text(text.decode("utf-8", "replace")) for known, text in said if not int(known))
            raise failure(int(result), f"{function}: {words or int(result)}")
        plain = [value if isinstance(value, float) else int(value) for value in values]
        return tuple(plain) if len(plain) > 1 else plain[0] if plain else None

    return call


def _cuda_python() -> ModuleType:
    try:
        try:
            return import_module("cuda.bindings.driver")
        except ModuleNotFoundError:  # up to 12.7
            return import_module("cuda.cuda")
    except ImportError as error:
        raise UnsupportedError(
            f"The CUDA binding {CUDA_PYTHON} cannot be imported ({clean_text(str(error))}).",
            f"Install cuda-python, or unset {VARIABLE}: none is needed.",
        ) from error
