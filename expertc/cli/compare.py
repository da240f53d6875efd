"""``expertc bench compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..bench.compare import Missed


@click.command(
    epilog=options.example(
        "expertc bench compare old/report.json new/report.json", "expertc bench compare old new --tolerance 0.1"
    )
)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option(
    "--tolerance", type=options.number("--tolerance 0.05"), metavar="SHARE",
    help="How much slower is still the same (default: 0.05, twice what a steady run may vary by).",
)  # fmt: skip
@click.option("--allow-noisy", is_flag=True, help="Also compare runs that were throttled, noisy or not watched.")
@options.as_json
@options.everywhere
def command(old: str, new: str, tolerance: float | None, allow_noisy: bool, as_json: bool) -> None:
    """Compare two reports of the same benchmark, model by model; exit code 11 if one has become slower.

    A model is slower if its median has grown by more than the tolerance, and by more than the noise of the two runs
    explains (95 % bootstrap interval); a camera's, if the age of its results or the share of missed frames has. Runs of
    different tasks are refused, and so are, unless allowed, runs whose verdict says that their numbers cannot be
    believed. A file called compare is measured as ./compare.
    """
    from ..bench import compare
    from ..bench.compare import TOLERANCE
    from ..errors import RegressionError

    found = compare(old, new, tolerance=TOLERANCE if tolerance is None else tolerance, allow_noisy=allow_noisy)
    if as_json:
        show.json_out(found.to_mapping())
    else:
        seen = any(one.missed for one in found.changes)
        rows = [
            (one.name, show.duration(one.old), show.duration(one.new), f"{one.ratio:.3f}",
             f"{one.low:.3f} to {one.high:.3f}", *((_missed(one.missed),) if seen else ()), one.verdict)
            for one in found.changes
        ]  # fmt: skip
        columns = ("old age", "new age") if seen else ("old", "new")
        show.table(("model", *columns, "new / old", "95 %", *(("missed",) if seen else ()), "verdict"), rows)
        if found.notes:
            show.line()
            show.facts({"note": "\n".join(found.notes)})
    if found.regressions:
        names = ", ".join(one.name for one in found.regressions)
        raise RegressionError(
            f"Slower by more than {100 * found.tolerance:g} %: {names}.",
            "Measure both again in one run if you can: expertc bench OLD-MODEL NEW-MODEL.",
        )


def _missed(missed: Missed | None) -> str:
    return "-" if missed is None else f"{100 * missed.old:.1f} to {100 * missed.new:.1f} %"
