"""What an expert's forms take, one interleaved run per network and number of threads: tables and a plot.

    pip install '.[bench,train]'
    python -m benchmarks.latency --folder SCRATCH [--only NAME] [--threads 1,2] [--seconds 30] [--blocks 12]
                                 [--data DIR] [--without torch.compile] [--resume]

``benchmarks.forms`` says what the forms are. Each run is a process of its own with that number of threads. Networks
have random weights, but for the bundled model; what is exported goes to SCRATCH and is taken from there the next time.
Rows of other networks stay in ``results`` as they were; with --resume also those that are there already.

``python -m benchmarks.papers`` measures the paper's Table 4: k branches against one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.forms import AGAIN, CUT, FOLDED, FUSED, GEMM, INT8, NETWORKS, NUMPY_GEMM

RESULTS = Path(__file__).parent / "results"
BUDGET = 1.05  # of the re-export's time
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Measure what is asked for; write tables and plot after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch: exported networks, up to 2 GB")
    parser.add_argument("--only", help="a network's name, or a part that several share")
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=30.0, help="shortest run")
    parser.add_argument("--blocks", type=int, default=12, help="turns that each form gets at least, about")
    parser.add_argument("--data", type=Path, help="photos of the bundled model's classes, for int8")
    parser.add_argument("--without", default="", help="comma-separated forms to leave out: some take minutes to make")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--resume", action="store_true", help="leave out what the results have already")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "latency.json"
    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    failed = False
    for name in NETWORKS:
        if given.only and given.only != name and (given.only in NETWORKS or given.only not in name):
            continue
        for threads in map(int, given.threads.split(",")):
            key = (name, threads)
            if given.resume and key in map(key_of, runs):
                continue
            print(f"{name}, {threads} thread(s)", file=sys.stderr, flush=True)
            found = measured(name, threads, given)
            if found is None:
                failed = True
                continue
            runs = in_order([*(run for run in runs if key_of(run) != key), found])
            file.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
            (given.results / "latency.md").write_text(markdown(runs))
            plot(runs, given.results / "latency.svg")
    print(markdown(runs))
    sys.exit(failed)


def measured(name: str, threads: int, given: argparse.Namespace) -> dict[str, Any] | None:
    """One run in a process of its own, after another that exports; None if one failed, which it says itself."""
    with TemporaryDirectory() as scratch:
        output = Path(scratch) / "found.json"
        prepare = [sys.executable, "-m", "benchmarks.contest", name, "--folder", str(given.folder)]
        window = ["--seconds", str(given.seconds), "--blocks", str(given.blocks), "--threads", str(threads)]
        window += ["--without", given.without]
        run = [*prepare, *window, "-o", str(output), *(["--data", str(given.data)] if given.data else [])]
        environment = os.environ | dict.fromkeys(POOLS, str(threads))
        if any(subprocess.run(line, env=environment, check=False).returncode for line in (prepare, run)):
            return None
        found: dict[str, Any] = json.loads(output.read_text())
        return found


def key_of(run: Mapping[str, Any]) -> tuple[str, int]:
    return run["network"], run["threads"]


def in_order(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the networks are listed, fewer threads first; networks that are no more are left out."""
    names = list(NETWORKS)
    known = (run for run in runs if run["network"] in names)
    return sorted(known, key=lambda run: (names.index(run["network"]), run["threads"]))


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The budgets, then a table per run."""
    lines = [
        "# What an expert's forms take", "",
        "Batch 1. The forms of one table were timed in turns in one process; compare there, not across tables. Ratios",
        "are of medians over blocks, with 95 % intervals. *Cut* is what taking out the branches alone gives; the",
        "re-export is the torch network built with only the selected branches, exported; both run on ONNX Runtime, as",
        "does all but OpenVINO, torch and numpy. GMAC/s counts the MACs of convolutions and matrix products; 1024³ is",
        "one product of two matrices. The best form was chosen on the same run, and so flatters itself a little.", "",
        "## Budgets", "",
        f"An expert takes at most {BUDGET:g} × of the re-export, and its form is never slower than the cut;",
        "int8 takes at most half of fp32.", "",
        "| expert | threads | best form | over the cut | over the re-export | budget | int8 over folded |",
        "| --- | ---: | --- | ---: | ---: | --- | ---: |",
        *map(budget_row, runs),
    ]  # fmt: skip
    for run in runs:
        lines += ["", *section(run)]
    return "\n".join(lines) + "\n"


def budget_row(run: Mapping[str, Any]) -> str:
    """The best form of a run against the budgets."""
    rows = {row["form"]: row for row in run["rows"]}
    best = min((row for name, row in rows.items() if is_ours(name)), key=lambda row: row["over_cut"][0])
    again = best.get("over_again")
    int8 = rows.get(INT8, {}).get("over_folded")
    cells = (
        run["network"], run["threads"], best["form"], spoken(best["over_cut"]),
        spoken(again) if again else "", verdict(again) if again else "", spoken(int8) if int8 else "",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def is_ours(form: str) -> bool:
    """Whether it is a form that a build may choose in fp32."""
    return form in (CUT, FOLDED) or form.startswith(FUSED)


def spoken(ratio: Sequence[float | None]) -> str:
    """A ratio with its interval, if it has one."""
    value, low, high = ratio
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def verdict(ratio: Sequence[float | None]) -> str:
    """Whether a ratio keeps the budget, as far as its interval tells."""
    _, low, high = ratio
    if low is None or high is None:
        return "too few blocks"
    return "kept" if high <= BUDGET else "missed" if low > BUDGET else "not sure"


def section(run: Mapping[str, Any]) -> list[str]:
    """A run's table."""
    (full, small), (macs, left) = run["parameters"], run["macs"]
    versions = ", ".join(f"{package} {number}" for package, number in run["versions"].items())
    lines = [
        f"## {run['network']}: {run['threads']} thread{'s' if run['threads'] > 1 else ''}", "",
        f"{small / 1e6:.1f} of {full / 1e6:.1f} million parameters, {left / 1e9:.2f} of {macs / 1e9:.2f} GMACs;"
        f" {run['blocks']} blocks.",
        f"{run['machine']}; {versions}.", "",
        "| form | median, ms | over the cut | over the re-export | GMAC/s | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for row in run["rows"]:
        ratios = [
            spoken(row[key]) if key in row and row["form"] != base else ""
            for key, base in (("over_cut", CUT), ("over_again", AGAIN))
        ]
        cells = (row["form"], f"{row['ms']:.2f}", *ratios, f"{row['gmacs']:.1f}", row["runs"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    reasons: dict[str, list[str]] = {}
    for form, why in run["left_out"].items():
        reasons.setdefault(why, []).append(form)
    if reasons:
        lines += ["", "Left out:", "", *(f"* {', '.join(names)}: {why}" for why, names in reasons.items())]
    return lines


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time over the cut's, a panel for each network, a bar from 1 for each form and number of threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(run["network"] for run in runs))
    columns = min(3, len(names))
    down = -(-len(names) // columns)
    figure, panels = pyplot.subplots(
        down, columns, figsize=(5 * columns, 3.6 * down), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(names) :]:
        panel.remove()
    for panel, name in zip(panels.flat, names, strict=False):
        mine = [run for run in runs if run["network"] == name]
        forms = list(dict.fromkeys(row["form"] for run in mine for row in run["rows"]))
        forms = [form for form in forms if form not in (CUT, GEMM, NUMPY_GEMM)]
        height = 0.8 / len(mine)
        for turn, run in enumerate(mine):
            rows = {row["form"]: row["over_cut"] for row in run["rows"] if row["form"] in forms}
            at = [forms.index(form) + turn * height for form in rows]
            values = [ratio[0] for ratio in rows.values()]
            ends = [(value - (low or value), (high or value) - value) for value, low, high in rows.values()]
            ends = [[max(0.0, end) for end in side] for side in zip(*ends, strict=True)]
            label = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
            panel.barh(
                at, [value - 1 for value in values], height, left=1, xerr=ends, label=label,
                color=f"C{run['threads'] - 1}", error_kw={"linewidth": 0.8},
            )  # fmt: skip
        panel.axvline(1, linewidth=0.8, color="grey")
        panel.set_yticks([i + height * (len(mine) - 1) / 2 for i in range(len(forms))], forms)
        panel.invert_yaxis()
        panel.set(title=name, xscale="log", xlabel="time over the cut's")
        panel.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        panel.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        panel.set_xticks([x for x in (0.25, 0.5, 1, 2, 4, 8, 16) if panel.get_xlim()[0] <= x <= panel.get_xlim()[1]])
        panel.grid(alpha=0.3, axis="x")
    labels = {
        label: bars for panel in figure.axes for bars, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside upper right", frameon=False, ncols=len(labels))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
