"""``expertc doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

import click

from .. import __version__
from . import options, show

BASE = ("numpy", "onnx", "onnxruntime", "click", "rich", "pillow", "pyyaml")
EXTRAS = {
    "train": ("torch", "torchvision", "timm", "safetensors", "onnxscript"),
    "tensorrt": ("tensorrt", "cuda-python"),
    "deploy": ("asyncssh",),
    "serve": ("uvicorn", "starlette", "prometheus-client"),
    "report": ("matplotlib",),
}


@click.command(epilog=options.example("expertc doctor"))
@options.as_json
@options.everywhere
def command(as_json: bool) -> int:
    """Check this machine: versions, backends, memory, and that the bundled model can be cut and run here.

    The exit code is that of the self-test.
    """
    from ..backends.cpu import describe

    facts: dict[str, Any] = {
        "expertc": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "memory": _memory(),
        "disk free here": show.size(shutil.disk_usage(".").free),
    }
    facts |= {name: _version(name) or "missing" for name in BASE}
    facts["onnxruntime providers"] = ", ".join(describe()["providers"])
    for extra, names in EXTRAS.items():
        found = [f"{name} {version}" for name in names if (version := _version(name))]
        facts[f"extra {extra}"] = ", ".join(found) or f"not installed (pip install 'expertc[{extra}]')"
    facts |= _device()
    facts["self-test"], code = _self_test()
    if as_json:
        show.json_out(facts)
    else:
        show.facts({key: str(value) for key, value in facts.items()})
    return code


def _device() -> dict[str, str]:
    """What of a GPU and TensorRT is here; what is not, with what to install. None of it is needed for the processor."""
    from ..backends.tensorrt import library
    from ..backends.tensorrt.driver import open_driver
    from ..errors import UnsupportedError
    from ..jetson import detect

    found = {}
    jetson = detect()
    if jetson is not None:
        told = (jetson.model, jetson.jetpack and f"JetPack {jetson.jetpack}", jetson.linux and f"L4T {jetson.linux}")
        found["Jetson"] = ", ".join(filter(None, told))
        found["target"] = jetson.target or "no profile fits it: --target gpu"
    try:
        driver = open_driver()
        found["NVIDIA driver"] = driver.name
        gpus = [f"{each.name} (SM {each.sm[0]}.{each.sm[1]}, {show.size(each.total)})" for each in driver.devices]
        found["GPU"] = ", ".join(gpus)
    except UnsupportedError as error:
        found["NVIDIA driver"] = f"{error.message} {error.hint}"
    try:
        found["TensorRT"] = ".".join(map(str, library.version(library.load())))
    except UnsupportedError as error:
        found["TensorRT"] = f"{error.message} {error.hint}"
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    try:
        return show.size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return "not known"


def _self_test() -> tuple[str, int]:
    """Cut two classes out of the bundled model, in a folder of its own, and verify them; with the exit code."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from ..compiler import build
    from ..errors import ExitCode, ExpertcError

    try:
        with TemporaryDirectory(prefix="expertc-doctor-") as folder:
            built = build(classes="#0,#1", output=Path(folder) / "self-test.expert", measure_seconds=0)
    except ExpertcError as error:
        return f"FAILED: {error.message} {error.hint}", int(error.exit_code)
    if built.certificate.verdict != "verified":
        return f"FAILED: the certificate says '{built.certificate.verdict}'", int(ExitCode.VERIFICATION)
    return "ok: two classes cut, verified and run", int(ExitCode.OK)
