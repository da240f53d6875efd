"""How long a person waits: `expertc --help`, and a whole `expertc build`, each with a peer in turns in one run.

    python -m benchmarks.startup [--seconds 20]

The peers: an interpreter that does nothing, one that imports click, and one that imports what any tool over ONNX and
ONNX Runtime imports.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.process import as_installed
from expertc.measure import Samples, interleave

RESULTS = Path(__file__).parent / "results"
PYTHON = [sys.executable]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of each of the two runs")
    given = arguments.parse_args()
    as_installed()
    help_run = interleave(
        {
            "expertc --help": partial(call, [*PYTHON, "-m", "expertc", "--help"]),
            "python -c pass": partial(call, [*PYTHON, "-c", "pass"]),
            "python -c 'import click'": partial(call, [*PYTHON, "-c", "import click"]),
        },
        seconds=given.seconds,
    )
    with tempfile.TemporaryDirectory() as folder:
        build_run = interleave(
            {
                "expertc build --classes sharks,rays": partial(build, Path(folder)),
                "import onnx, onnxruntime": partial(call, [*PYTHON, "-c", "import onnx, onnxruntime"]),
            },
            seconds=given.seconds,
        )
    found = {"help": summary(help_run), "build": summary(build_run)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "startup.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, numbers in {**found["help"], **found["build"]}.items():
        print(f"{name:40} {numbers['mean']:.3f} s mean, {numbers['least']:.3f} s least of {numbers['n']}")


def call(command: list[str], folder: Path | None = None) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)


def build(folder: Path) -> None:
    call([*PYTHON, "-m", "expertc", "build", "--classes", "sharks,rays", "-o", "timed.expert", "-q"], folder)
    shutil.rmtree(folder / "timed.expert")


def summary(samples: Samples) -> dict[str, Any]:
    return {name: vars(samples.summary(name)) for name in samples.blocks}


if __name__ == "__main__":
    main()
