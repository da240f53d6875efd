"""``expertc doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from . import options, show

BASE = ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "click", "rich", "pillow", "pyyaml")
EXTRAS = {
    "train": ("torch", "torchvision", "timm", "safetensors", "onnxscript"),
    "tensorrt": ("tensorrt", "cuda-python"),
    "deploy": ("asyncssh",),
    "report": ("matplotlib",),
}


@click.command(epilog="Example: expertc doctor")
@options.as_json
@options.everywhere
def command(as_json: bool) -> int:
    """Check this machine: versions, backends, memory, and that the bundled model can be cut and run here."""
    facts = _facts()
    if as_json:
        show.json_out(facts)
    else:
        show.table(("", ""), [(key, value if isinstance(value, str) else str(value)) for key, value in facts.items()])
    return 0 if facts["self-test"] == "ok" else 1


def _facts() -> dict[str, Any]:
    from ..backends.cpu import describe

    facts: dict[str, Any] = {
        "expertc": metadata.version("expertc") if _version("expertc") else "run from a checkout",
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "memory": _memory(),
        "disk free here": show.size(shutil.disk_usage(Path.cwd()).free),
    }
    facts |= {name: _version(name) or "missing" for name in BASE}
    facts["onnxruntime providers"] = ", ".join(describe()["providers"])
    for extra, names in EXTRAS.items():
        found = [f"{name} {version}" for name in names if (version := _version(name))]
        facts[f"extra {extra}"] = ", ".join(found) or f"not installed (pip install 'expertc[{extra}]')"
    facts["self-test"] = _self_test()
    return facts


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


def _self_test() -> str:
    """Cut two classes out of the bundled model, in a folder of its own, and verify them."""
    from tempfile import TemporaryDirectory

    from ..compiler import build
    from ..errors import ExpertcError

    try:
        with TemporaryDirectory() as folder:
            built = build(classes="sharks,rays", output=Path(folder) / "self-test.expert", measure_seconds=0)
    except ExpertcError as error:
        return f"FAILED: {error.message} {error.hint}"
    return "ok" if built.certificate.verdict == "verified" else built.certificate.verdict
