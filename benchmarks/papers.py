"""The published numbers of HLFP and NHL beside ours: tables and a plot.

    python -m benchmarks.papers [--seconds 60] [--skip-large]

Networks are counted on torch's meta device; cut-outs are made the way a user makes them, from the exported ONNX file of
the full network (random weights), and counted on the expert's graph. Latencies are of one run in turns on ONNX Runtime:
the paper's Table 4 could only estimate parallel branches from one branch, here they run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from expertc.backends.cpu import open_session
from expertc.export import export_random
from expertc.graph.cost import cost
from expertc.graph.thop import macs_thop
from expertc.measure import interleave
from expertc.source import open_source
from expertc.surgery.prune import prune
from expertc.zoo.count import count_arch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """A printed figure and ours; ``ours`` is None for one that cannot be had here, ``note`` says why."""

    table: str
    what: str
    paper: str
    ours: str | None
    note: str = ""

    @property
    def verdict(self) -> str:
        word = "not here" if self.ours is None else "equal" if self.ours == self.paper else "differs"
        return f"{word}: {self.note}" if self.note else word


# Table, network, classes, parameters as printed; HLFP Tables 1 and 2, NHL Table 1.
FULL = (
    ("HLFP", "hlfp_big", 10, "27,464,778"), ("HLFP", "hlfp_big", 100, "261,643,428"),
    ("HLFP", "hlfp_big", 1000, "2,603,429,928"), ("HLFP", "hlfp_small", 10, "9,611,338"),
    ("HLFP", "hlfp_small", 100, "83,109,028"), ("HLFP", "hlfp_small", 1000, "818,213,928"),
    ("HLFP", "hlfp_nested", 100, "65,725,604"), ("HLFP", "hlfp_nested", 1000, "577,977,384"),
    ("HLFP", "hlfp_late_sp", 10, "19,986,506"), ("HLFP", "hlfp_late_sp", 100, "122,975,396"),
    ("HLFP", "hlfp_late_sp", 1000, "1,152,864,296"), ("HLFP", "hlfp_1b_late_sp", 10, "9,688,778"),
    ("HLFP", "hlfp_1b_late_sp", 100, "9,700,388"), ("HLFP", "hlfp_1b_late_sp", 1000, "9,816,488"),
    ("HLFP", "resnet50", 10, "23,528,522"), ("HLFP", "resnet50", 100, "23,712,932"),
    ("HLFP", "resnet50", 1000, "25,557,032"),
)  # fmt: skip
ROUNDED = (
    ("NHL Table 1", "nhl_resnet50", 100, "25.0M", "5.86 G"),
    ("NHL Table 1", "nhl_convnextv2_tiny", 1000, "119.9M", "14.55 G"),
    ("NHL Table 1", "convnextv2_tiny", 1000, "28.6M", "4.46 G"),
)
# Network, classes, form, (first, last) kept, parameters and GMACs as printed.
CUTS = (
    ("HLFP Table 3", "hlfp_small", 10, "fused", (0, 5), "5,528,133", "2.66 G"),
    ("HLFP Table 3", "hlfp_small", 10, "separate", (5, 10), "5,528,133", "2.66 G"),
    ("HLFP Table 3", "hlfp_small", 100, "fused", (0, 80), "66,776,208", "14.85 G"),
    ("HLFP Table 3", "hlfp_small", 100, "fused", (80, 100), "17,777,748", "6.72 G"),
    ("HLFP Table 3", "hlfp_nested", 100, "separate", (0, 80), "51,565,712", "10.79 G"),
    ("HLFP Table 3", "hlfp_nested", 100, "fused", (80, 100), "16,148,052", "4.66 G"),
    ("NHL Table 1", "nhl_resnet50", 100, "", (0, 20), "13.8M", "4.22 G"),
    ("NHL Table 1", "nhl_convnextv2_tiny", 1000, "", (0, 5), "13.5M", "3.87 G"),
)  # fmt: skip
NOTES = {
    "818,213,928": "the paper's own formula gives 128 fewer per class",
    "6.72 G": "contradicts the paper's parameters: 6.72 G is 30 branches, the parameters are 20",
    "10.79 G": "0.17 % low; one more class branch would give it",
}
ABSENT = (
    Row("HLFP", "late-big-SP, 100 classes", "348,643,492", None, "no reading of the text gives this count"),
    Row("HLFP", "accuracies on ImageNet and its subsets", "", None, "needs training on ImageNet"),
    Row("NHL Table 1", "accuracies on ImageNet", "", None, "needs training on ImageNet"),
)
LARGE = 500  # classes from which an export takes minutes


def main() -> None:
    """Count, cut, measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the latency run")
    parser.add_argument("--skip-large", action="store_true", help="leave out the network of 1000 classes")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        rows = [*counted(), *cut_out(Path(name), given.skip_large), *ABSENT]
        latency = parallel(Path(name), given.seconds)
    found = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s)",
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
        "latency": latency,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "papers.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "papers.md").write_text(markdown(rows, latency, found["machine"]))
    plot(rows, latency)
    print(markdown(rows, latency, found["machine"]))


