"""``expertc bench --by-branch``: what each branch has of the MACs, and what leaving it out really saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from . import options, show


def by_branch(
    paths: Sequence[str], names: Sequence[str], *, seconds: float, threads: int | None, as_json: bool, quiet: bool
) -> None:
    """Time one model without each of its branches, and print it."""
    from ..bench.branches import by_branch as measure
    from ..errors import UsageError
    from ..source import open_source

    if len(paths) != 1:
        raise UsageError("--by-branch takes one model apart.", "Give one full model with a model card.")
    with options.stages(quiet) as progress:
        progress(f"cutting, then measuring for {seconds:g} s")
        source = open_source(paths[0])
        found = measure(source, names, seconds=seconds, threads=threads)
    if as_json:
        show.json_out([asdict(each) | {"measured": each.measured} for each in found])
        return
    rows = []
    for each in found:
        low, high = each.time.low, each.time.high
        known = "too few calls" if low is None or high is None else f"{_share(1 - high)} to {_share(1 - low)}"
        rows.append((each.name, show.count(each.classes), _share(each.predicted), _share(each.measured), known))
    show.table(("left out", "classes", "of the MACs", "time saved", "95 %"), rows)
    show.line()
    show.line("time saved: of the full model's, by the cut to all other classes, in turns within one run")


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
