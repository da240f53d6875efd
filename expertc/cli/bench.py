"""``expertc bench``."""

from __future__ import annotations

import click

from . import options, show


@click.command(epilog="Example: expertc bench full.onnx sharks-rays.expert --duration 20")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--scenario", default="single-stream", show_default=True, metavar="single-stream|offline", help="What to measure."
)
@click.option("--duration", default=10.0, show_default=True, metavar="SECONDS", help="Time for all models together.")
@click.option("--report", metavar="DIR", help="Also write report.json and report.md there.")
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    paths: tuple[str, ...], scenario: str, duration: float, report: str | None, threads: int | None, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Time models and bundles in turns within one run, and compare each with the first."""
    from pathlib import Path

    from ..bench import bench, write_report

    with options.stages(quiet) as progress:
        progress(f"measuring for {duration:g} s")
        found = bench(paths, scenario=scenario, seconds=duration, threads=threads)
    if report is not None:
        write_report(found, Path(report))
    if as_json:
        show.json_out(found.to_mapping())
        return
    click.echo(found.to_markdown())
