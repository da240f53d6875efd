"""What TensorRT says while it works: its log and the phases of a build."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ...text import clean_text
from .library import has

KEPT = 50
"""Errors, and warnings, that are kept of a build: the last ones say most, and a stuck build says thousands."""

_ON_DLA = re.compile(r"\[DlaLayer\] (\{.*\})")


class Log:
    """The errors and warnings of a build, newest last, and the engine's layers that it put on a DLA core."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=KEPT)
        self.warnings: deque[str] = deque(maxlen=KEPT)
        self.on_dla: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keep a message if it matters."""
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(clean_text(text))
        elif severity == "WARNING":
            self.warnings.append(clean_text(text))
        elif found := _ON_DLA.search(text):
            self.on_dla.append(found[1])


def logger(trt: ModuleType, log: Log) -> Any:
    """A logger of TensorRT's kind that fills ``log``. It must live as long as what is given it."""

    class Listener(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(severity.name, msg)

    return Listener()


def monitor(trt: ModuleType, told: Callable[[str], None]) -> Any:
    """A progress monitor that tells the outermost phase with how much of it is done, or None where there is none.

    TensorRT calls it from several threads, and nests phases; of those within others it is enough to know the outer.
    """
    if not has(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.last = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                self.tell(_name(phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            total = self.steps.get(phase_name, 0)
            if total > 0:
                self.tell(f"{_name(phase_name)}, {min(100, 100 * (step + 1) // total)} %")
            return True  # False would end the build

        def tell(self, phase: str) -> None:
            if phase != self.last:
                self.last = phase
                told(phase)

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _name(phase: str) -> str:
    """A phase as the user reads it: TensorRT's own word, which may quote a model's names."""
    return clean_text(phase)[:60]
