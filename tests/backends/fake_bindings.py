"""``cuda.bindings.driver`` and ``pycuda.driver`` over the look-alike of the driver, as their documentations have them.

Simulated: both packages. The names, the arguments with their kinds and what comes back are those of the "CUDA Python
API Reference" and of pycuda's "Device Interface"; what is not of the right kind is refused, as Cython and Boost.Python
do. Where the real cuda-python is installed, the tests of the buffers run it over the look-alike as well: its releases
11.8.3, 12.9.0 and 13.5.0 have passed.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np

_int, _uint, _size, _pointer, _address = (
    ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint64
)  # fmt: skip


class CUresult(IntEnum):
    """A few of its members."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_UNKNOWN = 999


class CUstreamCaptureMode(IntEnum):
    """All of its members."""

    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class _Handle:
    """A driver's handle in a class of its own; ``int()`` gives the pointer."""

    def __init__(self, init_value: int = 0) -> None:
        self._value = init_value

    def __int__(self) -> int:
        return self._value


CUdevice, CUcontext, CUdeviceptr, CUstream, CUevent, CUgraph, CUgraphExec = (
    type(name, (_Handle,), {})
    for name in ("CUdevice", "CUcontext", "CUdeviceptr", "CUstream", "CUevent", "CUgraph", "CUgraphExec")
)

_CUDA_PYTHON: dict[str, tuple[str, tuple[Any, ...], Any]] = {
    "cuDeviceGet": ("", (int,), CUdevice),
    "cuDevicePrimaryCtxRetain": ("", (CUdevice,), CUcontext),
    "cuDevicePrimaryCtxRelease": ("_v2", (CUdevice,), None),
    "cuCtxPushCurrent": ("_v2", (CUcontext,), None),
    "cuCtxPopCurrent": ("_v2", (), CUcontext),
    "cuMemAlloc": ("_v2", (int,), CUdeviceptr),
    "cuMemFree": ("_v2", (CUdeviceptr,), None),
    "cuMemHostAlloc": ("", (int, int), int),
    "cuMemFreeHost": ("", (object,), None),
    "cuMemHostGetDevicePointer": ("_v2", (object, int), CUdeviceptr),
    "cuMemcpyHtoDAsync": ("_v2", (CUdeviceptr, object, int, CUstream), None),
    "cuMemcpyDtoHAsync": ("_v2", (object, CUdeviceptr, int, CUstream), None),
    "cuStreamCreate": ("", (int,), CUstream),
    "cuStreamSynchronize": ("", (CUstream,), None),
    "cuStreamDestroy": ("_v2", (CUstream,), None),
    "cuEventCreate": ("", (int,), CUevent),
    "cuEventRecord": ("", (CUevent, CUstream), None),
    "cuEventSynchronize": ("", (CUevent,), None),
    "cuEventElapsedTime": ("", (CUevent, CUevent), float),
    "cuEventDestroy": ("_v2", (CUevent,), None),
    "cuStreamBeginCapture": ("_v2", (CUstream, CUstreamCaptureMode), None),
    "cuStreamEndCapture": ("", (CUstream,), CUgraph),
    "cuGraphInstantiateWithFlags": ("", (CUgraph, int), CUgraphExec),
    "cuGraphLaunch": ("", (CUgraphExec, CUstream), None),
    "cuGraphExecDestroy": ("", (CUgraphExec,), None),
    "cuGraphDestroy": ("", (CUgraph,), None),
}
"""Function: version in the library, kinds of its arguments, kind of its result; handles may be given as integers."""

_OUT_FIRST = "cuStreamEndCapture"  # every other function's result is its first argument in C


def cuda_python(library: ctypes.CDLL, *, layout: int = 12) -> Any:
    """The module ``cuda.bindings.driver``, or ``cuda.cuda`` as CUDA 11 had it."""
    module: Any = ModuleType("cuda.bindings.driver")
    module.CUresult, module.CUstreamCaptureMode = CUresult, CUstreamCaptureMode
    for name, (version, kinds, made) in _CUDA_PYTHON.items():
        known = "cuGraphInstantiate" if layout >= 12 and name == "cuGraphInstantiateWithFlags" else name
        setattr(module, known, _function(library, name, version, kinds, made))
    for name in ("cuGetErrorName", "cuGetErrorString"):
        setattr(module, name, _words(library, name))
    return module


def _function(library: ctypes.CDLL, name: str, version: str, kinds: tuple[Any, ...], made: Any) -> Any:
    def call(*arguments: Any) -> tuple[Any, ...]:
        assert len(arguments) == len(kinds), f"{name} takes {len(kinds)} arguments"
        given: list[Any] = [_taken(name, kind, argument) for kind, argument in zip(kinds, arguments, strict=True)]
        result = ctypes.c_float() if made is float else _int() if made is CUdevice else _address()
        if made is not None:
            given.insert(1 if name == _OUT_FIRST else 0, ctypes.byref(result))
        code = CUresult(getattr(library, name + version)(*given))
        return (code,) if made is None else (code, made(result.value))

    return call


def _taken(name: str, kind: Any, argument: Any) -> Any:
    if kind is CUstreamCaptureMode:
        assert isinstance(argument, CUstreamCaptureMode), f"{name} takes a CUstreamCaptureMode: it reads its .value"
        return _int(argument.value)
    assert isinstance(argument, (int, kind)), f"{name} takes {kind.__name__}, not {type(argument).__name__}"
    return _int(int(argument)) if kind is CUdevice else _address(int(argument))


