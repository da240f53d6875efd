"""What the machine was like while something was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..backends import cpu
from ..backends.processor import processor_name
from .checkout import commit, fingerprint
from .watch.clocks import governors
from .watch.load import usable

PACKAGE = Path(__file__).parents[1]


def describe() -> dict[str, Any]:
    """Facts about this machine that change what a duration means; JSON types, None where the system does not say.

    ``cores`` are the ones this process may use; ``commit`` is that of the source checkout the package runs from,
    and ``source_sha256`` that of its files, committed or not.
    """
    return {
        "cpu": processor_name(),
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
