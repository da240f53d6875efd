"""The machine with the GPU, as the steps need it: compile a graph, open its plan, say what it is."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from expertc.backends.tensorrt import library
from expertc.backends.tensorrt.builder import Plan, build_plan
from expertc.backends.tensorrt.driver import open_driver
from expertc.backends.tensorrt.identity import Identity, identity
from expertc.backends.tensorrt.options import Options
from expertc.backends.tensorrt.process import Progress, compile_plan
from expertc.backends.tensorrt.session import PlanSession, open_plan

CLOCKS = "name,driver_version,clocks.sm,clocks.max.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active"
PATIENCE = 30.0  # seconds


class OutOfTimeError(Exception):
    """A build did not end in time."""


@dataclass(frozen=True)
class Machine:
    """TensorRT and the GPU.

    ``child``: engines are built in a process of their own, as the package does. ``simulated``: neither is real, so that
    nothing measured on it means anything.
    """

    trt: ModuleType
    who: Identity
    level: int | None = None
    libraries: bool = True
    child: bool = True
    simulated: bool = False

    @classmethod
    def here(
        cls, *, level: int | None = None, libraries: bool = True, child: bool = True, simulated: bool = False
    ) -> Machine:
        """This machine. Raises ``UnsupportedError`` without a driver (looked for first), a GPU or TensorRT."""
        driver = open_driver()
        trt = library.load()
        return cls(trt, identity(trt, driver), level, libraries, child, simulated)

    def compile(self, onnx: Path, precision: str, end: float) -> Plan:
        """Compile a graph; TF32 is off, so that fp32 is fp32. Raises ``OutOfTimeError`` at ``end`` (monotonic)."""
        options = Options(precision=precision, level=self.level, libraries=self.libraries)
        if not self.child:
            return build_plan(self.trt, onnx, options)

        def told(progress: Progress) -> None:
            if time.monotonic() > end:
                raise OutOfTimeError(f"stopped after {progress.elapsed:.0f} s, {progress.phase}")

        return compile_plan(onnx, options, told=told)

    def open(self, plan: bytes, *, cuda_graph: bool) -> PlanSession:
        """A session over a plan that ``compile`` made."""
        return open_plan(plan, cuda_graph=cuda_graph)

    def to_mapping(self) -> dict[str, Any]:
        """Who it is and how it compiles, as JSON types."""
        return {
            **asdict(self.who),
            "level": self.level,
            "libraries": self.libraries,
            "simulated": self.simulated,
            "python": platform.python_version(),
        }


def clocks() -> str:
    """What ``nvidia-smi`` says of the first GPU's clocks, "" where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "-i", "0", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()
