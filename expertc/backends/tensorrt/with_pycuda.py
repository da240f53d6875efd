"""Buffers through pycuda, for processes that use it already: objects that free themselves when nobody holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import UnsupportedError
from ...text import clean_text
from .buffers import PYCUDA, VARIABLE, Handle, Ledger, Memory
from .driver import MEMORY, CudaError, Device, failure

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which pycuda has no name


class PycudaBuffers(Ledger):
    """``Buffers`` through ``pycuda.driver`` ("Device Interface" of its documentation)."""

    binding = PYCUDA

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._cuda = _pycuda()
        self._objects: dict[Handle, Any] = {}
        with self._explained():
            self._cuda.init()
            self._context: Any = self._cuda.Device(device.index).retain_primary_context()  # the one TensorRT uses

    @contextmanager
    def current(self) -> Iterator[None]:
        """See ``Buffers.current``."""
        if self._context is None:
            raise ValueError("the buffers are closed")
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def alloc(self, size: int) -> Memory:
        """See ``Buffers.alloc``."""
        with self._explained():
            made = self._cuda.mem_alloc(size)
        return self.keep(Memory(size, int(made)), made.free)

    def pinned(self, size: int, *, mapped: bool = False) -> Memory:
        """See ``Buffers.pinned``."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._explained(), ExitStack() as undo:
            array = self._cuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
            undo.callback(array.base.free)
            address = int(array.base.get_device_pointer()) if mapped else 0
            undo.pop_all()
        return self.keep(Memory(size, address, array, array.ctypes.data), array.base.free)

    def stream(self) -> Handle:
        """See ``Buffers.stream``."""
        with self._explained():
            made = self._cuda.Stream(NON_BLOCKING)
        return self._held(made, int(made.handle))

    def event(self) -> Handle:
        """See ``Buffers.event``."""
        with self._explained():
            return self._held(self._cuda.Event())

    def copy_in(self, device: Memory, host: Memory, size: int, stream: Handle) -> None:
        """See ``Buffers.copy_in``."""
        with self._explained():
            self._cuda.memcpy_htod_async(device.address, host.array[:size], self._objects[stream])

    def copy_out(self, host: Memory, device: Memory, size: int, stream: Handle) -> None:
        """See ``Buffers.copy_out``."""
        with self._explained():
            self._cuda.memcpy_dtoh_async(host.array[:size], device.address, self._objects[stream])

    def wait(self, stream: Handle) -> None:
        """See ``Buffers.wait``."""
        with self._explained():
            self._objects[stream].synchronize()

    def record(self, event: Handle, stream: Handle) -> None:
        """See ``Buffers.record``."""
        with self._explained():
            self._objects[event].record(self._objects[stream])

    def milliseconds(self, start: Handle, end: Handle) -> float:
        """See ``Buffers.milliseconds``."""
        with self._explained():
            return float(self._objects[start].time_till(self._objects[end]))

    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        """See ``Buffers.capture``; releases of pycuda without graphs raise ``CudaError``."""
        owner = self._objects[stream]
        if not hasattr(owner, "begin_capture"):
            raise CudaError("This pycuda has no CUDA graphs.", "Update it.")
        with self._explained():
            owner.begin_capture()
            try:
                work()
            except BaseException:
                with suppress(self._cuda.Error):  # that the capture is void is what the error in flight says
                    owner.end_capture()
                raise
            return self._held(owner.end_capture().instantiate())

    def launch(self, graph: Handle, stream: Handle) -> None:
        """See ``Buffers.launch``."""
        with self._explained():
            self._objects[graph].launch(self._objects[stream])

    def close(self) -> None:
        """See ``Buffers.close``."""
        if self._context is None:
            return
        with self._explained(), ExitStack() as stack:
            stack.callback(self._context.detach)
            stack.enter_context(self.current())
            self._context = None
            self.free_all()

    def _held(self, made: Any, value: int = 0) -> Handle:
        """A handle for an object that is freed by letting go of it."""
        handle = Handle(value)
        self._objects[handle] = made
        return self.keep(handle, lambda: self._objects.pop(handle))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns pycuda's errors, which name the call, into ours."""
        try:
            yield
        except self._cuda.MemoryError as error:
            raise failure(MEMORY, clean_text(str(error))) from error
        except self._cuda.Error as error:
            raise failure(0, clean_text(str(error))) from error


def _pycuda() -> ModuleType:
    try:
        return import_module("pycuda.driver")
    except ImportError as error:
        raise UnsupportedError(
            f"The CUDA binding {PYCUDA} cannot be imported ({clean_text(str(error))}).",
            f"Install pycuda, or unset {VARIABLE}: none is needed.",
        ) from error
