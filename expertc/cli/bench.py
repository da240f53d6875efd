"""``expertc bench``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import compare, options, show
from .branches import by_branch

if TYPE_CHECKING:
    from ..bench import BenchReport, Entry
    from ..bench.cold import ColdStart
    from ..measure import Glance, Ratio


class _Bench(click.Command):
    """``bench compare`` is a command of its own; a model of that name is ``./compare``."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["compare"]:
            return compare.command.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(
    cls=_Bench,
    epilog=options.example(
        "expertc bench full.onnx sharks-rays.expert --duration 20 --report new",
        "expertc bench compare old/report.json new/report.json",
    ),
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--scenario", default="single-stream", show_default=True, metavar="NAME",
    help="single-stream (one image after the other) or offline (batches).",
)  # fmt: skip
@click.option(
    "--duration", default=10.0, show_default=True, type=float, metavar="SECONDS", help="Time for all models together."
)
@click.option(
    "--percentile", type=click.Choice(["50", "90", "95", "99"]), help="Refuse to run if too short for this one."
)
@click.option("--by-branch", "apart", is_flag=True, help="Time one full model without each branch, instead.")
@click.option("--branch", "branches", multiple=True, metavar="LIST", help="With --by-branch: these, not the top ones.")
@click.option("--cold", is_flag=True, help="Also start each model in a process of its own: load, first call, memory.")
@click.option("--lock-clocks", is_flag=True, help="Hold the clocks at one speed meanwhile (needs root).")
@click.option("--report", metavar="DIR", help="Also write report.json, report.md and report.html there.")
@click.option(
    "--accuracy", "accuracies", multiple=True, metavar="[MODEL=]REPORT",
    help="What evaluate --report wrote or --json printed, to show accuracy beside latency.",
)  # fmt: skip
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    paths: tuple[str, ...], scenario: str, duration: float, percentile: str | None, apart: bool,
    branches: tuple[str, ...], cold: bool,
    lock_clocks: bool, report: str | None, accuracies: tuple[str, ...], threads: int | None, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Time models and bundles in turns within one run, and compare each with the first.

    Ctrl-C ends the run; what was measured until then is reported. To compare two reports: expertc bench compare.
    """
    from ..bench import bench, read_accuracies, refuse_place, with_accuracies, write_report
    from ..errors import ExitCode

    seconds = options.check_seconds(duration, "--duration", 0.01)
    if apart or branches:
        by_branch(paths, branches, seconds=seconds, threads=threads, as_json=as_json, quiet=quiet)
        return ExitCode.OK
    judged = read_accuracies(accuracies, paths)
    if report is not None:
        refuse_place(Path(report))
    with options.live_line(quiet) as write:
        write(f"opening and warming up, then measuring for {seconds:g} s …")
        found = bench(
            paths, scenario=scenario, seconds=seconds, threads=threads, interruptible=True,
            percentile=None if percentile is None else int(percentile), progress=lambda seen: write(_line(seen)),
            lock_clocks=lock_clocks, cold=cold,
        )  # fmt: skip
    found = with_accuracies(found, judged)
    if report is not None:
        write_report(found, Path(report))
    if as_json:
        click.echo(found.to_json(), nl=False)
    else:
        _print(found)
    if found.complete:
        return ExitCode.OK
    show.line("Interrupted: this is what was measured until then.", error=True)
    return ExitCode.INTERRUPTED


def _line(seen: Glance) -> str:
    """Calls so far, median and p90 of the last ones, time left."""
    from ..measure import percentile

    models = []
    for name, recent in seen.recent.items():
        p50, p90 = (percentile(recent, q) for q in (50, 90))
        models.append(f"{name} p50 {_time(p50)} p90 {_time(p90)}")
    return f"{seen.left:.0f} s left · {seen.calls:,} calls · {' · '.join(models)}"


def _print(found: BenchReport) -> None:
    offline = found.scenario == "offline"
    columns = ("batch", "calls", "median", "images/s") if offline else ("calls", "median", "p90", "p99")
    rows = [(entry.name, *_cells(entry, offline), *_ratio(entry.ratio)) for entry in found.entries]
    show.table(("model", *columns, "x first", "95 %"), rows)
    if found.cold:
        show.line()
        parts = ("imports", "load", "first call", "second", "peak memory")
        show.table(("started cold", *parts), [(name, *_start(start)) for name, start in found.cold.items()])
    machine, judged = found.environment, found.accuracies
    show.line()
    verdict = found.verdict
    notes = [warning for warning in found.warnings if warning not in verdict.reasons]
    show.facts({
        "verdict": "\n".join((verdict.name, *verdict.reasons)),
        "seen": "\n".join(_seen(found)),
        "scenario": f"{found.scenario}, {found.seconds:g} s for all models, in turns whose order changes",
        "x first": "time per image over that of the first model, with its 95 % interval",
        "machine": f"{machine['cpu']}, {machine['threads']} threads, {machine['runtime']}",
        **({"accuracy": "\n".join(f"{name}: {said}" for name, said in judged.items())} if judged else {}),
        **({"note": "\n".join(notes)} if notes else {}),
    })  # fmt: skip


def _seen(found: BenchReport) -> Iterator[str]:
    """What the watch saw, in the order in which it matters; at least one line."""
    seen = found.evidence
    yield ", ".join(seen.sensors) or "no sensors of clocks, temperature or power"
    for name, value in (("power mode", seen.power_mode), ("governor", seen.governor)):
        if value:
            yield f"{name}: {value}"
    yield from seen.locked
    for series in seen.series:
        if series.unit == "MHz" or series.name.startswith("temperature"):
            yield f"{series.name}: {series.median:.0f} {series.unit} ({series.least:.0f} to {series.most:.0f})"
    for source, joules in found.joules_per_image.items():
        yield f"energy of {source}: {1e3 * joules:.3g} mJ per image"
    if not found.joules_per_image:
        yield from (f"mean power of {energy.source}: {energy.watts:.1f} W" for energy in seen.energy)
    if seen.load is not None:
        yield f"other processes: {show.percent(seen.load.others)} of the cores"
    if seen.peak_memory is not None:
        yield f"peak memory of this process: {show.size(seen.peak_memory)}"
    for card, used in seen.peak_device_memory.items():
        yield f"peak memory in use on {card}: {show.size(used)}"


def _start(start: ColdStart) -> tuple[str, ...]:
    times = (start.imports, start.load, start.first, start.second)
    return (*map(show.duration, times), show.size(start.peak_bytes))


def _cells(entry: Entry, offline: bool) -> tuple[str, ...]:
    summary = entry.summary
    if offline:
        return str(entry.shape[0]), str(summary.n), _time(summary.median), f"{entry.images_per_second:.1f}"
    return str(summary.n), _time(summary.median), _time(summary.p90), _time(summary.p99)


def _time(seconds: float | None) -> str:
    """A percentile is None where too few calls stand behind it."""
    return "-" if seconds is None else show.duration(seconds)


def _ratio(ratio: Ratio) -> tuple[str, str]:
    known = ratio.low is not None and ratio.high is not None
    return f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}" if known else "too few calls"
