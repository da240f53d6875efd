"""Who this machine is to a plan: one is for a release of TensorRT, a GPU and a system, and no other."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import DeviceMismatchError
from ...text import clean_text, shown
from .driver import Driver


@dataclass(frozen=True)
class Identity:
    """What plans and timing caches belong to: ``tensorrt`` "10.3.0", ``sm`` "8.7", ``os`` "linux aarch64"."""

    tensorrt: str
    sm: str
    device: str
    driver: str
    os: str

    def to_mapping(self) -> dict[str, str]:
        """The fields as plain JSON types."""
        return asdict(self)


_WORDS = {
    "tensorrt": "TensorRT {}",
    "sm": "a GPU of compute capability {}",
    "device": "the GPU {}",
    "os": "the system {}",
}
"""What has to be the same, and how it is called. A driver runs the plans of another, and GPUs of one family have one
name: a machine opens its own plans only (the cache of plans), so the name tells enough."""


def identity(trt: ModuleType, driver: Driver, index: int = 0) -> Identity:
    """Who this machine is with its GPU ``index``. Raises ``NoDeviceError``."""
    device = driver.device(index)
    return Identity(
        tensorrt=clean_text(trt.__version__),
        sm=".".join(map(str, device.sm)),
        device=device.name,
        driver=driver.name,
        os=f"{platform.system()} {platform.machine()}".lower(),
    )


def differences(plan: Mapping[str, Any], here: Identity) -> tuple[str, ...]:
    """Why a plan cannot run here, in words; nothing if it can.

    ``plan`` is what ``Identity.to_mapping`` gave where it was compiled, as a file has kept it.
    """
    mine = here.to_mapping()
    return tuple(
        f"it is for {words.format(shown(plan.get(key, 'not said')))}, here is {shown(mine[key])}"
        for key, words in _WORDS.items()
        if plan.get(key) != mine[key]
    )


def require_same(plan: Mapping[str, Any], here: Identity, rebuild: str) -> None:
    """Raise ``DeviceMismatchError`` if a plan cannot run here; ``rebuild`` is the command that makes one that can."""
    if found := differences(plan, here):
        raise DeviceMismatchError(f"The plan was not compiled for this machine: {'; '.join(found)}.", again(rebuild))


def again(rebuild: str) -> str:
    """What to do about a plan that does not run here: ``rebuild`` is the command, "" where none is known."""
    return f"Run: {rebuild}" if rebuild else "Compile it again on this machine."


def rebuild_command(bundle: Path) -> str:
    """The command that compiles a bundle for this machine, as a shell takes it."""
    return f"expertc compile {shlex.quote(clean_text(str(bundle)))}"
