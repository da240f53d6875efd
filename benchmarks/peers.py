"""Does our latency agree with what others measure? The same model through our harness and through other people's.

    python -m benchmarks.peers MODEL.onnx [--rounds 5] [--seconds 3] [--threads 1]

Ours is ``expertc bench``. The peers: a plain loop over ONNX Runtime's Python API, written as its documentation shows;
``onnxruntime_perf_test`` where it is installed (it comes with the source build); OpenVINO's ``benchmark_app``, which
runs another runtime and so need not agree; ``trtexec`` on a machine that has it. Every tool is a process of its own;
the order rotates from round to round. Medians of the rounds' medians, and the spread of the rounds.

The second part is the harness's own cost: the median of a call that does nothing, timed as models are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from expertc.measure import interleave

RESULTS = Path(__file__).parent / "results"

_LOOP = """
import sys, time, statistics, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
options.log_severity_level = 4
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = session.get_inputs()[0]
x = np.random.default_rng(0).standard_normal([d if isinstance(d, int) else 1 for d in image.shape]).astype(np.float32)
end = time.perf_counter() + 1
while time.perf_counter() < end:
    session.run(None, {image.name: x})
times, end = [], time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, {image.name: x})
    times.append(time.perf_counter() - start)
print(1e3 * statistics.median(times))
"""


def main() -> None:
    """Measure and print a table; write it to ``results``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    tools = available(given.model, given.seconds, given.threads)
    medians: dict[str, list[float]] = {name: [] for name in tools}
    for turn in range(given.rounds):
        names = list(tools)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            medians[name].append(tools[name]())
            print(f"round {turn + 1}: {name} {medians[name][-1]:.3f} ms", file=sys.stderr, flush=True)
    nothing = interleave({"nothing": lambda: None}, seconds=1.0).summary("nothing")
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {given.threads} thread(s)",
        "model": given.model.name,
        "rounds": given.rounds,
        "milliseconds": medians,
        "harness_microseconds": round(1e6 * (nothing.median or nothing.mean), 2),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "peers.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "peers.md").write_text(table(found))
    print(table(found))


def available(model: Path, seconds: float, threads: int) -> dict[str, Callable[[], float]]:
    """The tools of this machine: each gives a median in milliseconds."""
    python, whole = sys.executable, str(max(1, round(seconds)))  # some tools take whole seconds only
    ours = [python, "-m", "expertc", "bench", str(model), "--duration", str(seconds), "--threads", str(threads)]
    loop = [python, "-c", _LOOP, str(model), str(seconds), str(threads)]
    tools: dict[str, Callable[[], float]] = {
        "expertc bench": lambda: 1e3 * float(json.loads(run([*ours, "--json"]))["models"][0]["summary"]["median"]),
        "ONNX Runtime, plain loop": lambda: float(run(loop)),
    }
    if openvino := installed("benchmark_app"):
        app = [openvino, "-m", str(model), "-hint", "none", "-api", "sync", "-t", whole, "-nthreads", str(threads),
               "-infer_precision", "f32", "-data_shape", shape(model)]  # fmt: skip
        tools["OpenVINO benchmark_app"] = lambda: number(r"Median:\s+([\d.]+) ms", run(app))
    if perf_test := installed("onnxruntime_perf_test"):
        test = [perf_test, "-I", "-e", "cpu", "-m", "duration", "-t", whole, "-x", str(threads), str(model)]
        tools["onnxruntime_perf_test"] = lambda: 1e3 * number(r"P50 Latency: ([\d.e-]+) s", run(test))
    if trtexec := installed("trtexec"):
        build = [trtexec, f"--onnx={model}", f"--duration={seconds:g}"]
        tools["trtexec"] = lambda: number(r"Latency: .*?median = ([\d.]+) ms", run(build))
    return tools


def installed(tool: str) -> str | None:
    """The path of a program, beside this interpreter or on the PATH."""
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else shutil.which(tool)


def run(command: list[str]) -> str:
    """The output of a command that must succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def number(pattern: str, text: str) -> float:
    """The number that ``pattern`` finds; raises ``ValueError`` with the text if it finds none."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in:\n{text[-2000:]}")
    return float(found[1])


def shape(model: Path) -> str:
    """The image input's shape for a batch of one, as benchmark_app writes it."""
    import onnx

    dims = onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return "[" + ",".join(str(dim.dim_value or 1) for dim in dims) + "]"


def table(found: dict[str, object]) -> str:
    """Medians with the spread of the rounds, and each over ours."""
    medians: dict[str, list[float]] = found["milliseconds"]  # type: ignore[assignment]
    ours = statistics.median(medians["expertc bench"])
    lines = [
        f"{found['model']}, {found['machine']}; medians of {found['rounds']} rounds, milliseconds per image.",
        "",
        "| tool | median | least and most of the rounds | over ours |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, rounds in medians.items():
        middle = statistics.median(rounds)
        lines.append(f"| {name} | {middle:.3f} | {min(rounds):.3f} to {max(rounds):.3f} | {middle / ours:.3f} |")
    lines += ["", f"The harness itself costs {found['harness_microseconds']} µs per call (budget 20 µs)."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
