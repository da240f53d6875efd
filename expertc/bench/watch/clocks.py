"""Clocks as the kernel tells them: governors, frequencies, and throttling that x86 processors count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...text import system_text
from .sample import Channel, Sample, folders, name_of, number

CPU = Channel("cpu clock", "MHz")
GPU = Channel("gpu clock", "MHz")


@dataclass(frozen=True)
class CpuClocks:
    """The fastest core's clock: the idle ones are slow on purpose, and a low clock may be what the governor wants."""

    files: tuple[Path, ...]
    name: str = "cpufreq"

    @classmethod
    def find(cls, root: Path) -> CpuClocks | None:
        """The clocks of this machine below ``root``; a virtual machine shows none."""
        files = tuple(policy / "scaling_cur_freq" for policy in _policies(root))
        return cls(files) if any(number(file) is not None for file in files) else None

    def read(self) -> Sample:
        """The clock now."""
        found = [kilohertz for file in self.files if (kilohertz := number(file)) is not None]
        return Sample({CPU: max(found) / 1e3} if found else {})


@dataclass(frozen=True)
class GpuClock:
    """The clock of a GPU that devfreq governs, as on a Jetson (17000000.gpu, 17000000.ga10b, 57000000.gpu)."""

    file: Path
    name: str = "devfreq"

    @classmethod
    def find(cls, root: Path) -> GpuClock | None:
        """The first GPU of this machine below ``root``."""
        for device in folders(root, "sys/class/devfreq/*"):
            if any(mark in device.name for mark in ("gpu", "ga10b", "gv11b", "gp10b")):
                return cls(device / "cur_freq")
        return None

    def read(self) -> Sample:
        """The clock now."""
        hertz = number(self.file)
        return Sample({} if hertz is None else {GPU: hertz / 1e6})


@dataclass(frozen=True)
class ThrottleCounts:
    """How often a core or the package got too hot (x86: ``thermal_throttle/*_throttle_count``)."""

    files: tuple[Path, ...]
    name: str = "thermal_throttle"

    @classmethod
    def find(cls, root: Path) -> ThrottleCounts | None:
        """The counters of this machine below ``root``; virtual machines and other processors have none."""
        files = tuple(folders(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"))
        return cls(files) if files else None

    def read(self) -> Sample:
        """The sum of all cores: a package's counter stands once for each of its cores, and any rise is one too many."""
        found = [count for file in self.files if (count := number(file)) is not None]
        return Sample(counters={"the processor was too hot": sum(found)}, tells=True) if found else Sample()


def governors(root: Path) -> str | None:
    """The frequency governors in use, or None where none are to be seen, as in most virtual machines."""
    found = {name_of(name) for policy in _policies(root) if (name := system_text(policy / "scaling_governor"))}
    return ", ".join(sorted(found)) or None


def governor_files(root: Path) -> tuple[Path, ...]:
    """The files in which the governors stand."""
    return tuple(file for policy in _policies(root) if (file := policy / "scaling_governor").exists())


def _policies(root: Path) -> list[Path]:
    return list(folders(root, "sys/devices/system/cpu/cpufreq/policy[0-9]*"))
