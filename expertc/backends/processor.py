"""What the processor of this machine is called, and what it can do with 8-bit integers."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ..text import clean_text

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")

VNNI = ("avx512_vnni", "avx_vnni")
"""Linux's names for instructions that add four products of uint8 and int8 in 32 bits at once."""

_X86 = ("x86_64", "amd64", "i686", "i386")


def processor_name() -> str:
    """The processor as the kernel calls it; on a board without that, the board."""
    for line in _text(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return clean_text(value)
    return clean_text(_text(BOARD)) or platform.processor() or platform.machine()


def has_vnni(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has one of ``VNNI``; False where nobody says so."""
    lines = _text(cpuinfo).splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return any(name in flags for name in VNNI)


def saturates(machine: str = platform.machine(), cpuinfo: Path = CPUINFO) -> bool:
    """Whether sums of products of uint8 and int8 may saturate: on x86 without VNNI, or if nobody knows.

    ONNX Runtime adds two of them in 16 bits there, and says so: its page "Quantize ONNX models" asks for weights of 7
    bits (``reduce_range``) on AVX2 and AVX-512 without VNNI. On 64-bit Arm nothing saturates.
    """
    return machine.lower() in _X86 and not has_vnni(cpuinfo)


def _text(path: Path) -> str:
    """Contents of a small system file, "" where this system does not have it."""
    return path.read_text(encoding="utf-8", errors="replace") if os.access(path, os.R_OK) else ""