def counted() -> Iterator[Row]:
    """The networks without weights."""
    for table, name, classes, parameters in FULL:
        found = count_arch(name, classes)
        yield _row(table, f"{name}, {classes} classes: parameters", parameters, f"{found['parameters']:,}")
    yield _row("HLFP Table 3", "resnet50, 10 classes: GMACs", "4.13 G", _giga(count_arch("resnet50", 10)["macs_thop"]))
    for table, name, classes, parameters, macs in ROUNDED:
        found = count_arch(name, classes)
        what = f"{name}, {classes} classes"
        yield _row(table, f"{what}: parameters", parameters, f"{found['parameters'] / 1e6:.1f}M")
        yield _row(table, f"{what}: GMACs", macs, _giga(found["macs_thop"]))


def cut_out(folder: Path, skip_large: bool) -> Iterator[Row]:
    """The experts, cut from the exported full networks."""
    for table, name, classes, form, (first, last), parameters, macs in CUTS:
        what = f"{name}{f' ({form})' if form else ''}, classes {first} to {last - 1} of {classes}"
        if skip_large and classes > LARGE:
            continue
        path = folder / f"{name}-{classes}-{form}.onnx"
        if not path.exists():
            export_random(name, classes, path, form=form)
        source = open_source(path)
        cut = prune(source.model, source.card, tuple(range(first, last)))
        exact = cost(cut.model).parameters
        ours = f"{exact:,}" if "," in parameters else f"{exact / 1e6:.1f}M"
        yield _row(table, f"{what}: parameters", parameters, ours)
        yield _row(table, f"{what}: GMACs", macs, _giga(macs_thop(cut.model)))


def parallel(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """HLFP-small of one branch against 10 and 100, side by side in one convolution and as separate branches."""
    calls, sessions = {}, []
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    for classes, form in ((1, "fused"), (10, "fused"), (10, "separate"), (100, "fused"), (100, "separate")):
        path = folder / f"hlfp_small-{classes}-{form}.onnx"
        if not path.exists():
            export_random("hlfp_small", classes, path, form=form)
        session = open_session(path)
        sessions.append(session)
        calls[f"{classes} branches, {form}" if classes > 1 else "1 branch"] = lambda s=session: s.run(x)
    samples = interleave(calls, seconds=seconds, warmup=seconds / 6)
    rows = []
    for name in calls:
        ratio = samples.ratio(name, "1 branch")
        rows.append({
            "network": name, "median_ms": round(1e3 * float(np.median(samples.durations(name))), 1),
            "times_one_branch": round(ratio.value, 2), "low": ratio.low, "high": ratio.high,
            "runs": len(samples.durations(name)),
        })  # fmt: skip
    for session in sessions:
        with closing(session):
            pass
    return rows


def markdown(rows: Sequence[Row], latency: Sequence[dict[str, Any]], machine: str) -> str:
    """Both tables."""
    lines = [
        "# What the papers print, and what comes out here", "",
        "| table | what | paper | ours | |", "| --- | --- | ---: | ---: | --- |",
        *(f"| {r.table} | {r.what} | {r.paper} | {r.ours or ''} | {r.verdict} |" for r in rows),
        "",
        "The NHL networks' trees and ConvNeXt branches were never published: ours were chosen to fit these figures, so",
        "their rows say that the definition is consistent, not that it is the authors'.", "",
        f"## HLFP Table 4, measured: HLFP-small on ONNX Runtime ({machine}), one photo at a time", "",
        "| network | median | times one branch | 95 % interval | runs |", "| --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for row in latency:
        interval = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(
            f"| {row['network']} | {row['median_ms']} ms | {row['times_one_branch']} | {interval} | {row['runs']} |"
        )
    lines += [
        "",
        "The paper estimates that k parallel branches take the time of one. On a CPU they do not.",
    ]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], latency: Sequence[dict[str, Any]]) -> None:
    """Printed against ours, and the time of parallel branches."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    pairs = [(r.paper, r.ours) for r in rows if r.ours and "," in r.paper]
    printed, ours = ([float(pair[i].replace(",", "")) for pair in pairs] for i in (0, 1))
    left.loglog(printed, ours, "o", fillstyle="none")
    ends = [min(printed), max(printed)]
    left.plot(ends, ends, linewidth=0.8, color="grey")
    left.set(xlabel="parameters, printed", ylabel="parameters, ours", title=f"{len(pairs)} printed integers")
    right.barh([row["network"] for row in latency], [row["times_one_branch"] for row in latency])
    right.invert_yaxis()
    right.set(xlabel="times the latency of one branch", title="HLFP-small, ONNX Runtime on a CPU")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.savefig(RESULTS / "papers.svg", metadata={"Date": None})


def _row(table: str, what: str, paper: str, ours: str) -> Row:
    return Row(table, what, paper, ours, NOTES.get(paper, "") if paper != ours else "")


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.2f} G"


if __name__ == "__main__":
    main()
