"""What a GPU run found, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertc.backends.tensorrt.session import COMPUTE, D2H, ENQUEUE, H2D, LATENCY

from .run import GRAPH, HOST

FUSED = "fused: "  # what the names of fused forms begin with, in benchmarks.forms

EXACT = 1e-5  # relative error that fp32 may have with TF32 off
SIMULATED = "**SIMULATED: neither TensorRT nor the GPU is real. No number here means anything.**"

Json = Mapping[str, Any]


def write(results: Path, output: Path) -> str:
    """Write ``gpu.json`` and ``gpu.md`` to ``output``; the Markdown. A simulated run is never written."""
    found = gathered(results)
    text = markdown(found)
    if not found["machine"]["simulated"]:
        output.mkdir(parents=True, exist_ok=True)
        (output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (output / "gpu.md").write_text(text)
    return text


def gathered(results: Path) -> dict[str, Any]:
    """All steps' files as one mapping, with the plan they are of."""
    read = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}
    plan = read["plan"]
    return {
        "machine": read["machine"],
        "plan": {"contests": plan["contests"], "left_out": plan["left_out"], "engines": plan["engines"]},
        "engines": {name.removeprefix("engine-"): step for name, step in read.items() if name.startswith("engine-")},
        "contests": {name.removeprefix("contest-"): step for name, step in read.items() if name.startswith("contest-")},
    }


def markdown(found: Json) -> str:
    """What was measured on, what it proves, and a table for each contest."""
    machine = found["machine"]
    lines = [
        "# TensorRT on a GPU", "",
        *([SIMULATED, ""] if machine["simulated"] else []),
        f"{machine['device']} (SM {machine['sm']}), driver {machine['driver']}, TensorRT {machine['tensorrt']},"
        f" {machine['os']}; batch 1; fp32 with TF32 off; builder optimisation level {machine['level'] or 'default'};"
        f" {'all kernels' if machine['libraries'] else 'without the kernels of cuBLAS and cuDNN'}.", "",
        "What this proves: that our use of TensorRT's API, parsing and building work there; the numerics (fp32 within"
        f" {EXACT:g} of ONNX Runtime with TF32 off, fp16 and int8 by decisions); and the relative gain of pruning on"
        f" *that* card with TensorRT {machine['tensorrt']}. It says nothing about a Jetson's latency, about other"
        " releases of TensorRT, or about DLA.", "",
        "Times are medians in milliseconds by trtexec's names, of queries one after another, all engines of a table in"
        " turns in one process, with their data copied and a CUDA graph but for Enqueue, which is that without one."
        " *Host* is a whole call of our session. The last column is GPU Compute over the base's with its 95 % interval."
        " Networks but the sea animals have random weights: decisions on noise are the worst case.", "",
    ]  # fmt: skip
    for contest in found["plan"]["contests"]:
        lines += section(contest, found)
    if found["plan"]["left_out"]:
        lines += ["## Left out", "", *(f"* {name}: {why}" for name, why in found["plan"]["left_out"].items()), ""]
    return "\n".join(lines)


def section(contest: Json, found: Json) -> Iterator[str]:
    """A contest's table, its warnings, and what failed."""
    engines = {engine["id"]: engine for engine in found["plan"]["engines"]}
    times = found["contests"].get(contest["id"], {"error": "not done"})
    yield from (f"## {contest['name']}", "")
    if "error" in times:
        yield from (f"Not timed: {times['error']}.", "")
    yield (
        "| network | form | precision | M parameters | build, s | layers | error | decisions | Enqueue | H2D"
        " | GPU Compute | D2H | Latency | Host | queries/s | over the base |"
    )
    yield "| --- | --- | --- |" + " ---: |" * 13
    for name in contest["engines"]:
        cells = [*engine_cells(engines[name], found["engines"].get(name)), *time_cells(name, times)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    rows = times.get("rows", {})
    if contest["budget"] is not None and rows:
        yield from (kept(contest, engines, rows), "")
    warned = [f"* {name}: {warning}." for name, row in rows.items() for warning in row["warnings"]]
    if rows:
        yield from (f"{times['blocks']} blocks; nvidia-smi before and after: {' / '.join(times['clocks'])}.", "")
    done = {name: found["engines"].get(name, {}) for name in contest["engines"]}
    failed = [f"* {name}: {step['error']}" for name, step in done.items() if "error" in step]
    for title, items in (("Warnings, as trtexec's:", warned), ("Failed:", failed)):
        yield from ((title, "", *items, "") if items else ())


def kept(contest: Json, engines: Json, rows: Json) -> str:
    """Whether the best fused form keeps the contest's budget, as far as its interval tells."""
    last = engines[contest["engines"][-1]]["network"]
    names = [
        name for name in contest["engines"]
        if (engines[name]["network"], engines[name]["precision"]) == (last, "fp32")
        and engines[name]["form"].startswith(FUSED) and name + GRAPH in rows
    ]  # fmt: skip
    if not names:
        return "The budget cannot be judged: there is no fused form."
    best = min(names, key=lambda name: float(rows[name + GRAPH]["over_base"][COMPUTE][0]))
    value, low, high = rows[best + GRAPH]["over_base"][COMPUTE]
    limit = contest["budget"]
    word = "kept" if high is not None and high <= limit else "missed" if low is not None and low > limit else "not sure"
    return f"Budget: {best} takes {value:.2f} times the base, at most {limit:g} times is wanted: {word}."


def engine_cells(about: Json, step: Json | None) -> Sequence[str]:
    """What an engine is, and how it was judged by the output that decides."""
    plain = [about["network"], about["form"], about["precision"], f"{about['parameters'] / 1e6:.1f}"]
    if step is None or "error" in step:
        return [*plain, "failed" if step else "", "", "", ""]
    scores = next(iter(step["outputs"].values()))
    exact = "" if about["precision"] != "fp32" or scores["error"] <= EXACT else " **more than allowed**"
    error = f"{scores['error']:.1e}{exact}" if scores["finite"] else "**not finite**"
    decisions = f"{scores['alike']} of {scores['images']}"
    return [*plain, f"{step['build_seconds']:.0f}", str(step["layers"]), error, decisions]


def time_cells(name: str, times: Json) -> Sequence[str]:
    """What an engine took."""
    rows = times.get("rows", {})
    row, plain = rows.get(name + GRAPH), rows.get(name)
    if row is None or plain is None:
        return [""] * 8
    medians = {**row["median_ms"], ENQUEUE: plain["median_ms"][ENQUEUE]}
    value, low, high = row["over_base"][COMPUTE]
    over = f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"
    cells = [f"{medians[key]:.3f}" if key in medians else "" for key in (ENQUEUE, H2D, COMPUTE, D2H, LATENCY, HOST)]
    return [*cells, f"{row['throughput']:.0f}", over]
