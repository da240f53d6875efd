"""What the machine was like while something was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..backends import cpu
from ..text import clean_text
from .checkout import commit, fingerprint
from .watch.clocks import governors
from .watch.load import usable

PACKAGE = Path(__file__).parents[1]
CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")


def describe() -> dict[str, Any]:
    """Facts about this machine that change what a duration means; JSON types, None where the system does not say.

    ``cores`` are the ones this process may use; ``commit`` is that of the source checkout the package runs from,
    and ``source_sha256`` that of its files, committed or not.
    """
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "governor": governors(Path("/")),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "expertc": __version__,
        "commit": commit(PACKAGE.parent),
        "source_sha256": fingerprint(PACKAGE),
        "runtime": f"onnxruntime {cpu.describe()['version']}",
    }


def settings(threads: int | None) -> dict[str, Any]:
    """How this process is set while it measures; JSON types. ``threads`` as given to a session."""
    return {
        "threads": threads or cores(),
        "threads_between_operators": 1,
        "threads_wait": "spinning",
        "garbage_collector": "off while times are taken",
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(usable())


def load() -> float:
    """The load average of the last minute: how many processes wanted a core."""
    return round(os.getloadavg()[0], 2)


def cpu_name() -> str:
    """The processor as the kernel calls it; on a board without that, the board."""
    for line in _text(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return clean_text(value)
    return clean_text(_text(BOARD)) or platform.processor() or platform.machine()


def _text(path: Path) -> str:
    """Contents of a small system file, "" where this system does not have it."""
    return path.read_text(encoding="utf-8", errors="replace") if os.access(path, os.R_OK) else ""
