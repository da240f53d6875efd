"""What this device is, and what of expertc's libraries is on it: the facts behind ``expertc doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .errors import UnsupportedError
from .jetson import detect

BASE = ("numpy", "onnx", "onnxruntime", "click", "rich", "pillow", "pyyaml")
EXTRAS = {
    "train": ("torch", "torchvision", "timm", "safetensors", "onnxscript"),
    "tensorrt": ("tensorrt", "cuda-python"),
    "deploy": ("asyncssh",),
    "serve": ("uvicorn", "starlette", "prometheus-client", "orjson"),
    "report": ("matplotlib",),
}


def describe(folder: Path) -> dict[str, Any]:
    """The facts, as JSON types; bytes are bytes, and what is not here, or not told, is None.

    ``disk_free`` is that of ``folder``. ``driver`` and ``tensorrt`` hold a ``version``, or say what is ``missing`` and
    what to install; an expert on the processor needs neither.
    """
    from .backends.cpu import describe as runtime

    jetson = detect()
    return {
        "expertc": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "memory": _memory(),
        "disk_free": shutil.disk_usage(folder).free,
        "packages": {name: _version(name) for name in BASE},
        "providers": list(runtime()["providers"]),
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "jetson": None if jetson is None else jetson.to_mapping(),
        **_gpu(),
    }


def _gpu() -> dict[str, Any]:
    from .backends.tensorrt import library
    from .backends.tensorrt.driver import open_driver

    found: dict[str, Any] = {"gpus": []}
    try:
        driver = open_driver()
        found["driver"] = {"version": driver.name}
        found["gpus"] = [
            {"name": each.name, "sm": f"{each.sm[0]}.{each.sm[1]}", "memory": each.total} for each in driver.devices
        ]
    except UnsupportedError as error:
        found["driver"] = {"missing": f"{error.message} {error.hint}"}
    try:
        found["tensorrt"] = {"version": ".".join(map(str, library.version(library.load())))}
    except UnsupportedError as error:
        found["tensorrt"] = {"missing": f"{error.message} {error.hint}"}
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
