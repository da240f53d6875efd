"""Lines of NVIDIA's ``tegrastats``, for a Jetson whose sensors in /sys only root may read.

A line is words and their values in no fixed order; a board leaves out what it does not have. Each is looked for on
its own, so a new word does no harm. Behind a value its mean may stand, and its peak.
"""

from __future__ import annotations

import re

from .clocks import CPU, GPU
from .ina import power
from .sample import Channel, Sample, name_of
from .thermal import COLDEST

OPTIONS = ("--interval",)  # milliseconds follow

MEMORY = Channel("memory clock", "MHz")
GPU_LOAD = Channel("gpu load", "%")

CORES = re.compile(r"\bCPU \[([^\]]*\](?:@\d+)?)")
CLOCK = re.compile(r"[%\]]@(\d+)")  # behind each core, or behind all
GR3D = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?(\d+))?")  # [a,b] are the clocks of its clusters, which run together
EMC = re.compile(r"\bEMC_FREQ (?:\d+%)?@(\d+)")
TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?:/-?[\d.]+C)?(?!\S)")
RAIL = re.compile(r"(?<!\S)(\w+) (-?\d+)(?:mW)?(?:/-?\d+(?:mW)?){1,2}(?!\S)")  # in mW; older ones leave out the unit


def parse(line: str) -> Sample | None:
    """What a line says; None if it is none of tegrastats'."""
    values: dict[Channel, float] = {}
    if cores := CORES.search(line):
        values |= {CPU: max(clocks)} if (clocks := [float(clock) for clock in CLOCK.findall(cores[1])]) else {}
    if gpu := GR3D.search(line):
        values |= {GPU_LOAD: float(gpu[1])} if gpu[1] else {}
        values |= {GPU: float(gpu[2])} if gpu[2] else {}
    if memory := EMC.search(line):
        values[MEMORY] = float(memory[1])
    for name, degrees in TEMPERATURE.findall(line):
        if float(degrees) > COLDEST:
            values[Channel(f"temperature {name_of(name)}", "°C")] = float(degrees)
    for name, milliwatts in RAIL.findall(line):
        values[power(name_of(name))] = int(milliwatts) / 1e3
    return Sample(values) if values else None
