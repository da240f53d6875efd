"""How ``bench`` tells what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import show

if TYPE_CHECKING:
    from ..bench import BenchReport, Entry
    from ..measure import Ratio


def show_report(found: BenchReport) -> None:
    """Print tables, what was seen meanwhile, and what is doubtful."""
    from ..bench.exits import exit_lines
    from ..bench.tables import additional, headlines

    offline, report = found.scenario == "offline", found.to_mapping()
    more = [*additional(report)]
    if not found.streams:  # which say more, and are the first of the others
        columns = ("batch", "calls", "median", "images/s") if offline else ("calls", "median", "p90", "p99")
        rows = [(entry.name, *_cells(entry, offline), *_ratio(entry.ratio)) for entry in found.entries]
        show.table(("model", *columns, "x first", "95 %"), rows)
    for place, table in enumerate(more):
        if place or not found.streams:
            show.line()
        show.table(table.columns, table.rows, left=table.left)
    machine, judged = found.environment, found.accuracies
    show.line()
    verdict = found.verdict
    notes = [warning for warning in found.warnings if warning not in verdict.reasons]
    show.facts({
        "result": "\n".join(headlines(report)),
        "verdict": "\n".join((verdict.name, *verdict.reasons)),
        "seen": "\n".join(_seen(found)),
        "scenario": f"{found.scenario}, {found.seconds:g} s for all models, in random turns (seed {found.seed})",
        **({"exits": "\n".join(exits)} if (exits := [*exit_lines(report)]) else {}),
        **({} if found.streams else {"x first": "time per image over that of the first model, with its 95 % interval"}),
        **{table.key: table.note for table in more},
        **({"harness": str(found.harness)} if found.harness else {}),
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
    if seen.energy and found.joules_missing:
        yield f"no energy per image: {found.joules_missing}"
    if seen.load is not None:
        yield f"other processes: {show.percent(seen.load.others)} of the cores"
    if seen.peak_memory is not None:
        yield f"peak memory of this process: {show.size(seen.peak_memory)}"
    for card, used in seen.peak_device_memory.items():
        yield f"peak memory in use on {card}: {show.size(used)}"


def _cells(entry: Entry, offline: bool) -> tuple[str, ...]:
    summary = entry.summary
    if offline:
        return str(entry.shape[0]), str(summary.n), shown_time(summary.median), f"{entry.images_per_second:.1f}"
    return str(summary.n), shown_time(summary.median), shown_time(summary.p90), shown_time(summary.p99)


def shown_time(seconds: float | None) -> str:
    """A percentile is None where too few calls stand behind it."""
    return "-" if seconds is None else show.duration(seconds)


def _ratio(ratio: Ratio) -> tuple[str, str]:
    known = ratio.low is not None and ratio.high is not None
    return f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}" if known else "too few calls"
