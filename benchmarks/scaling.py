"""Cutting five classes out of branched models of growing size: our whole command against others', time and memory.

    pip install '.[bench]'
    python -m benchmarks.scaling [--runs 5] [--largest 5] [--folder SCRATCH] [--only expertc,onnx.utils]

Every tool gets a model (``benchmarks.synthetic``) and must write one that gives the first five logits. Each run is a
process of its own, measured from its start to its end, with its peak of resident memory; the order of the tools rotates
from run to run; *cold* means that the model's files were dropped from the page cache before. Medians. Sizes that disk
or memory lack are left out. Ours also finds the branches, folds, and writes a bundle; verification, which no
peer does, is off, and measured apart: without it nobody runs what was written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.process import as_installed, spawn
from benchmarks.synthetic import write_model

RESULTS = Path(__file__).parent / "results"
KEPT = 5
GRID = ((10, 0.05), (100, 0.05), (1000, 0.05), (100, 0.5), (1000, 0.5), (1000, 5.0))  # branches, gigabytes
NODES = (100, 1000, 10_000)  # branches of next to no weight, for the growth with the number of nodes

_OUTPUTS = ", ".join(f"'branch.{b}.logit'" for b in range(KEPT))
_GS = f"""
import sys, onnx, onnx_graphsurgeon as gs
source, target = sys.argv[1:]
graph = gs.import_onnx(onnx.load(source))
tensors = graph.tensors()
graph.outputs = [tensors[name].to_variable(dtype="float32") for name in ({_OUTPUTS})]
onnx.save(gs.export_onnx(graph.cleanup()), target)
"""
_UTILS = f"""
import sys, onnx.utils
onnx.utils.extract_model(sys.argv[1], sys.argv[2], ["image"], [{_OUTPUTS}])
"""
_SLIM = f"""
import sys, onnx, onnxslim
slim = onnxslim.slim(sys.argv[1], outputs=[{_OUTPUTS}], skip_optimizations=["constant_folding"])
onnx.save(slim, sys.argv[2])
"""
_SURGERY = f"""
import sys, time
from expertc.source import open_source
from expertc.surgery.fold import Fold
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune
from expertc.graph import to_bytes
source = open_source(sys.argv[1])
start = time.perf_counter()
ownership(source.model, source.card)
cut = prune(source.model, source.card, tuple(range({KEPT})))
to_bytes(Fold().run(cut.model)[0])
print(time.perf_counter() - start)
"""


def commands(source: Path, target: Path) -> dict[str, tuple[str, list[str]]]:
    """The tools: the package each needs and its command line."""
    python, build = sys.executable, ["-m", "expertc", "build", str(source), "--classes", f"#0-{KEPT - 1}", "-q"]
    outputs = [f"branch.{b}.logit:auto" for b in range(KEPT)]
    polygraphy = str(Path(python).with_name("polygraphy"))
    extract = [polygraphy, "surgeon", "extract", str(source), "--inputs", "image:auto:auto"]
    return {
        "expertc": ("expertc", [python, *build, "--verify", "off", "--measure", "0", "-o", str(target)]),
        "expertc, verified": ("expertc", [python, *build, "--measure", "0", "-o", str(target)]),
        "Polygraphy": ("polygraphy", [*extract, "--outputs", *outputs, "-o", str(target)]),
        "onnx.utils": ("onnx", [python, "-c", _UTILS, str(source), str(target)]),
        "graphsurgeon": ("onnx_graphsurgeon", [python, "-c", _GS, str(source), str(target)]),
        "OnnxSlim": ("onnxslim", [python, "-c", _SLIM, str(source), str(target)]),
    }


def main() -> None:
    """Measure and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--largest", type=float, default=5.0, help="gigabytes of the largest model")
    parser.add_argument("--smallest", type=float, default=0.0, help="likewise; rows of other sizes stay as they were")
    parser.add_argument("--folder", type=Path, help="where the models are written (default: a temporary folder)")
    parser.add_argument("--only", help="comma-separated names of tools")
    parser.add_argument("--without-growth", action="store_true", help="leave the rows by nodes as they were")
    given = parser.parse_args()
    as_installed()
    only = None if given.only is None else set(given.only.split(","))
    sizes = [(k, int(gigabytes * 1e9)) for k, gigabytes in GRID if given.smallest <= gigabytes <= given.largest]
    rows = kept(sizes)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for branches, size in sizes:
            if not _has_room(Path(name), size):
                print(f"left out: {branches} branches of {size / 1e9:g} GB, for want of disk or memory")
                continue
            rows += measure(Path(name), branches, size, given.runs, only)
        if given.without_growth:
            growth = json.loads((RESULTS / "scaling.json").read_text())["nodes"]
        else:
            growth = [measure(Path(name), k, 100_000, given.runs, {"expertc"}, growth=True)[0] for k in NODES]
    rows.sort(key=lambda row: (row["bytes"], row["branches"]))
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs": given.runs,
        "rows": rows,
        "nodes": growth,
        "exponents": exponents(rows, growth),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "scaling.md").write_text(table(found))
    plot(rows)
    print(table(found))


