"""Memory of the GPU and of the host, streams, events and graphs: what a session needs of CUDA, whoever provides it.

Three bindings do: plain ctypes, which needs no package and is the default, cuda-python and pycuda. EXPERTC_CUDA names
another one, for a process that uses it already.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...text import shown
from .driver import Device, Driver

VARIABLE = "EXPERTC_CUDA"
CTYPES, CUDA_PYTHON, PYCUDA = BINDINGS = ("ctypes", "cuda-python", "pycuda")


@dataclass(frozen=True, eq=False)
class Handle:
    """A stream, an event or a graph; ``value`` is the pointer that TensorRT takes for a stream."""

    value: int


@dataclass(frozen=True, eq=False)
class Memory:
    """``size`` bytes: the device has them at ``address``, the host in ``array``, uint8 ``[size]``, at ``pointer``.

    Memory of the device has no ``array``, page-locked memory of the host an ``address`` only if it is mapped.
    """

    size: int
    address: int = 0
    array: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    pointer: int = 0


Kept = TypeVar("Kept", Handle, Memory)


class Buffers(Protocol):
    """One device's memory, streams, events and graphs; everything not freed before goes with ``close``.

    All methods but ``close`` are called inside ``current``. They raise what ``driver.failure`` makes of a CUresult.
    """

    @property
    def binding(self) -> str:
        """One of ``BINDINGS``."""

    def current(self) -> AbstractContextManager[None]:
        """The device is the calling thread's for as long as this lasts; TensorRT uses it too."""

    def alloc(self, size: int) -> Memory:
        """``size`` bytes of the device."""

    def pinned(self, size: int, *, mapped: bool = False) -> Memory:
        """``size`` page-locked bytes of the host, if ``mapped`` such that the device reads and writes them itself."""

    def stream(self) -> Handle:
        """A stream that does not wait for the default one."""

    def event(self) -> Handle:
        """An event that remembers its time."""

    def free(self, what: Memory | Handle) -> None:
        """Give back what one of the other methods made, once nothing uses it any more."""

    def copy_in(self, device: Memory, host: Memory, size: int, stream: Handle) -> None:
        """Copy the first ``size`` bytes of ``host``, page-locked, to the device when the stream gets there."""

    def copy_out(self, host: Memory, device: Memory, size: int, stream: Handle) -> None:
        """Copy the first ``size`` bytes of ``device`` to the host, page-locked, when the stream gets there."""

    def wait(self, stream: Handle) -> None:
        """Return when everything in the stream is done."""

    def record(self, event: Handle, stream: Handle) -> None:
        """Note the time when the stream gets there."""

    def milliseconds(self, start: Handle, end: Handle) -> float:
        """Time between two events, which have both been recorded and reached."""

    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        """A graph of what ``work`` puts into the stream, none of which is done now.

        An error of ``work`` passes through; the stream can be used afterwards, whatever happens.
        """

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Put a graph into the stream."""

    def close(self) -> None:
        """Free everything, and let go of the device; a second time does nothing."""


class Ledger:
    """What is alive, and how to free it."""

    def __init__(self) -> None:
        self._alive: dict[Memory | Handle, Callable[[], object]] = {}

    def keep(self, what: Kept, free: Callable[[], object]) -> Kept:
        """``what``, which ``free`` frees."""
        self._alive[what] = free
        return what

    def free(self, what: Memory | Handle) -> None:
        """See ``Buffers.free``."""
        self._alive.pop(what)()

    def free_all(self) -> None:
        """Free what is alive, the youngest first; one that fails leaves none of the others behind."""
        with ExitStack() as stack:
            for free in self._alive.values():
                stack.callback(free)
            self._alive = {}


def open_buffers(driver: Driver, device: Device, binding: str | None = None) -> Buffers:
    """The buffers of ``device`` through ``binding``, by default the one that EXPERTC_CUDA names, else ctypes.

    Raises ``UsageError`` for a binding that there is not, ``UnsupportedError`` if its package is not installed.
    """
    binding = binding or os.environ.get(VARIABLE) or CTYPES
    if binding not in BINDINGS:
        raise UsageError(
            f"There is no CUDA binding {shown(binding)}.", f"{VARIABLE} is {', '.join(BINDINGS)} or unset."
        )
    if binding == PYCUDA:
        from .with_pycuda import PycudaBuffers

        return PycudaBuffers(device)
    from .calls import CallBuffers, cuda_python

    return CallBuffers(driver.call if binding == CTYPES else cuda_python(), device, binding)
