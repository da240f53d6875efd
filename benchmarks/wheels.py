"""What the wheels of the base install take on a disk, installed and compiled: the room that a deployment asks for.

    python -m benchmarks.wheels

The wheels are those that pip downloads for the interpreter that runs this. Each is installed by itself, as the
deployment's bootstrap installs it; the peer is the wheel. ``alone`` is a virtual environment with nothing but pip.
Writes results/wheels.json.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.aarch64 import NEEDED

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Download, install, measure."""
    with tempfile.TemporaryDirectory() as scratch:
        house, alone = Path(scratch) / "house", Path(scratch) / "alone"
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        subprocess.run([*pip, "download", "--only-binary=:all:", "--dest", house, *NEEDED], check=True)
        subprocess.run([sys.executable, "-m", "venv", alone], check=True)
        table = {}
        for wheel in sorted(house.iterdir(), key=lambda path: -path.stat().st_size):
            target = Path(scratch) / "installed" / wheel.name
            subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
            table[wheel.name] = {"bytes": wheel.stat().st_size, "installed": room(target)}
        found = {
            "python": platform.python_version(),
            "alone": room(alone),
            "wheels": {name: {**sizes, "times": times(**sizes)} for name, sizes in table.items()},
            "together": times(*(sum(sizes[key] for sizes in table.values()) for key in ("bytes", "installed"))),
        }
    (RESULTS / "wheels.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def room(folder: Path) -> int:
    """Bytes of the blocks that all files below ``folder`` occupy."""
    return sum(
        os.lstat(os.path.join(above, name)).st_blocks * 512 for above, _, names in os.walk(folder) for name in names
    )


def times(bytes: int, installed: int) -> float:  # noqa: A002 (as the table calls it)
    """How many times its own size a wheel takes."""
    return round(installed / bytes, 2)


if __name__ == "__main__":
    main()
