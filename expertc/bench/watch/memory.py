"""The most memory that this process held at once, and what is left."""

from __future__ import annotations

import re
from pathlib import Path

from ...text import system_text

PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)
AVAILABLE = re.compile(r"^MemAvailable:\s*(\d+) kB$", re.MULTILINE)
RESET = "5"  # proc_pid_clear_refs(5): the peak is set to what is held now


def reset_peak(root: Path = Path("/")) -> bool:
    """Begin to look for a new peak; False if the system cannot, so that the peak is that of the whole process."""
    try:
        (root / "proc/self/clear_refs").write_text(RESET)
    except OSError:
        return False
    return True


def peak(root: Path = Path("/")) -> int | None:
    """The most memory (resident, bytes) since ``reset_peak``; None where the system does not say."""
    try:
        found = PEAK.search((root / "proc/self/status").read_text(errors="replace"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: of the machine, and of its container; None where nobody says."""
    found = AVAILABLE.search(system_text(root / "proc/meminfo") or "")
    left = [] if found is None else [int(found[1]) * 1024]
    group = [system_text(root / "sys/fs/cgroup" / name) or "" for name in ("memory.max", "memory.current")]
    if all(each.isdecimal() for each in group):
        left.append(max(0, int(group[0]) - int(group[1])))
    return min(left, default=None)
