"""The process in which TensorRT builds: ``python -m expertc.backends.tensorrt.child FOLDER EVENTS``.

FOLDER holds ``job.json``, and gets the plan. EVENTS is a descriptor that takes JSON lines: "phase", "workspace_mb",
"expected", and as the last one "plan" or "error", which so need no room on the disk. The other end of standard input is
held by the parent: the process ends when that does, whichever way, and then takes the folder with it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import ExpertcError, FileSystemError
from ...targets import WORKSPACE_SHARE
from . import history, library, timing
from .builder import build_plan
from .options import Options
from .process import FORWARDED, LEAST_WORKSPACE_MB
from .readings import BuildMemoryError

_MIB = 2**20


def main(folder: Path, events: BinaryIO) -> None:
    """Do the job in ``folder`` and tell what the plan is, or the error there was."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()

    def tell(**event: Any) -> None:
        events.write(json.dumps(event).encode() + b"\n")
        events.flush()

    try:
        tell(plan=_build(folder, tell))
    except ExpertcError as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in FORWARDED)
        tell(error=kind, message=error.message, hint=error.hint)
    except MemoryError:
        tell(error=BuildMemoryError.__name__, message="There is no memory left.", hint="")


def _build(folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    options = Options.from_mapping(job["options"])
    trt = library.load()
    from .driver import open_driver
    from .identity import identity

    driver = open_driver()
    here = identity(trt, driver)
    if options.workspace_mb is None:
        free, _ = driver.memory()
        options = replace(options, workspace_mb=max(LEAST_WORKSPACE_MB, free // WORKSPACE_SHARE // _MIB))
    tell(workspace_mb=options.workspace_mb)
    cache = timing.place(here.tensorrt, here.sm, here.driver)
    past = cache.with_suffix(".history")
    size = 0

    def counted(layers: int) -> None:
        nonlocal size
        size = layers
        tell(expected=history.expected(past, layers, options.precision))

    plan = build_plan(
        trt, Path(job["onnx"]), options, cache=cache, told=lambda phase: tell(phase=phase), counted=counted
    )
    history.remember(past, size, options.precision, plan.seconds)
    try:
        (folder / "engine.plan").write_bytes(plan.data)
    except OSError as error:
        raise FileSystemError(
            f"The plan of {len(plan.data) / _MIB:,.0f} MB cannot be written ({error.strerror}).",
            "Make room, or set TMPDIR.",
        ) from error
    about = asdict(plan)
    del about["data"]
    return about


def _end_with_parent(folder: Path) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written there: it returns when the parent has gone
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    with open(int(sys.argv[2]), "wb") as pipe:
        main(Path(sys.argv[1]), pipe)
