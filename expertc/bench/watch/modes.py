"""The power mode of a Jetson, as ``nvpmodel -q`` tells it. It is read and never changed: it is the board's set-up."""

from __future__ import annotations

import re
import shutil
import subprocess

from .sample import name_of

MODE = re.compile(r"^NV Power Mode:\s*(.+)$", re.MULTILINE)
PATIENCE = 10.0  # seconds


def power_mode() -> str | None:
    """The name of the power mode; None where there is none, or it is not told to this user."""
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
    return name_of(found[1]) if found else None
