"""How much of the processor other processes took, and what the hypervisor gave to other machines."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...text import system_text

# Ticks (of 10 ms) of the cores below which shares are not given: one tick of rounding would be more than 1 %.
MIN_TICKS = 100

IDLE = (3, 4)  # columns of /proc/stat: idle, iowait
STEAL = 7
COUNTED = 8  # guest time stands in user time already
OWN = slice(11, 15)  # of /proc/PID/stat after the name: utime, stime, and both of children that ended


@dataclass(frozen=True)
class Times:
    """Ticks since boot on the cores that this process may use: all, busy, busy with this process, and stolen."""

    total: int
    busy: int
    own: int
    stolen: int


@dataclass(frozen=True)
class Load:
    """Shares of the cores between two looks: taken by other processes, and by other machines of the hypervisor."""

    others: float
    stolen: float


def times(root: Path, pids: Iterable[int], cores: Iterable[int] | None = None) -> Times | None:
    """Read the counters below ``root``; ``pids`` are the processes that count as this one's. None without /proc."""
    wanted = {f"cpu{core}" for core in (usable() if cores is None else cores)}
    rows = [words for line in (system_text(root / "proc/stat") or "").splitlines() if (words := line.split())[:1]]
    ticks = [[int(word) for word in words[1 : COUNTED + 1]] for words in rows if words[0] in wanted]
    if not ticks or any(len(row) < COUNTED for row in ticks):
        return None
    columns = [sum(column) for column in zip(*ticks, strict=True)]
    total = sum(columns)
    own = sum(_own(root / f"proc/{pid}/stat") for pid in pids)
    return Times(total, total - sum(columns[i] for i in IDLE) - columns[STEAL], own, columns[STEAL])


def between(before: Times | None, after: Times | None) -> Load | None:
    """What others took from ``before`` to ``after``; None if that is unknown or too short to tell."""
    if before is None or after is None or (total := after.total - before.total) < MIN_TICKS:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return Load(min(max(others, 0) / total, 1.0), (after.stolen - before.stolen) / total)


def usable() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _own(file: Path) -> int:
    """0 for a process that is gone. Its name may hold spaces and brackets, so what follows the last one counts."""
    words = (system_text(file) or "").rpartition(")")[2].split()
    return sum(int(word) for word in words[OWN])
