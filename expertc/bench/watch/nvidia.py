"""Lines of ``nvidia-smi --query-gpu``, for machines with an NVIDIA card; no binding to NVML is needed."""

from __future__ import annotations

import math

from .sample import MEGABYTES, Channel, Sample

# Newer drivers call throttle reasons event reasons, older ones do not know that word; asked for in this order.
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
FIELDS = {
    "clocks.sm": ("clock", "MHz"),
    "clocks.mem": ("memory clock", "MHz"),
    "temperature.gpu": ("temperature", "°C"),
    "power.draw": ("power", "W"),
    "memory.used": ("memory", MEGABYTES),  # on the card, by all processes: what fits beside what else runs there
}

# nvml.h, nvmlClocksEventReason*. Idle (1), set by the user (2, 0x100) and in step with another card (0x10) hold no
# clock back against the user's wish.
HELD_BACK = {
    0x04: "power limit",
    0x08: "slowdown by the hardware",
    0x20: "too hot (driver)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}
UNHARMFUL = 0x01 | 0x02 | 0x10 | 0x100


def options(milliseconds: int, reasons: str) -> tuple[str, ...]:
    """The options with which it prints a line for every card each so many milliseconds."""
    fields = ",".join(("index", *FIELDS, reasons))
    return f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-lms", str(milliseconds)


def parse(line: str) -> Sample | None:
    """What a line says of its card; None if it is not such a line."""
    index, *cells = (cell.strip() for cell in line.split(","))
    if len(cells) != len(FIELDS) + 1 or not index.isdecimal():
        return None
    card = f"gpu {int(index)}"
    values = {
        Channel(f"{card} {name}", unit): value
        for cell, (name, unit) in zip(cells, FIELDS.values(), strict=False)
        if (value := _number(cell)) is not None
    }
    active = _mask(cells[-1])
    if active is None:
        return Sample(values)
    found = {f"{card}: {why}" for bit, why in HELD_BACK.items() if active & bit}
    if unknown := active & ~(UNHARMFUL | sum(HELD_BACK)):
        found.add(f"{card}: reason {unknown:#x}, which expertc does not know")
    return Sample(values, frozenset(found), tells=True)


def _number(cell: str) -> float | None:
    """None for [N/A], [Not Supported] and the like."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _mask(cell: str) -> int | None:
    """None for a card that does not tell."""
    try:
        return int(cell, 16)
    except ValueError:
        return None
