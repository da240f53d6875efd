"""The CUDA driver by plain ctypes: which devices there are, and every call a session needs, without any package.

It comes before TensorRT: ``trt.Runtime()`` ends the process where there is no driver, ``open_driver`` says so.
Names, signatures and constants are those of cuda.h ("CUDA Driver API", NVIDIA).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import OutOfMemoryError, UnsupportedError
from ...text import clean_text

LIBRARY = "libcuda.so.1"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")  # the release of the driver, in words

OLDEST = (11, 4)
"""The CUDA of JetPack 5.1, which has the oldest TensorRT that we run on (8.5); the first with
``cuGraphInstantiateWithFlags``."""

MEMORY, STUB, NO_DEVICE, NEWER = 2, 34, 100, 36  # CUresult: CUDA_ERROR_OUT_OF_MEMORY, _STUB_LIBRARY, ...
MISMATCH, NOT_FOR_DEVICE = 803, 804  # CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, _COMPAT_NOT_SUPPORTED_ON_DEVICE
INTEGRATED, CAN_MAP_HOST_MEMORY, SM_MAJOR, SM_MINOR = 18, 19, 75, 76  # CUdevice_attribute

_NAME = 256  # bytes of a device's name, with its NUL
FULL = "Close what else uses the GPU, or take fewer images at a time."
_INSTALL = "Install NVIDIA's driver (JetPack brings it), and start a container with '--runtime nvidia' or '--gpus all'."

_IN, _OUT = 1, 2  # ctypes' flags of parameters
_int, _uint, _size, _pointer = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
_address, _flags = ctypes.c_uint64, ctypes.c_ulonglong  # CUdeviceptr is 64 bits wide on every system TensorRT runs on

SIGNATURES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "cuDriverGetVersion": ("", (ctypes.POINTER(_int),)),
    "cuInit": ("", (_uint,)),
    "cuDeviceGetCount": ("", (ctypes.POINTER(_int),)),
    "cuDeviceGet": ("", (ctypes.POINTER(_int), _int)),
    "cuDeviceGetName": ("", (ctypes.c_char_p, _int, _int)),
    "cuDeviceGetAttribute": ("", (ctypes.POINTER(_int), _int, _int)),
    "cuDeviceTotalMem": ("_v2", (ctypes.POINTER(_size), _int)),
    "cuDevicePrimaryCtxRetain": ("", (ctypes.POINTER(_pointer), _int)),
    "cuDevicePrimaryCtxRelease": ("_v2", (_int,)),
    "cuCtxPushCurrent": ("_v2", (_pointer,)),
    "cuCtxPopCurrent": ("_v2", (ctypes.POINTER(_pointer),)),
    "cuMemGetInfo": ("_v2", (ctypes.POINTER(_size), ctypes.POINTER(_size))),
    "cuMemAlloc": ("_v2", (ctypes.POINTER(_address), _size)),
    "cuMemFree": ("_v2", (_address,)),
    "cuMemHostAlloc": ("", (ctypes.POINTER(_pointer), _size, _uint)),
    "cuMemFreeHost": ("", (_pointer,)),
    "cuMemHostGetDevicePointer": ("_v2", (ctypes.POINTER(_address), _pointer, _uint)),
    "cuMemcpyHtoDAsync": ("_v2", (_address, _pointer, _size, _pointer)),
    "cuMemcpyDtoHAsync": ("_v2", (_pointer, _address, _size, _pointer)),
    "cuStreamCreate": ("", (ctypes.POINTER(_pointer), _uint)),
    "cuStreamSynchronize": ("", (_pointer,)),
    "cuStreamDestroy": ("_v2", (_pointer,)),
    "cuEventCreate": ("", (ctypes.POINTER(_pointer), _uint)),
    "cuEventRecord": ("", (_pointer, _pointer)),
    "cuEventSynchronize": ("", (_pointer,)),
    "cuEventElapsedTime": ("", (ctypes.POINTER(ctypes.c_float), _pointer, _pointer)),
    "cuEventDestroy": ("_v2", (_pointer,)),
    "cuStreamBeginCapture": ("_v2", (_pointer, _int)),
    "cuStreamEndCapture": ("", (_pointer, ctypes.POINTER(_pointer))),
    "cuGraphInstantiateWithFlags": ("", (ctypes.POINTER(_pointer), _pointer, _flags)),
    "cuGraphLaunch": ("", (_pointer, _pointer)),
    "cuGraphExecDestroy": ("", (_pointer,)),
    "cuGraphDestroy": ("", (_pointer,)),
}
"""What follows the name in the library, and the C types of the arguments; a pointer to a type takes a result."""


class NoDriverError(UnsupportedError):
    """There is no CUDA driver, or only the stub that containers are built with."""


class OldDriverError(UnsupportedError):
    """The CUDA driver is older than what runs on it."""


class NoDeviceError(UnsupportedError):
    """The CUDA driver sees no GPU."""


class CudaError(UnsupportedError):
    """A CUDA call failed; ``code`` is its CUresult."""

    def __init__(self, message: str, hint: str = "", code: int = 0) -> None:
        super().__init__(message, hint)
        self.code = code


@dataclass(frozen=True)
class Device:
    """A GPU.

    ``sm`` is its compute capability, ``total`` its memory in bytes. One that is ``integrated`` uses the memory of the
    processor; ``maps`` says whether it reads and writes memory of the host that is mapped for it.
    """

    index: int
    name: str
    sm: tuple[int, int]
    total: int
    integrated: bool
    maps: bool


class Driver:
    """The CUDA driver, initialised, with at least one device.

    ``cuda`` is the CUDA it speaks, (12, 6); ``name`` its own release beside that, as far as the system tells.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._functions: dict[str, Callable[..., Any]] = {}
        version = self.call("cuDriverGetVersion")
        self.cuda: tuple[int, int] = (version // 1000, version % 1000 // 10)
        if self.cuda < OLDEST:
            raise OldDriverError(
                f"The CUDA driver is of CUDA {self.cuda[0]}.{self.cuda[1]}, older than {OLDEST[0]}.{OLDEST[1]}.",
                "Update NVIDIA's driver; on a Jetson, install JetPack 5.1 or newer.",
            )
        self.call("cuInit", 0)
        release, speaks = _kernel_module(), f"CUDA {self.cuda[0]}.{self.cuda[1]}"
        self.name = f"{release} ({speaks})" if release else speaks
        count = self.call("cuDeviceGetCount")
        if count < 1:
            raise failure(NO_DEVICE, "cuDeviceGetCount found none")
        self.devices: tuple[Device, ...] = tuple(map(self._device, range(count)))

    def device(self, index: int = 0) -> Device:
        """The device ``index``, as CUDA counts them. Raises ``NoDeviceError``."""
        if not 0 <= index < len(self.devices):
            raise NoDeviceError(f"There is no GPU {index}.", f"They are numbered 0 to {len(self.devices) - 1}.")
        return self.devices[index]

    def memory(self, index: int = 0) -> tuple[int, int]:
        """Bytes of memory of a device: free now, and in all. On an integrated one the system's own are among them."""
        handle = self.call("cuDeviceGet", self.device(index).index)
        context = self.call("cuDevicePrimaryCtxRetain", handle)
        try:
            self.call("cuCtxPushCurrent", context)
            try:
                free, total = self.call("cuMemGetInfo")
            finally:
                self.call("cuCtxPopCurrent")
        finally:
            self.call("cuDevicePrimaryCtxRelease", handle)
        return int(free), int(total)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call ``function`` of cuda.h, named without its version; what it gives through pointers is the result.

        0 where that is nothing, a tuple where it is several. Raises what ``failure`` makes of another CUresult than
        CUDA_SUCCESS, ``OldDriverError`` if the driver has no such function.
        """
        result = (self._functions.get(function) or self._bind(function))(*arguments)
        return 0 if result is None else result  # a null pointer

    def _bind(self, function: str) -> Callable[..., Any]:
        version, kinds = SIGNATURES[function]
        directions = tuple((_OUT if _is_result(kind) else _IN,) for kind in kinds)
        try:
            found: Any = ctypes.CFUNCTYPE(_int, *kinds)((function + version, self._library), directions)
        except AttributeError as error:
            raise failure(NEWER, f"it has no {function}{version}") from error

        def check(code: int, _: Any, arguments: Any) -> Any:
            if code:
                raise failure(code, f"{function}: {self._said(code)}")
            return arguments  # which has ctypes return the results among them

        found.errcheck = check
        self._functions[function] = found
        return self._functions[function]

    def _said(self, code: int) -> str:
        """The driver's own words for a CUresult."""
        words = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            said = ctypes.c_char_p()
            if getattr(self._library, function)(_int(code), ctypes.byref(said)) == 0 and said.value:
                words.append(clean_text(said.value.decode("utf-8", "replace")))
        return ", ".join(words) or f"CUresult {code}"

    def _device(self, index: int) -> Device:
        handle = self.call("cuDeviceGet", index)
        name = ctypes.create_string_buffer(_NAME)
        self.call("cuDeviceGetName", name, _NAME, handle)
        attribute = {
            number: self.call("cuDeviceGetAttribute", number, handle)
            for number in (SM_MAJOR, SM_MINOR, INTEGRATED, CAN_MAP_HOST_MEMORY)
        }
        return Device(
            index,
            clean_text(name.value.decode("utf-8", "replace")),
            (attribute[SM_MAJOR], attribute[SM_MINOR]),
            self.call("cuDeviceTotalMem", handle),
            bool(attribute[INTEGRATED]),
            bool(attribute[CAN_MAP_HOST_MEMORY]),
        )


def open_driver() -> Driver:
    """The CUDA driver of this machine.

    Raises ``NoDriverError``, ``OldDriverError`` or ``NoDeviceError`` where TensorRT could not run, ``CudaError`` if the
    driver fails for another reason.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NoDriverError(f"There is no CUDA driver ({clean_text(str(error))}).", _INSTALL) from error
    return Driver(library)


def failure(code: int, said: str) -> UnsupportedError:
    """The error for a CUresult that is not CUDA_SUCCESS; ``said`` names the call and the driver's words for it."""
    if code == MEMORY:
        return OutOfMemoryError(f"The GPU has no memory left ({said}).", FULL)
    if code == STUB:
        return NoDriverError(f"The CUDA driver is only a stub ({said}).", _INSTALL)
    if code == NO_DEVICE:
        return NoDeviceError(
            f"The CUDA driver sees no GPU ({said}).",
            "Check CUDA_VISIBLE_DEVICES, and that the container was started with '--runtime nvidia' or '--gpus all'.",
        )
    if code in (NEWER, MISMATCH, NOT_FOR_DEVICE):
        return OldDriverError(f"The CUDA driver is too old ({said}).", "Update NVIDIA's driver, and start again.")
    return CudaError(f"The GPU failed ({said}).", "'dmesg' may say why; start again.", code)


def _is_result(kind: Any) -> bool:
    return hasattr(kind, "contents")  # a POINTER to a type


def _kernel_module() -> str:
    """The release of NVIDIA's kernel module, "" where the system does not tell."""
    try:
        with open(KERNEL_MODULE, encoding="utf-8", errors="replace") as file:
            found = re.search(r"\b\d{3,4}\.\d+(\.\d+)?\b", file.readline(1000))
    except OSError:
        return ""
    return found[0] if found else ""
