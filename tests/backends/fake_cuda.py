"""``libcuda.so.1`` without a GPU: ``fake_cuda.c``, compiled here, and what tests tell it and ask of it.

What of it is simulated, and what is real, is said there. Its memory is the host's, so a fake TensorRT reads and writes
it; ``launched`` is that one's way into a stream.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DEVICE, PINNED, MAPPED, STREAM, EVENT, GRAPH, EXEC = (1 << bit for bit in range(7))
EVERYTHING = 127
OUT_OF_MEMORY, STUB, NO_DEVICE, MISMATCH, CAPTURE_UNSUPPORTED, UNKNOWN = 2, 34, 100, 803, 900, 999

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-fvisibility=hidden")


def compiled(folder: Path) -> Path:
    """The library, compiled into ``folder`` under its real name; skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here to make a look-alike of the CUDA driver with")
    library = folder / "libcuda.so.1"
    command = [compiler, *_FLAGS, str(Path(__file__).with_suffix(".c")), "-o", str(library), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


class FakeCuda:
    """The library at ``path``, with nothing alive in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_fault.restype = ctypes.c_char_p
        self._library.fake_reset.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t)
        self._library.fake_reaches.argtypes = (ctypes.c_uint64, ctypes.c_size_t)
        self._library.cuLaunchHostFunc.argtypes = (ctypes.c_void_p, _FUNCTION, ctypes.c_void_p)
        self._kept: list[object] = []
        self._raised: list[BaseException] = []
        self.reset()

    def reset(self, *, devices: int = 1, version: int = 12060, integrated: bool = False, memory: int = 2**24) -> None:
        """Forget everything; from now on there are so many devices, of so many bytes each."""
        self._library.fake_reset(devices, version, integrated, memory)
        self._kept.clear()
        self._raised.clear()

    def fail(self, call: str, code: int, nth: int = 1) -> None:
        """The ``nth`` call from now of the function with this full name returns ``code``."""
        self._library.fake_fail(call.encode(), nth, code)

    def alive(self, kinds: int = EVERYTHING) -> int:
        """How many allocations, streams, events and graphs are alive."""
        return int(self._library.fake_alive(kinds))

    def contexts(self) -> int:
        """How often the primary context is held."""
        return int(self._library.fake_contexts())

    def depth(self) -> int:
        """How many contexts are current in this thread."""
        return int(self._library.fake_depth())

    def reaches(self, address: int, size: int) -> bool:
        """Whether the device may read and write ``size`` bytes there."""
        return bool(self._library.fake_reaches(address, size))

    def faults(self) -> list[str]:
        """What a real driver might not have survived, or not have noticed."""
        count = min(int(self._library.fake_faults()), 8)
        return [self._library.fake_fault(index).decode() for index in range(count)]

    def launched(self, stream: int, work: Callable[[], None]) -> None:
        """Put ``work`` into a stream, as a kernel; see ``Scene.launched`` of ``fake_tensorrt``."""

        def call(_: object) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 (C has no exceptions: ``check`` raises it)
                self._raised.append(error)

        function = _FUNCTION(call)
        self._kept.append(function)
        code = self._library.cuLaunchHostFunc(stream, function, None)
        assert code == 0, f"cuLaunchHostFunc: {code}"

    def check(self) -> None:
        """Nothing went wrong, and nothing is left."""
        if self._raised:
            raise self._raised[0]
        assert self.faults() == []
        assert (self.alive(), self.contexts(), self.depth()) == (0, 0, 0)
