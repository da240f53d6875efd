"""The steps on the machine with the GPU: compile and judge every engine, then time those of a contest in turns.

Each step ends in a small file of its own. What is there is not done again, so a run may be cut off at any time; a step
that was begun twice and never ended is given up, or it would be begun for ever.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expertc.backends.tensorrt.session import COMPUTE, D2H, ENQUEUE, H2D, LATENCY
from expertc.errors import ExpertcError
from expertc.measure import TURN, Ratio, Samples, Warmup, percentile, take_turns, warm_up

from .machine import Machine, OutOfTimeError, clocks
from .seeds import Draw, images, restore

METRICS = (ENQUEUE, H2D, COMPUTE, D2H, LATENCY)
HOST = "host"  # seconds of a whole call of the session, as a user of it waits
ATTEMPTS = 2
FIRST = 120.0  # seconds that a step is taken to last before one has

# What trtexec warns of (its sampleReporting.cpp): bound by launches, by transfers, or clocks that are not steady.
LAUNCHES = 0.8  # of the median GPU Compute Time that the median Enqueue Time may be
STEADY = 0.025  # coefficient of variation of GPU Compute Time

GRAPH = ", CUDA graph"

_BEFORE = Warmup(0.0, True, 0.0)  # of samples that were warmed up elsewhere

Array = np.ndarray[Any, Any]
Timed = Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """``do`` is told when to stop (monotonic) and gives what belongs into ``name``.json. One ``kind`` takes as long.

    ``makes`` is a file that is still needed and may have been lost since.
    """

    name: str
    kind: str
    do: Callable[[float], dict[str, Any]]
    makes: Path | None = None


def run(
    folder: Path, work: Path, results: Path, machine: Machine, limit: float, seconds: float, only: str = ""
) -> bool:
    """Do steps for ``limit`` seconds; whether all are done. At least one is begun. ``seconds``: of a contest."""
    begun = time.monotonic()
    plan = json.loads((folder / "plan.json").read_text())
    for place in (work, results):
        place.mkdir(parents=True, exist_ok=True)
    about = results / "machine.json"
    here = machine.to_mapping() | {"prepared": plan["prepared"]}
    if about.exists() and json.loads(about.read_text()) != here:
        raise SystemExit(f"{results} has results of another machine or preparation: give another folder")
    keep(about, here)
    keep(results / "plan.json", plan)
    longest: dict[str, float] = {}
    did = 0
    for step in steps(plan, folder, work, results, machine, seconds, only):
        file = results / f"{step.name}.json"
        if file.exists():
            found = json.loads(file.read_text())
            longest[step.kind] = max(longest.get(step.kind, 0.0), found["took"])
            if "error" in found or step.makes is None or step.makes.exists():
                continue
        if did and time.monotonic() - begun + longest.get(step.kind, FIRST) > limit:
            return False
        did += 1
        start = time.monotonic()
        try:
            found = attempted(step, results / f"{step.name}.attempts", begun + limit)
        except OutOfTimeError as stopped:
            print(f"{step.name}: {stopped}", file=sys.stderr, flush=True)
            return False
        found |= {"took": time.monotonic() - start, "simulated": machine.simulated}
        longest[step.kind] = max(longest.get(step.kind, 0.0), found["took"])
        keep(file, found)
        print(f"{step.name}: {found.get('error') or 'done'}, {found['took']:.0f} s", file=sys.stderr, flush=True)
    return True


def keep(file: Path, found: Mapping[str, Any]) -> None:
    """Write a file in one step: whoever cuts a run off leaves no half of one."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(file)


def attempted(step: Step, count: Path, end: float) -> dict[str, Any]:
    """What a step found, or the error that it ended in; it is counted before it is begun.

    Raises ``OutOfTimeError`` at ``end``; it stays counted then.
    """
    before = int(count.read_text()) if count.exists() else 0
    if before >= ATTEMPTS:
        count.unlink()
        return {"error": f"begun {before} times and never ended"}
    count.write_text(str(before + 1))
    try:
        found = step.do(end)
    except ExpertcError as error:
        found = {"error": f"{error.message} {error.hint}".strip()}
    count.unlink()
    return found


def steps(
    plan: Mapping[str, Any], folder: Path, work: Path, results: Path, machine: Machine, seconds: float, only: str
) -> Iterator[Step]:
    """Contest by contest, the most telling first: its engines, then their times."""
    engines = {engine["id"]: engine for engine in plan["engines"]}
    for contest in plan["contests"]:
        if only not in contest["name"]:
            continue
        timed_already = (results / f"contest-{contest['id']}.json").exists()
        for name in contest["engines"]:
            yield Step(
                f"engine-{name}", "engine", lambda end, e=engines[name]: engine(e, plan, folder, work, machine, end),
                None if timed_already else work / f"{name}.plan",
            )  # fmt: skip
        yield Step(
            f"contest-{contest['id']}", "contest",
            lambda end, c=contest: timed(c, engines, plan, folder, work, machine, seconds),
        )  # fmt: skip


