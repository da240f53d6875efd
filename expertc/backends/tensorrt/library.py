"""The ``tensorrt`` module of this machine, or an error that says which package it needs."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import UnsupportedError
from ...jetson import JETPACKS, jetson_linux
from ...jetson import jetpack as jetpack_of
from ...targets import Release, release
from ...text import clean_text, system_text

OLDEST: Release = (8, 5)
"""The first release with tensor names all through its runtime (``num_io_tensors``, ``execute_async_v3``)."""

PYTHON: Release = (3, 10)
"""The oldest Python that this package runs on."""

TEGRA = Path("/etc/nv_tegra_release")

# What a JetPack brings: TensorRT ("" where sources differ) and the Python it is for. Sources: NVIDIA's pages on
# JetPack, and tensorrt/config.py of github.com/dusty-nv/jetson-containers.
_BRINGS: Mapping[str, tuple[str, str]] = {
    "5.1": ("8.5.2", "3.8"), "6.0": ("8.6.2", "3.10"), "6.1": ("10.3", "3.10"), "6.2": ("10.3", "3.10"),
    "7.0": ("10.13", "3.12"), "7.1": ("10.13", "3.12"), "7.2": ("", "3.12"),
}  # fmt: skip


def load() -> ModuleType:
    """The module ``tensorrt``.

    Raises ``UnsupportedError`` if there is none, with the package that this machine's JetPack has it in; if it is there
    but cannot be loaded; and if it is older than 8.5.
    """
    try:
        import tensorrt  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _broken(error) from error
        raise UnsupportedError("TensorRT is not installed for this Python.", _package()) from error
    except (ImportError, OSError, RuntimeError) as error:  # a library that it needs is missing, or of another release
        raise _broken(error) from error
    trt: ModuleType = tensorrt
    if not has(trt, "Builder") or not has(trt, "OnnxParser"):
        raise UnsupportedError("The installed TensorRT is a runtime only and cannot compile.", _package())
    if version(trt) < OLDEST:
        raise UnsupportedError(
            f"TensorRT {clean_text(trt.__version__)} is older than 8.5, the oldest that is supported.",
            "Update it; on a Jetson, update JetPack.",
        )
    return trt


def version(trt: ModuleType) -> Release:
    """Its release in numbers: 10.3.0 is (10, 3, 0), and so is 10.3.0.post1."""
    found = re.match(r"\d+(\.\d+){1,3}", trt.__version__)
    return release(found[0] if found else "0")


def has(trt: ModuleType, name: str) -> bool:
    """Whether this release has ``name``, such as "BuilderFlag.VERSION_COMPATIBLE".

    What not all releases from 8.5 on have is only used where this has been asked: which ones have it is then nobody's
    to know.
    """
    found: Any = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def _broken(error: Exception) -> UnsupportedError:
    why = clean_text(str(error)).rstrip(".")
    return UnsupportedError(
        f"TensorRT is installed but cannot be loaded: {why[:300]}.",
        f"A library that it needs is missing, or of another release. {_package()}",
    )


def _package() -> str:
    """What to install on this machine, in one sentence."""
    linux = jetson_linux(system_text(TEGRA) or "")
    if linux is None:
        if platform.machine() == "x86_64":
            return "Install it with: pip install 'expertc[tensorrt]'."
        return "Install it from NVIDIA's repository for this system (python3-libnvinfer), or use NVIDIA's container."
    jetpack = jetpack_of(linux)
    if jetpack is None and linux < min(JETPACKS):
        return "This Jetson's JetPack is older than 5.1: update it."
    brought = _BRINGS.get((jetpack or "")[:3])  # a third number changes neither
    install = "Install it with: sudo apt install python3-libnvinfer"
    needs = "a virtual environment needs --system-site-packages to see it."
    if brought is None:
        return f"{install}; {needs}"
    tensorrt, python = brought
    if release(python) < PYTHON:
        return f"JetPack {jetpack} has it for Python {python} only: compile with trtexec, as the bundle's README says."
    what = f"JetPack {jetpack}{f': TensorRT {tensorrt}' if tensorrt else ''} for Python {python}"
    other = "" if release(python) == sys.version_info[:2] else f", and run expertc with Python {python}"
    return f"{install} ({what}){other}; {needs}"
