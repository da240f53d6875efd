"""What an NVIDIA Jetson says of itself: its model, the release of its system, its power mode.

It is read from small files and from ``nvpmodel -q``; nothing is changed, and nothing needs the rights of root. In a
container only what was mounted can be read: the device tree is hidden there, and nvpmodel stays on the host.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import InvalidArtifactError
from .targets import Release, list_targets, release
from .text import clean_text, system_text

MAX_NAME = 80  # characters of what a device calls itself
MAX_MODES = 32
PATIENCE = 10.0  # seconds

FIRST_LINE = re.compile(r"^# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3})?),?")
MODE = re.compile(r"^NV Power Mode:\s*(.+)$", re.MULTILINE)
DEFINED = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d{1,3})\s+NAME=(\S+)\s*>", re.MULTILINE)
MEMORY = re.compile(r"^MemTotal:\s*(\d+) kB$", re.MULTILINE)

# Jetson Linux and the JetPack that brings it: developer.nvidia.com/embedded/jetpack-archive; github.com/dusty-nv/
# jetson-containers, l4t_version.py; 36.5 and 39.2: the apt candidate of nvidia-jetpack on such a system.
JETPACKS: dict[Release, str] = {
    (35, 2, 1): "5.1", (35, 3, 1): "5.1.1", (35, 4, 1): "5.1.2", (35, 5, 0): "5.1.3", (35, 6, 0): "5.1.4",
    (35, 6, 1): "5.1.5", (36, 2, 0): "6.0 DP", (36, 3, 0): "6.0", (36, 4, 0): "6.1", (36, 4, 3): "6.2",
    (36, 4, 4): "6.2.1", (36, 5, 0): "6.2.2", (38, 2, 0): "7.0", (38, 4, 0): "7.1", (39, 2, 0): "7.2",
    (39, 2, 1): "7.2.1",
}  # fmt: skip

# The system sees less than the data sheet's memory, but never so little: 6284 of 8192 MB is the least recorded share.
LEAST_SHARE = 0.7


@dataclass(frozen=True)
class Jetson:
    """A Jetson; whatever it does not tell is None.

    ``model`` is its name in the device tree, ``linux`` the release of Jetson Linux (L4T) and ``jetpack`` the JetPack
    that brought it, ``target`` the name of the profile for its module, ``power_mode`` the name of the mode that is set
    and ``power_modes`` all names, by number.
    """

    model: str | None
    linux: str | None
    jetpack: str | None
    target: str | None
    power_mode: str | None
    power_modes: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"power_modes": list(self.power_modes)}


def detect(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this machine is, or None if it is none; ``root`` holds ``proc`` and ``etc``."""
    tree = root / "proc/device-tree"
    compatible = tuple(filter(None, (system_text(tree / "compatible") or "").split("\0")))
    linux = jetson_linux(system_text(root / "etc/nv_tegra_release") or "")
    if linux is None and not any(name.startswith("nvidia,tegra") for name in compatible):
        return None
    memory = MEMORY.search(system_text(root / "proc/meminfo") or "")
    return Jetson(
        model=_named(system_text(tree / "model") or ""),
        linux=None if linux is None else ".".join(map(str, linux)),
        jetpack=None if linux is None else jetpack(linux),
        target=_target(compatible, None if memory is None else int(memory[1]) // 1024),
        power_mode=power_mode(),
        power_modes=power_modes(system_text(root / "etc/nvpmodel.conf") or ""),
    )


def jetson_linux(text: str) -> Release | None:
    """The release of Jetson Linux in the text of ``/etc/nv_tegra_release``, as three numbers."""
    found = FIRST_LINE.search(text)
    return None if found is None else release(f"{found[1]}.{found[2]}" + ("" if "." in found[2] else ".0"))


def jetpack(linux: Release) -> str | None:
    """The JetPack of a release of Jetson Linux: the newest one that is not newer, of the same second number."""
    older = [known for known in JETPACKS if known[:2] == linux[:2] and known <= linux]
    return JETPACKS[max(older)] if older else None


def power_mode() -> str | None:
    """The name of the power mode that is set; None where there is none, or it is not told to this user."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 (an argument list of ours)
            [tool, "-q"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = MODE.search(done.stdout.decode("utf-8", "replace"))
    return _named(found[1]) if found else None


def power_modes(text: str) -> tuple[str, ...]:
    """The names of the power modes in the text of ``/etc/nvpmodel.conf``, by number; 0 is not always the most."""
    found = sorted((int(number), clean_text(name)[:MAX_NAME]) for number, name in DEFINED.findall(text))
    return tuple(name for _, name in found[:MAX_MODES])


def _target(compatible: Sequence[str], memory_mb: int | None) -> str | None:
    """The profile for a module: the first name that one has, as device trees begin with the most precise one.

    A carrier board may come with the device tree of another module, so the memory must fit too.
    """
    try:
        known = {name: target for target in list_targets() for name in _names(target.facts.get("compatible"))}
    except InvalidArtifactError:
        return None  # a profile of the user's is damaged: whoever asks for it is told
    for name in compatible:
        target = known.get(name.removeprefix("nvidia,").rpartition("+")[2])
        if target is not None:
            nominal = target.memory_mb
            fits = nominal is None or memory_mb is None or LEAST_SHARE * nominal <= memory_mb <= nominal
            return target.name if fits else None
    return None


def _names(fact: object) -> tuple[object, ...]:
    return fact if isinstance(fact, tuple) else () if fact is None else (fact,)


def _named(text: str) -> str | None:
    return clean_text(text.replace("\0", " "))[:MAX_NAME] or None
