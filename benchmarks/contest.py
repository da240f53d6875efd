"""One expert's forms, timed in turns in one process; ``benchmarks.latency`` starts a process for each.

    python -m benchmarks.contest NAME --folder SCRATCH
    python -m benchmarks.contest NAME --folder SCRATCH -o FOUND.json [--threads 1] [--seconds 30] [--blocks 12]
                                  [--data DIR] [--without FORMS]

The first exports what is missing in the folder, the second measures. Forms with the same weights must give the same
scores, else they are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import forms
from benchmarks.forms import Array, Call, Expert, LeftOutError, tell
from expertc.graph.cost import cost
from expertc.measure import QUICK, TURN, Ratio, Samples, take_turns, warm_up, without_collections

CLOSE = 1e-3  # of the largest score: rounding in another order stays far below, a wrong form does not


def main() -> None:
    """Measure one network, or export it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=forms.NETWORKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="where exported networks are, or will be")
    parser.add_argument("-o", "--output", type=Path, help="where the result goes; without it, only exports are made")
    parser.add_argument("--seconds", type=float, default=30.0, help="shortest run")
    parser.add_argument("--blocks", type=int, default=12, help="turns that each form gets at least, about")
    parser.add_argument("--data", type=Path, help="photos of the bundled model's classes, for int8")
    parser.add_argument("--without", default="", help="comma-separated forms to leave out: some take minutes to make")
    given = parser.parse_args()
    expert = Expert(forms.NETWORKS[given.name], given.folder, given.threads, given.data)
    without = set(filter(None, given.without.split(",")))
    if unknown := without - expert.makers().keys():
        parser.error(f"no such form: {', '.join(sorted(unknown))}")
    if given.output is None:
        tell("exports")
        _ = expert.cut
        try:
            expert.again()
        except LeftOutError as reason:
            tell(str(reason))
        return
    found = {"network": given.name, "threads": given.threads}
    found |= measure(expert, given.seconds, given.blocks, without)
    given.output.write_text(json.dumps(found) + "\n")


def measure(expert: Expert, seconds: float, blocks: int, without: Collection[str] = ()) -> dict[str, Any]:
    """Make every form that can be made, but those in ``without``, and time them in turns; JSON types."""
    calls, left_out = made({name: make for name, make in expert.makers().items() if name not in without})
    left_out |= dict.fromkeys(sorted(without), "not asked for")
    samples = in_turns(calls, seconds, blocks)
    macs = dict.fromkeys(calls, cost(expert.cut.model).macs)
    macs |= {forms.GEMM: forms.SIDE**3, forms.NUMPY_GEMM: forms.SIDE**3, forms.FULL: expert.source.cost.macs}
    rows = []
    for name in calls:
        median = float(np.median(samples.durations(name)))
        row: dict[str, Any] = {"form": name, "ms": 1e3 * median, "runs": len(samples.durations(name))}
        row["gmacs"] = macs[name] / median / 1e9
        if name not in (forms.GEMM, forms.NUMPY_GEMM):
            bases = {"over_cut": forms.CUT, "over_folded": forms.FOLDED, "over_again": forms.AGAIN}
            row |= {key: numbers(samples.ratio(name, base)) for key, base in bases.items() if base in calls}
        rows.append(row)
    full, small = expert.source.cost, cost(expert.cut.model)
    optional = {"torch": forms.EAGER, "openvino": forms.OPENVINO}
    packages = ["onnxruntime", "numpy", *(package for package, form in optional.items() if form in calls)]
    return {
        "parameters": [full.parameters, small.parameters],
        "macs": [full.macs, small.macs],
        "blocks": len(samples.blocks[forms.CUT]),
        "machine": processor(),
        "stable": samples.warmup.stable,
        "versions": {package: version(package) for package in packages},
        "rows": rows,
        "left_out": left_out,
    }


def in_turns(calls: Mapping[str, Call], seconds: float, blocks: int) -> Samples:
    """Time the calls as ``interleave`` does, for ``seconds``, or as long as about ``blocks`` blocks take.

    Here every turn begins with a call that is not counted, however slow: forms are of many runtimes, and the threads of
    the one before may still spin. Where one form is quick and another slow, each has as many calls as suit it.
    """
    with without_collections():
        warmed, once = warm_up(calls, seconds / 3)
        counted = {name: TURN if quick < QUICK else 1 for name, quick in once.items()}
        window = max(seconds, blocks * sum(each * (1 + counted[name]) for name, each in once.items()))
        tell(f"{len(calls)} forms in turns, {window:.0f} s")

        def turn(name: str) -> tuple[float, ...]:
            call = calls[name]
            call()
            return tuple(clocked(call) for _ in range(counted[name]))

        return Samples(take_turns(tuple(calls), turn, seconds=window)[0], warmed)


def made(makers: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls that could be made and give the scores they should; why others are left out."""
    calls: dict[str, Call] = {}
    scores: dict[str, Array] = {}
    left_out = {}
    for name, make in makers.items():
        tell(name)
        try:
            call = make()
            scores[name] = call()
            base = forms.AGAIN if name in (forms.EAGER, forms.COMPILED) else forms.CUT
            if name.startswith((forms.FOLDED, forms.FUSED, forms.OPENVINO, forms.EAGER)) and base in scores:
                compare(scores[name], scores[base], base)
            calls[name] = call
        except LeftOutError as reason:
            left_out[name] = str(reason)
            tell(f"left out: {reason}")
    return calls, left_out


def compare(found: Array, expected: Array, base: str) -> None:
    """Raise ``LeftOutError`` if the scores differ by more than rounding, or are not numbers."""
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not error <= CLOSE:
        raise LeftOutError(f"its scores are {error:.1e} off those of the {base}")


def clocked(call: Call) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def numbers(ratio: Ratio) -> list[float | None]:
    """The ratio and the ends of its interval."""
    return [ratio.value, ratio.low, ratio.high]


def processor() -> str:
    """What this was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