def engine(
    about: Mapping[str, Any], plan: Mapping[str, Any], folder: Path, work: Path, machine: Machine, end: float
) -> dict[str, Any]:
    """Compile one engine and hold its scores against ONNX Runtime's."""
    built = machine.compile(graph(about, folder, work), about["precision"], end)
    (work / f"{about['id']}.plan").write_bytes(built.data)
    x = images(plan["images"][about["images"]], folder)
    reference = np.load(folder / about["reference"], allow_pickle=False)
    with closing(machine.open(built.data, cuda_graph=True)) as session:
        rows = [session.run(x[i : i + 1]) for i in range(len(x))]
        notes = session.notes
    return {
        "engine": about["id"], "build_seconds": built.seconds, "plan_bytes": len(built.data),
        "layers": len(built.layers), "notes": [*built.notes, *notes],
        "outputs": {name: judged(np.concatenate([row[name] for row in rows]), reference[name]) for name in reference},
    }  # fmt: skip


def graph(about: Mapping[str, Any], folder: Path, work: Path) -> Path:
    """The ONNX file, with the weights that are drawn."""
    path = work / f"{about['id']}.onnx"
    draws = [Draw(**draw) for draw in json.loads((folder / about["draws"]).read_text())]
    if restore(path, (folder / about["file"]).read_bytes(), draws) != about["sha256"]:
        raise SystemExit(f"{path} became another file than the one that was prepared")
    return path


def judged(found: Array, reference: Array) -> dict[str, Any]:
    """How far scores are from the reference, relative to the norm and to the largest, and decisions that are equal."""
    a, b = found.astype(np.float64).reshape(len(found), -1), reference.astype(np.float64).reshape(len(reference), -1)
    return {
        "finite": bool(np.isfinite(a).all()),
        "error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
        "largest": float(np.abs(a - b).max() / np.abs(b).max()),
        "alike": int((a.argmax(1) == b.argmax(1)).sum()),
        "images": len(a),
    }


def timed(
    contest: Mapping[str, Any], engines: Mapping[str, Any], plan: Mapping[str, Any], folder: Path, work: Path,
    machine: Machine, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Time the engines of a contest in turns in this process, each with and without a CUDA graph."""
    missing = [name for name in contest["engines"] if not (work / f"{name}.plan").exists()]
    present = [name for name in contest["engines"] if name not in missing]
    if contest["base"] in missing:
        return {"error": f"there is no plan of {contest['base']}", "contest": contest["id"]}
    with ExitStack() as stack:
        calls: dict[str, Callable[[], Timed]] = {}
        for name in present:
            data = (work / f"{name}.plan").read_bytes()
            x = images(plan["images"][engines[name]["images"]], folder)[:1]
            for cuda_graph in (True, False):
                session = stack.enter_context(closing(machine.open(data, cuda_graph=cuda_graph)))
                calls[name + GRAPH * cuda_graph] = lambda s=session, x=x: query(s, x)
        before = clocks()
        warmed, _ = warm_up(calls, seconds / 3)
        done, complete = take_turns(tuple(calls), lambda name: turn(calls[name]), seconds=seconds)
    return {
        "contest": contest["id"], "missing": missing, "complete": complete, "stable": warmed.stable,
        "clocks": [before, clocks()], "blocks": len(next(iter(done.values()))),
        "rows": {name: row(name, done, contest["base"] + GRAPH) for name in calls},
    }  # fmt: skip


def query(session: Any, x: Array) -> dict[str, float]:
    """One call, and what it took, in seconds."""
    start = time.perf_counter()
    session.run(x)
    host = time.perf_counter() - start
    return {HOST: host, **session.timings()}


def turn(call: Callable[[], Timed]) -> tuple[Timed, ...]:
    """A call that brings the engine back into the caches, and those that count."""
    call()
    return tuple(call() for _ in range(TURN))


def row(name: str, done: Mapping[str, Sequence[tuple[Timed, ...]]], base: str) -> dict[str, Any]:
    """A call's times in milliseconds by trtexec's names, its warnings, and its ratio to the base."""
    queries = [one for block in done[name] for one in block]
    columns = {key: [one[key] for one in queries] for key in (*METRICS, HOST) if key in queries[0]}
    medians = {key: 1e3 * statistics.median(values) for key, values in columns.items()}
    compute = columns[COMPUTE]
    variation = statistics.pstdev(compute) / statistics.fmean(compute) if statistics.fmean(compute) else 0.0
    p99 = percentile(columns[LATENCY], 99)
    ratios = {key: ratio(name, done, base, key) for key in (COMPUTE, LATENCY, HOST)}
    return {
        "queries": len(queries), "median_ms": medians, "p99_ms": None if p99 is None else 1e3 * p99,
        "throughput": len(queries) / sum(columns[HOST]), "variation": variation,
        "warnings": list(warnings(medians, variation)),
        "over_base": {key: [found.value, found.low, found.high] for key, found in ratios.items()},
    }  # fmt: skip


def ratio(name: str, done: Mapping[str, Sequence[tuple[Timed, ...]]], base: str, key: str) -> Ratio:
    """A metric of ``name`` over that of ``base``, block by block."""
    blocks = {each: tuple(tuple(one[key] for one in block) for block in done[each]) for each in {name, base}}
    return Samples(blocks, _BEFORE).ratio(name, base)


def warnings(medians: Timed, variation: float) -> Iterator[str]:
    """What trtexec warns of."""
    if medians[ENQUEUE] > LAUNCHES * medians[COMPUTE]:
        yield "bound by launches: Enqueue Time is more than 0.8 of GPU Compute Time"
    for key in (H2D, D2H):
        if medians.get(key, 0.0) >= medians[COMPUTE]:
            yield f"bound by transfers: {key} is not less than GPU Compute Time"
    if variation > STEADY:
        yield f"unsteady: GPU Compute Time varies by {variation:.1%}"
