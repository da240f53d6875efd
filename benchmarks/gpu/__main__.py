"""Prepare here, run on the machine with the GPU, and write the table.

    python -m benchmarks.gpu prepare FOLDER --scratch SCRATCH [--data DIR] [--only PART] [--tensorrt 8.6]
    python -m benchmarks.gpu run FOLDER --work WORK --results RESULTS [--minutes 9] [--seconds 10] [--only PART]
                                        [--level 3] [--own-kernels]
    python -m benchmarks.gpu table RESULTS [--output benchmarks/results]

``prepare`` exports networks to SCRATCH (2 GB) and writes FOLDER: graphs without the weights that can be drawn again,
ONNX Runtime's scores, the photos of the bundled model's classes from DIR. ``run`` is called again and again, until it
says that everything is done (exit code 0; 3 while there is more to do): whoever has a GPU for ten minutes at a time
carries FOLDER and RESULTS there and RESULTS back. WORK holds weights and plans and may be lost. ``--own-kernels`` keeps
TensorRT 8 from the kernels of cuBLAS and cuDNN, for a machine without them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

MORE = 3  # exit code of a run that stopped in time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    prepare = verbs.add_parser("prepare")
    prepare.add_argument("folder", type=Path)
    prepare.add_argument("--scratch", type=Path, required=True, help="for exported networks, up to 2 GB")
    prepare.add_argument("--data", type=Path, help="photos of the bundled model's classes; without, it judges noise")
    prepare.add_argument("--only", default="", help="a part of the names of contests")
    prepare.add_argument("--tensorrt", default="8.6", help="the oldest release that is to read the graphs")
    run = verbs.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--work", type=Path, required=True, help="weights and plans, up to 10 GB; may be lost")
    run.add_argument("--results", type=Path, required=True, help="a small file for each step")
    run.add_argument("--minutes", type=float, default=9.0, help="begin nothing that would not end within these")
    run.add_argument("--seconds", type=float, default=10.0, help="length of each latency run")
    run.add_argument("--only", default="", help="a part of the names of contests")
    run.add_argument("--level", type=int, help="builder optimisation level; TensorRT's own choice is 3")
    run.add_argument("--own-kernels", action="store_true", help="no kernels of cuBLAS and cuDNN (TensorRT 8)")
    table = verbs.add_parser("table")
    table.add_argument("results", type=Path)
    table.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "results")
    given = parser.parse_args()
    if given.verb == "prepare":
        from expertc.targets import release

        from .prepare import prepare as make

        make(given.folder, given.scratch, given.data, given.only, release(given.tensorrt))
        return 0
    if given.verb == "run":
        from .machine import Machine
        from .run import run as work

        machine = Machine.here(level=given.level, libraries=not given.own_kernels)
        done = work(given.folder, given.work, given.results, machine, given.minutes * 60, given.seconds, given.only)
        print("everything is done" if done else "there is more to do: run it again", flush=True)
        return 0 if done else MORE
    from .table import write

    print(write(given.results, given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
