"""How ``expertc deploy`` shows what it would do, what it is doing, and how it ended."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import show

if TYPE_CHECKING:
    from ..deploy.fleet import Fleet, Group
    from ..deploy.host import Job, Outcome
    from ..deploy.rollout import Heard
    from ..deploy.transport import Ssh


STAGE = 30  # characters of what a device says that it is doing


def plan(fleet: Fleet, as_json: bool) -> None:
    """Print who would get what, in which order."""
    groups = [_planned(group, fleet) for group in fleet.groups]
    if as_json:
        show.json_out({"at_once": fleet.at_once, "stop_after": fleet.stop_after, "groups": groups})
        return
    rows = [
        (host["host"], group["name"], group["what"], group["target"] or "", _more(group, canary=host["canary"]))
        for group in groups
        for host in group["hosts"]
    ]
    show.table(("device", "expert", "what", "target", ""), rows, left=5)
    show.line()
    if fleet.stop_after is not None:
        show.line(f"No further after {fleet.stop_after} {'failure' if fleet.stop_after == 1 else 'failures'}.")
    devices = "device" if len(rows) == 1 else "devices"
    show.line(f"{len(rows)} {devices}, {fleet.at_once} at a time. Nothing was connected to, or written.")


def _more(group: Mapping[str, Any], *, canary: bool) -> str:
    """What else is to be known of a device's part."""
    limit = group["max_p90_ms"]
    said = (
        "canary" if canary else "",
        f"{limit:g} ms" if limit else "",
        f"port {group['port']}" if group["port"] else "",
    )
    return ", ".join(filter(None, said))


def _planned(group: Group, fleet: Fleet) -> dict[str, Any]:
    from ..bundle import open_bundle

    target, what = group.target or "cpu", f"{group.classes} in {group.precision}"
    if group.bundle is not None:
        bundle = open_bundle(group.bundle)
        target, what = str(bundle.manifest.get("target", "")), str(group.bundle)
    hosts = [{"host": each.given, "canary": at < fleet.canary} for at, each in enumerate(group.hosts)]
    return {
        "group": group.name, "name": group.expert, "what": what, "target": target, "hosts": hosts,
        "max_p90_ms": group.max_p90_ms, "service": group.service, "port": group.port if group.service else None,
    }  # fmt: skip


def watched(jobs: Sequence[Job], ssh: Ssh, fleet: Fleet, quiet: bool) -> list[Outcome]:
    """Roll the jobs out, with a line on stderr for every device that is being worked on."""
    from ..deploy.rollout import roll_out

    with _lines(quiet) as told:
        return asyncio.run(
            roll_out(jobs, ssh, told, at_once=fleet.at_once, canary=fleet.canary, stop_after=fleet.stop_after)
        )


@contextmanager
def _lines(quiet: bool) -> Iterator[Heard]:
    if quiet or not sys.stderr.isatty():
        yield lambda job, stage, share: None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.table import Column

    from ..text import clean_text, shortened

    host = TextColumn("{task.fields[host]}", markup=False, table_column=Column(no_wrap=True))
    columns = (SpinnerColumn(), host, BarColumn(20), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=show.console(stderr=True), transient=True) as shown:
        tasks: dict[Job, Any] = {}

        def told(job: Job, stage: str, share: float | None) -> None:
            if stage and job not in tasks:
                tasks[job] = shown.add_task("", host=clean_text(job.address.given), total=None)
            if not stage:
                shown.remove_task(tasks.pop(job)) if job in tasks else None
                return
            stage = shortened(stage, STAGE)
            shown.update(tasks[job], description=stage, total=None if share is None else 1.0, completed=share or 0.0)

        yield told


def tell(outcomes: Sequence[Outcome], as_json: bool, quiet: bool) -> int:
    """Print how it ended for every device; the exit code is 0, or 8 if one of them does not run what it was to."""
    from ..errors import ExitCode

    bad = [outcome for outcome in outcomes if not outcome.good]
    if as_json:
        failed = [outcome.job.address.given for outcome in bad]
        show.json_out({"devices": [outcome.to_mapping() for outcome in outcomes], "failed": failed})
    elif quiet:
        for outcome in bad:
            click.echo(outcome.job.address.given)
            show.line(f"{outcome.job.address.given}: {_said(outcome)}", error=True)
    else:
        rows = [_row(outcome) for outcome in outcomes]
        show.table(("device", "expert", "release", "state", "sent", "p90", "time"), rows, left=4)
        said = {name: text for name, outcome in _named(outcomes) if (text := _said(outcome))}
        if said:
            show.line()
            show.facts(said)
    if bad and not as_json:
        names = ", ".join(name for name, _ in _named(bad))
        show.line(f"{len(bad)} of {len(outcomes)} deployments failed: {names}.", error=True)
    return int(ExitCode.DEPLOYMENT if bad else ExitCode.OK)


def _named(outcomes: Sequence[Outcome]) -> list[tuple[str, Outcome]]:
    """The outcomes by device, and by expert where a device gets several."""
    times = Counter(outcome.job.address.given for outcome in outcomes)

    def name(outcome: Outcome) -> str:
        given = outcome.job.address.given
        return given if times[given] == 1 else f"{given} {outcome.job.name}"

    return [(name(outcome), outcome) for outcome in outcomes]


def _said(outcome: Outcome) -> str:
    """Why it did not end well; or what the device has to say about where the expert runs."""
    from ..deploy.protocol import sentence

    notes = outcome.report.get("notes")
    told = [sentence(note) for note in notes] if isinstance(notes, list) else []
    return " ".join(filter(None, (outcome.why, outcome.hint, *(told if outcome.good else ()))))


def _row(outcome: Outcome) -> tuple[str, ...]:
    job, bench = outcome.job, outcome.report.get("bench")
    p90 = bench.get("p90_ms") if isinstance(bench, dict) else None
    return (
        job.address.given, job.name, job.release[:8], outcome.state, show.size(outcome.sent) if outcome.sent else "",
        f"{p90:.2f} ms" if isinstance(p90, float) else "", f"{outcome.seconds:.0f} s",
    )  # fmt: skip
