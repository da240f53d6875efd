"""Latency of HierNet's two forms against their backbone, on ONNX Runtime: the fast form should cost about the backbone.

Random weights: what is computed does not depend on them, but for which leaf the fast form takes, and those are alike.
The models are timed in turns in one process, and the ratios are of neighbouring calls.

    python -m benchmarks.routing [--depths 20 32 44] [--batches 1 16] [--seconds 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from expertc.backends.cpu import describe, open_session
from expertc.export import export_random
from expertc.graph import read_model
from expertc.graph.cost import cost
from expertc.measure import interleave

CLASSES = 100
DEPTHS = (20, 32, 44)
RESULTS = Path(__file__).parent / "results"
FORMS = {"backbone": "cifar_resnet{}", "fast": "hiernet_resnet{}", "slow": "hiernet_resnet{}"}


def measure(depth: int, batch: int, seconds: float, threads: int, folder: Path) -> dict[str, Any]:
    """Medians, and the time of each form over the backbone's, for ``batch`` images per call."""
    sessions, costs = {}, {}
    for form, arch in FORMS.items():
        path = folder / f"{form}-{depth}-{batch}.onnx"
        options = {"form": form} if form != "backbone" else {}
        export_random(arch.format(depth), CLASSES, path, batch=1 if batch == 1 else None, **options)
        sessions[form] = open_session(path, threads=threads)
        costs[form] = cost(read_model(path))
    x = np.random.default_rng(0).standard_normal((batch, 3, 32, 32)).astype(np.float32)
    calls = {form: (lambda session=session: session.run(x)) for form, session in sessions.items()}
    samples = interleave(calls, seconds=seconds, warmup=seconds / 4)
    found: dict[str, Any] = {"depth": depth, "batch": batch, "classes": CLASSES}
    for form in FORMS:
        ratio = samples.ratio(form, "backbone")
        found[form] = {
            "parameters": costs[form].parameters,
            "macs": costs[form].macs,
            "median_ms": round(1e3 * statistics.median(samples.durations(form)), 3),
            "calls": len(samples.durations(form)),
            "over_backbone": [
                None if value is None else round(value, 3) for value in (ratio.value, ratio.low, ratio.high)
            ],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS), help="layers of the backbone")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="images per call")
    parser.add_argument("--seconds", type=float, default=20.0, help="per row")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for depth in args.depths:
            for batch in args.batches:
                rows.append(measure(depth, batch, args.seconds, args.threads, Path(folder)))
                row = rows[-1]
                texts = [
                    f"{form} {row[form]['median_ms']:.2f} ms ({row[form]['over_backbone'][0]:.2f} x)" for form in FORMS
                ]
                print(f"ResNet-{depth}, batch {batch}: {', '.join(texts)}", flush=True)
    found = {"machine": describe(), "threads": args.threads, "seconds": args.seconds, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "routing.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "routing.md").write_text(table(found), encoding="utf-8")


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    machine = found["machine"]
    lines = [
        f"HierNet with {CLASSES} classes in seven groups, random weights; {machine['processor']}, {found['threads']}",
        f"thread(s), ONNX Runtime {machine['version']}. Each row's forms were timed in turns. The fast form's file",
        "has all leaves, of which an image takes one.",
        "",
        "| backbone | batch | form | MMACs per image | median, ms | over the backbone |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        for form in FORMS:
            one = row[form]
            ratio, low, high = one["over_backbone"]
            span = "" if form == "backbone" or low is None else f"{ratio:.2f} ({low:.2f} to {high:.2f})"
            lines.append(
                f"| ResNet-{row['depth']} | {row['batch']} | {form} | {one['macs'] / 1e6:.1f}"
                f" | {one['median_ms']:.2f} | {span} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
