"""Power of a Jetson's rails from its INA3221 sensors (kernel documentation, ``hwmon/ina3221``).

``in1_input`` to ``in3_input`` are millivolts on the bus, ``curr1_input`` to ``curr3_input`` milliamperes; ``in4`` and
above are voltages over the shunts, and ``in7_label`` names their sum, so only the first three are rails.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ...text import system_text
from .sample import Channel, Sample, folders, name_of, number

RAILS = (1, 2, 3)

# Rails that add up to what a module takes, by board; no rail of a set feeds another of it. Where there is an input rail
# it measures everything (Orin NX and Nano, Xavier NX; Nano). An AGX Orin has none: its memory (VDDQ_VDD2_1V8AO) is fed
# by VIN_SYS_5V0. Of an AGX Xavier this is not known for sure, so no sum is given.
MODULE = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


@dataclass(frozen=True)
class Rails:
    """Power rails: (name, file with mV, file with mA) each."""

    rails: tuple[tuple[str, Path, Path], ...]
    name: str = "INA3221"

    @classmethod
    def find(cls, root: Path) -> Rails | None:
        """The rails of this machine below ``root`` that answer; newer systems let only root read them."""
        rails = tuple(
            (name_of(label), device / f"in{i}_input", device / f"curr{i}_input")
            for device in folders(root, "sys/class/hwmon/hwmon[0-9]*")
            if system_text(device / "name") == "ina3221"
            for i in RAILS
            if (label := system_text(device / f"in{i}_label")) and label != "NC"  # not connected
            if number(device / f"in{i}_input") is not None and number(device / f"curr{i}_input") is not None
        )
        return cls(rails) if rails else None

    def read(self) -> Sample:
        """The power now, in watts."""
        found = {}
        for name, volts, amperes in self.rails:
            millivolts, milliamperes = number(volts), number(amperes)
            if millivolts is not None and milliamperes is not None:
                found[power(name)] = millivolts * milliamperes / 1e6
        return Sample(found)


def power(rail: str) -> Channel:
    """The channel of a rail's power."""
    return Channel(f"power {rail}", "W")


def module(channels: Collection[Channel]) -> tuple[Channel, ...]:
    """Those of ``channels`` whose sum is the power of the whole module; () if that is not known."""
    for rails in MODULE:
        wanted = tuple(map(power, rails))
        if all(channel in channels for channel in wanted):
            return wanted
    return ()
