"""Benchmark reports of durations that are made up and therefore known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from expertc.bench import Accuracy, BenchReport, Entry
from expertc.bench.watch import Evidence
from expertc.measure import Samples, Warmup

ENVIRONMENT = {
    "cpu": "A CPU", "cores": 2, "governor": None, "system": "Linux 6 x86_64", "memory_mb": 8000, "python": "3.11.2",
    "numpy": "2.0.0", "expertc": "0.1.0", "commit": "unknown", "source_sha256": "0" * 64,
    "runtime": "onnxruntime 1.20.0", "threads": 2,
    "threads_between_operators": 1, "threads_wait": "spinning", "garbage_collector": "off", "load": [0.1, 0.25],
    "started": "2026-01-02T03:04:05+00:00",
}  # fmt: skip
WATCHED = Evidence(seconds=10.0, sensors=("cooling devices",), tells_throttling=True)


def made(
    times: Mapping[str, float],
    *,
    blocks: int = 200,
    turn: int = 4,
    seed: int = 0,
    accuracies: tuple[Accuracy | None, ...] = (),
    complete: bool = True,
    batch: int = 1,
    noise: float = 0.02,
    evidence: Evidence = WATCHED,
    **environment: object,
) -> BenchReport:
    """A report on models whose calls take about ``times[name]`` seconds; nothing speaks against it."""
    rng = np.random.default_rng(seed)
    drawn = {
        name: tuple(map(tuple, (seconds * rng.lognormal(0, noise, (blocks, turn))).round(9).tolist()))
        for name, seconds in times.items()
    }
    samples = Samples(drawn, Warmup(0.5, True, 0.01), complete)
    first = next(iter(times))
    entries = tuple(
        Entry(name, f"/models/{name}", f"{place:064x}", (batch, 3, 8, 8), samples.summary(name),
              samples.ratio(name, first), samples.blocks[name], accuracy)
        for place, (name, accuracy) in enumerate(zip(times, accuracies or [None] * len(times), strict=True))
    )  # fmt: skip
    return BenchReport(
        "single-stream", 10.0, 0, samples.warmup, entries, ENVIRONMENT | environment, (), complete, evidence
    )  # fmt: skip


def saved(report: BenchReport, path: Path) -> Path:
    """Its ``report.json`` in a file."""
    path.write_text(report.to_json(), encoding="utf-8")
    return path
