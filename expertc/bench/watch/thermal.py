"""Temperatures, and the kernel's own word that it slows things down: cooling devices and over-current events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...text import system_text
from .sample import Channel, Sample, folders, name_of, number

COLDEST = -100.0  # °C; a Jetson's sensor that is off says -256

# Cooling devices that hold clocks back while their state is not 0 (kernel, "thermal/sysfs-api": 0 is no cooling): a
# Jetson's alerts, limits of frequency, ACPI's processors. Fans cool without.
HOLDS_BACK = ("throttle-alert", "cpufreq-", "devfreq-", "Processor")

# What a Jetson's SOC_THERM counts (NVIDIA, "Platform Power and Performance", over-current throttling).
OVER_CURRENT = {
    1: "the supply's voltage was too low",
    2: "the mean current was too high",
    3: "the current was too high",
}


@dataclass(frozen=True)
class Zones:
    """Thermal zones: (name, file) each."""

    zones: tuple[tuple[str, Path], ...]
    name: str = "thermal zones"

    @classmethod
    def find(cls, root: Path) -> Zones | None:
        """The zones of this machine below ``root`` that answer."""
        zones = tuple(
            (name_of(system_text(zone / "type") or zone.name), zone / "temp")
            for zone in folders(root, "sys/class/thermal/thermal_zone[0-9]*")
            if number(zone / "temp") is not None
        )
        return cls(zones) if zones else None

    def read(self) -> Sample:
        """The temperatures now; of several zones of one name the hottest."""
        found: dict[Channel, float] = {}
        for name, file in self.zones:
            milli = number(file)
            if milli is not None and milli / 1e3 > COLDEST:
                channel = Channel(f"temperature {name}", "°C")
                found[channel] = max(milli / 1e3, found.get(channel, COLDEST))
        return Sample(found)


@dataclass(frozen=True)
class Cooling:
    """Cooling devices that work by slowing down: (name, file) each."""

    devices: tuple[tuple[str, Path], ...]
    name: str = "cooling devices"

    @classmethod
    def find(cls, root: Path) -> Cooling | None:
        """The devices of this machine below ``root`` that answer."""
        devices = tuple(
            (name_of(kind), device / "cur_state")
            for device in folders(root, "sys/class/thermal/cooling_device[0-9]*")
            if (kind := system_text(device / "type")) and any(mark in kind for mark in HOLDS_BACK)
            if number(device / "cur_state") is not None
        )
        return cls(devices) if devices else None

    def read(self) -> Sample:
        """Which of them are at work."""
        states = {name: number(file) for name, file in self.devices}
        active = {f"cooling by {name}" for name, state in states.items() if (state or 0) > 0}
        return Sample(held_back=frozenset(active), tells=None not in states.values())


@dataclass(frozen=True)
class OverCurrent:
    """A Jetson's counters of throttling by its power supply (``soctherm_oc``)."""

    files: tuple[tuple[str, Path], ...]
    name: str = "over-current counters"

    @classmethod
    def find(cls, root: Path) -> OverCurrent | None:
        """The counters of this machine below ``root``."""
        files = tuple(
            (f"{why} (oc{event})", file)
            for device in folders(root, "sys/class/hwmon/hwmon[0-9]*")
            for event, why in OVER_CURRENT.items()
            if number(file := device / f"oc{event}_event_cnt") is not None
        )
        return cls(files) if files else None

    def read(self) -> Sample:
        """The counters now."""
        found = {name: count for name, file in self.files if (count := number(file)) is not None}
        return Sample(counters=found, tells=len(found) == len(self.files))
