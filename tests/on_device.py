"""A device that is not here: what stands in for its driver, its TensorRT and its GPU. Everything it says is made up.

Its compiler hands out the name of the expert's file as the plan, and its session runs that file with ONNX Runtime, so
that whoever gets the wrong plan, or none, is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from expertc import engines
from expertc.backends.cpu import open_session
from expertc.backends.tensorrt.builder import Plan
from expertc.backends.tensorrt.identity import Identity, require_same
from expertc.backends.tensorrt.options import Options
from expertc.errors import UnsupportedError
from expertc.machine import Here

ORIN = Identity("10.3.0", "8.7", "Orin", "540.4.0 (CUDA 12.6)", "linux aarch64")
LAYERS = [{"Name": "trunk", "LayerType": "CaskConvolution"}]


@dataclass
class Device:
    """What was asked of it: the options that were compiled with, and the plans that were opened."""

    identity: Identity = ORIN
    dla_share: float | None = None
    compiled: list[Options] = field(default_factory=list)
    opened: list[bytes] = field(default_factory=list)
    missing: UnsupportedError | None = None
    fails: BaseException | None = None

    def probe(self) -> Here:
        """What there is; raises ``missing``."""
        if self.missing is not None:
            raise self.missing
        release = tuple(map(int, self.identity.tensorrt.split(".")))
        return Here(ModuleType("tensorrt"), release, self.identity)

    def compile_plan(self, onnx: Path, options: Options, *, told: Callable[[Any], None]) -> Plan:
        """A plan that is the expert's path, and which one it is; raises ``fails``."""
        if self.fails is not None:
            raise self.fails
        self.compiled.append(options)
        return Plan(f"{len(self.compiled)} {onnx}".encode(), LAYERS, self.dla_share, 7.0, ("A note.",))

    def open_plan(self, plan: bytes | Path, card: str | None, **options: Any) -> Any:
        """A session over what the plan says, after the look at where it was compiled."""
        require_same(options["made_by"], self.identity, options["rebuild"])
        data = plan if isinstance(plan, bytes) else plan.read_bytes()
        self.opened.append(data)
        return open_session(Path(data.decode().partition(" ")[2]), stage=options["stage"])

    def with_release(self, tensorrt: str) -> None:
        """Another TensorRT is installed."""
        self.identity = replace(self.identity, tensorrt=tensorrt)


def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    """An Orin with JetPack 6.1 instead of this machine, and a cache of its own."""
    made = Device()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "probe", made.probe)
    monkeypatch.setattr("expertc.backends.tensorrt.process.compile_plan", made.compile_plan)
    monkeypatch.setattr("expertc.backends.tensorrt.session.open_plan", made.open_plan)
    return made
