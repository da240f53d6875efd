"""``expertc bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import benched, compare, options, show

if TYPE_CHECKING:
    from ..measure import Glance


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
        "expertc bench sharks-rays.expert --scenario camera --fps 30",
        "expertc bench sharks-rays.expert --phases --data photos",
        "expertc bench compare old/report.json new/report.json",
    ),
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--scenario", default="single-stream", show_default=True, metavar="NAME",
    help="single-stream (one image after the other), offline (batches) or camera (frames at a fixed rate).",
)  # fmt: skip
@click.option(
    "--fps",
    "rate",
    type=options.number("--fps 30"),
    metavar="RATE",
    help="Frames per second of the camera (default: 30).",
)
@click.option(
    "--batch-size",
    type=options.number("--batch-size 32", int),
    metavar="N",
    help="Of an offline run (default: found by doubling it until that is no use).",
)
@click.option(
    "--duration",
    default=10.0,
    show_default=True,
    type=options.number("--duration 10"),
    metavar="SECONDS",
    help="Time for all models together.",
)
@click.option(
    "--percentile", type=click.Choice(["50", "90", "95", "99"]), help="Refuse to run if too short for this one."
)
@click.option("--by-branch", "branchwise", is_flag=True, help="Time one full model, and it without each branch.")
@click.option("--branch", "branches", multiple=True, metavar="LIST", help="With --by-branch: these, not the top ones.")
@click.option("--cold", is_flag=True, help="Also start each model in a process of its own: load, first call, memory.")
@click.option(
    "--phases", is_flag=True,
    help="Also time decoding, preprocessing, model and answer apart, for as long again.",
)  # fmt: skip
@click.option("--data", metavar="DIR", help="With --phases: photos to predict, in any folders (default: a made one).")
@click.option(
    "--seed", type=click.IntRange(0, 2**63), default=0, show_default=True, metavar="N",
    help="Of the noise that models are given, and of the order of their turns.",
)  # fmt: skip
@click.option("--lock-clocks", is_flag=True, help="Hold the clocks at one speed meanwhile (needs root).")
@click.option("--report", metavar="DIR", help="Also write report.json, report.md and report.html there.")
@click.option(
    "--accuracy", "accuracies", multiple=True, metavar="[MODEL=]REPORT",
    help="What evaluate --report wrote or --json printed, to show accuracy beside latency.",
)  # fmt: skip
@options.exits
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    paths: tuple[str, ...], scenario: str, rate: float | None, batch_size: int | None, duration: float,
    percentile: str | None, branchwise: bool, branches: tuple[str, ...], cold: bool, phases: bool, data: str | None,
    seed: int, lock_clocks: bool, report: str | None, accuracies: tuple[str, ...], threshold: str | None,
    tolerance: float | None, forced: int | None, threads: int | None, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Time models and bundles in turns within one run, and compare each with the first.

    Ctrl-C ends the run; what was measured until then is reported. To compare two reports: expertc bench compare.
    """
    from ..bench import bench, read_accuracies, refuse_place, with_accuracies, write_report
    from ..errors import ExitCode

    seconds = options.check_seconds(duration, "--duration", 0.01)
    chosen = options.make_exits(threshold, tolerance, forced)
    judged = read_accuracies(accuracies, paths)
    if report is not None:
        refuse_place(Path(report))
    with options.live_line(quiet) as write:
        write(f"opening and warming up, then measuring for {seconds:g} s …")
        found = bench(
            paths, scenario=scenario, seconds=seconds, threads=threads, interruptible=True,
            percentile=None if percentile is None else int(percentile), progress=lambda seen: write(_line(seen)),
            lock_clocks=lock_clocks, cold=cold, rate=rate, batch_size=batch_size, phases=phases, data=data,
            seed=seed, chosen=chosen, without=branches if branchwise or branches else None,
        )  # fmt: skip
    found = with_accuracies(found, judged)
    if report is not None:
        write_report(found, Path(report))
    if as_json:
        click.echo(found.to_json(), nl=False)
    else:
        benched.show_report(found)
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
        models.append(f"{name} p50 {benched.shown_time(p50)} p90 {benched.shown_time(p90)}")
    return f"{seen.left:.0f} s left · {seen.calls:,} calls · {' · '.join(models)}"