def kept(sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The rows of an earlier run for models that are not of these ``sizes``."""
    file = RESULTS / "scaling.json"
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    return [row for row in earlier if (row["branches"], row["bytes"]) not in sizes]


def measure(
    folder: Path, branches: int, size: int, runs: int, only: set[str] | None, *, growth: bool = False
) -> list[dict[str, Any]]:
    """Measure every tool on one model; a row each. ``growth`` leaves out cold files and times the surgery alone too."""
    model = write_model(folder / "model", branches, size)
    target = folder / "target"
    tools = {
        n: line
        for n, (package, line) in commands(model, target).items()
        if find_spec(package) and (not only or n in only)
    }
    rows: dict[str, dict[str, Any]] = {
        n: {"tool": n, "branches": branches, "bytes": size, "nodes": 9 * branches + 4, "runs": runs} for n in tools
    }
    for state in ("warm",) if growth else ("cold", "warm"):
        taken: dict[str, list[tuple[float, float]]] = {n: [] for n in tools}
        for run in range(runs):
            order = list(tools)[run % len(tools) :] + list(tools)[: run % len(tools)]
            for n in order:
                if "error" in rows[n]:
                    continue
                if state == "cold":
                    _forget(model.parent.iterdir())
                outcome = spawn(tools[n])
                if isinstance(outcome, str):
                    rows[n]["error"] = outcome
                else:
                    taken[n].append(outcome)
                _remove(target)
        for n, times in taken.items():
            if times and "error" not in rows[n]:
                rows[n][state] = round(statistics.median(seconds for seconds, _ in times), 3)
                rows[n]["megabytes"] = round(max(peak for _, peak in times))
    if growth:
        rows["expertc"]["surgery"] = round(statistics.median(surgery(model) for _ in range(runs)), 3)
    for row in rows.values():
        print(json.dumps(row), flush=True)
    shutil.rmtree(model.parent)
    return list(rows.values())


def surgery(model: Path) -> float:
    """Seconds of demand analysis, cut, fold and serialisation alone, without reading, compiling and writing."""
    done = subprocess.run([sys.executable, "-c", _SURGERY, str(model)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def exponents(rows: Iterable[dict[str, Any]], growth: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Slopes of log time over log nodes and over log bytes, by least squares; 1 is linear, the start counts too."""
    sized = [(row["bytes"], row["warm"]) for row in rows if row["tool"] == "expertc" and row["branches"] == 1000]
    return {
        "time over nodes, surgery alone": slope([(row["nodes"], row["surgery"]) for row in growth]),
        "time over nodes, whole command": slope([(row["nodes"], row["warm"]) for row in growth]),
        "time over bytes, 1000 branches": slope(sized),
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the line through the logarithms."""
    xs, ys = ([math.log(value) for value in side] for side in zip(*points, strict=True))
    return round(statistics.linear_regression(xs, ys).slope, 2) if len(xs) > 1 else math.nan


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"Five classes of a synthetic model; medians, {found['machine']}. Peak memory in MB. The tools took turns",
        "within one run for each model; compare them there, not across models.",
        "",
        "| branches | size | tool | runs | cold | warm | memory |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        size = f"{row['bytes'] / 1e9:g} GB"
        result = f"{row['error']} | |" if "error" in row else ""
        result = result or f"{row['cold']:.2f} s | {row['warm']:.2f} s | {row['megabytes']:,}"
        lines.append(f"| {row['branches']:,} | {size} | {row['tool']} | {row['runs']} | {result} |")
    lines += ["", "| nodes | surgery alone | whole command, warm | memory |", "| ---: | ---: | ---: | ---: |"]
    for row in found["nodes"]:
        lines.append(f"| {row['nodes']:,} | {row['surgery']:.2f} s | {row['warm']:.2f} s | {row['megabytes']:,} |")
    lines += ["", *(f"* exponent of {name}: {value}" for name, value in found["exponents"].items())]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]]) -> None:
    """Time over size for each tool, at 1000 branches."""
    if not find_spec("matplotlib"):
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == tool and row["branches"] == 1000 and "error" not in row]
        for panel, key in zip(axes, ("cold", "megabytes"), strict=True):
            panel.plot([row["bytes"] / 1e9 for row in mine], [row[key] for row in mine], marker="o", label=tool)
    for panel, label in zip(axes, ("seconds, cold", "peak memory, MB"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="weights, GB", ylabel=label)
        panel.grid(alpha=0.3)
    figure.suptitle("five of 1000 branches")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(RESULTS / "scaling.svg", metadata={"Date": None})


def _has_room(folder: Path, size: int) -> bool:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return shutil.disk_usage(folder).free > 2.5 * size and memory > 1.5 * size


def _forget(files: Iterable[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