def _words(library: ctypes.CDLL, name: str) -> Any:
    def call(error: CUresult) -> tuple[CUresult, bytes]:
        text = ctypes.c_char_p()
        code = CUresult(getattr(library, name)(_int(error.value), ctypes.byref(text)))
        return code, text.value or b""

    return call


def pycuda(library: ctypes.CDLL, *, graphs: bool = True) -> Any:
    """The module ``pycuda.driver``; only its newest releases have ``graphs``."""
    module: Any = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError_(Error, MemoryError):
        pass

    class LogicError(Error):
        pass

    module.Error, module.MemoryError, module.LogicError = Error, MemoryError_, LogicError

    def checked(function: str, *arguments: Any) -> None:
        code = getattr(library, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            library.cuGetErrorString(code, ctypes.byref(text))
            said = f"{function.removesuffix('_v2')} failed: {(text.value or b'?').decode()}"
            raise (MemoryError_ if code == 2 else LogicError)(said)

    def new(function: str, *arguments: Any) -> int:
        made = _address()
        checked(function, ctypes.byref(made), *arguments)
        return made.value

    class Context:
        def __init__(self, device: int) -> None:
            self._device, self._handle = device, _pointer(new("cuDevicePrimaryCtxRetain", device))

        def push(self) -> None:
            checked("cuCtxPushCurrent_v2", self._handle)

        @staticmethod
        def pop() -> None:
            checked("cuCtxPopCurrent_v2", ctypes.byref(_pointer()))

        def detach(self) -> None:
            checked("cuDevicePrimaryCtxRelease_v2", self._device)

    class Device:
        def __init__(self, number: int) -> None:
            made = _int()
            checked("cuDeviceGet", ctypes.byref(made), number)
            self._handle = made.value

        def retain_primary_context(self) -> Context:
            return Context(self._handle)

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self._address = new("cuMemAlloc_v2", _size(size))

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            checked("cuMemFree_v2", _address(self._address))

    class PagelockedHostAllocation:
        def __init__(self, size: int, flags: int) -> None:
            self.pointer, self.size = new("cuMemHostAlloc", _size(size), flags), size
            self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (self.pointer, False), "version": 3}

        def free(self) -> None:
            checked("cuMemFreeHost", _pointer(self.pointer))

        def get_device_pointer(self) -> int:
            return new("cuMemHostGetDevicePointer_v2", _pointer(self.pointer), 0)

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        assert (np.dtype(dtype), order) == (np.uint8, "C")
        return np.asarray(PagelockedHostAllocation(shape, mem_flags))

    class _Freed:
        """Freed when nobody holds it any more."""

        def __init__(self, handle: int, destroy: str) -> None:
            self._handle, self._destroy = handle, destroy

        def __del__(self) -> None:
            if getattr(library, self._destroy)(_pointer(self._handle)):
                raise AssertionError(self._destroy)

    class Stream(_Freed):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(new("cuStreamCreate", flags), "cuStreamDestroy_v2")

        @property
        def handle(self) -> int:
            return self._handle

        def synchronize(self) -> None:
            checked("cuStreamSynchronize", _pointer(self._handle))

    class Event(_Freed):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(new("cuEventCreate", flags), "cuEventDestroy_v2")

        def record(self, stream: Stream | None = None) -> Event:
            assert isinstance(stream, Stream)
            checked("cuEventRecord", _pointer(self._handle), _pointer(stream.handle))
            return self

        def time_till(self, event: Event) -> float:
            made = ctypes.c_float()
            checked("cuEventElapsedTime", ctypes.byref(made), _pointer(self._handle), _pointer(event._handle))
            return made.value

    class GraphExec(_Freed):
        def launch(self, stream: Stream | None = None) -> None:
            assert isinstance(stream, Stream)
            checked("cuGraphLaunch", _pointer(self._handle), _pointer(stream.handle))

    class Graph(_Freed):
        def instantiate(self) -> GraphExec:
            made = new("cuGraphInstantiateWithFlags", _pointer(self._handle), ctypes.c_ulonglong(0))
            return GraphExec(made, "cuGraphExecDestroy")

    def begin_capture(self: Stream) -> None:
        checked("cuStreamBeginCapture_v2", _pointer(self.handle), 0)

    def end_capture(self: Stream) -> Graph:
        made = _pointer()
        checked("cuStreamEndCapture", _pointer(self.handle), ctypes.byref(made))
        return Graph(made.value or 0, "cuGraphDestroy")

    if graphs:
        Stream.begin_capture, Stream.end_capture = begin_capture, end_capture  # type: ignore[attr-defined]

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream | None = None) -> None:
        data = memoryview(src).cast("B")
        assert isinstance(dest, (int, DeviceAllocation))
        assert isinstance(stream, Stream)
        checked(
            "cuMemcpyHtoDAsync_v2",
            _address(int(dest)),
            _pointer(src.ctypes.data),
            _size(len(data)),
            _pointer(stream.handle),
        )

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream | None = None) -> None:
        data = memoryview(dest).cast("B")
        assert not data.readonly
        assert isinstance(stream, Stream)
        checked(
            "cuMemcpyDtoHAsync_v2",
            _pointer(dest.ctypes.data),
            _address(int(src)),
            _size(len(data)),
            _pointer(stream.handle),
        )

    class host_alloc_flags:
        PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4

    module.init = lambda flags=0: checked("cuInit", flags)
    module.mem_alloc = DeviceAllocation
    module.__dict__.update(
        Context=Context, Device=Device, Stream=Stream, Event=Event, pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async, memcpy_dtoh_async=memcpy_dtoh_async, host_alloc_flags=host_alloc_flags,
    )  # fmt: skip
    return module
