"""How ``expertc build`` tells what was built, or would be."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..text import times
from . import show

if TYPE_CHECKING:
    from ..compiler import Built
    from ..plan import Plan
    from ..source import Source
    from ..speedup import Timing
    from ..surgery.owners import Branch
    from ..verify import Certificate

LISTED = 20  # branches of a kind that a table names


def experts(done: Sequence[Built], as_json: bool, quiet: bool) -> None:
    """Print what was built: one expert in full, several as a line each."""
    if as_json:
        mappings = [_mapping(built) for built in done]
        show.json_out(mappings if len(done) > 1 else mappings[0])
    elif quiet:
        for built in done:
            click.echo(built.path)
    elif len(done) == 1:
        _one(done[0])
    else:
        _many(done)


def _many(done: Sequence[Built]) -> None:
    full = done[0].full
    rows = [("(full model)", show.count(full.classes), show.count(full.cost.parameters), show.count(full.cost.macs),
             show.size(full.file_bytes), "")]  # fmt: skip
    for built in done:
        side = built.expert
        faster = "" if built.timing is None else f"{built.timing.speedup.value:.2f} x"
        rows.append((str(built.path), show.count(side.classes), show.count(side.cost.parameters),
                     show.count(side.cost.macs), show.size(side.file_bytes), faster))  # fmt: skip
    show.table(("bundle", "classes", "parameters", "MACs", "file", "faster"), rows)
    show.line()
    show.facts({built.path.name: summary(built.certificate) for built in done})
    for built in done:
        for finding in built.findings:
            if finding.level != "note":
                show.line(f"{built.path.name}: {finding.level}: {finding}")


def _one(built: Built) -> None:
    full, expert = built.full, built.expert
    pairs = {
        "parameters": (full.cost.parameters, expert.cost.parameters),
        "MACs per image": (full.cost.macs, expert.cost.macs),
    }
    rows = [
        ("classes", show.count(full.classes), show.count(expert.classes), ""),
        ("branches", show.count(full.branches), show.count(expert.branches), ""),
        *((name, show.count(a), show.count(b), show.change(b, a)) for name, (a, b) in pairs.items()),
        ("file", show.size(full.file_bytes), show.size(expert.file_bytes),
         show.change(expert.file_bytes, full.file_bytes)),
    ]  # fmt: skip
    if built.timing is not None:
        rows.append(_latency(built.timing))
    show.table(("", "full model", "expert", "change"), rows)
    show.line()
    told = {} if built.timing is None else {"latency": _interval(built.timing, to_the_end=built.exits != "plain")}
    told |= _chosen(built)
    told["verification"] = summary(built.certificate)
    if not built.target.is_host:
        told["target"] = f"{built.target.name}: {built.target.description}"
        told["lint"] = "\n".join(f"{finding.level}: {finding}" for finding in built.findings)
    show.facts(told | ({"note": "\n".join(built.notes)} if built.notes else {}))
    show.line()
    click.echo(f"bundle: {built.path}")
    place = shlex.quote(str(built.path))
    if built.target.is_host:
        click.echo(f"next:   expertc predict {place} photo.jpg")
    elif built.target.has_python:
        click.echo(f"next, on the device: expertc compile {place}")
    else:
        click.echo(f"next, on the device: trtexec, as {place}/README.txt says")


def _chosen(built: Built) -> dict[str, str]:
    """The form and the precision, where there was something to choose."""
    found = built.contest
    told = {}
    if found is not None:
        ratio, forms = found.ratios[found.chosen].value, len(found.ratios)
        form = f"{built.fuse}, {ratio:.2f} of the unfused time: the fastest of {forms}"
        if built.fuse == "off":
            form = f"branches stay apart: none of {forms - 1} other forms is faster beyond doubt"
        told["form"] = f"{form}{', as remembered' if found.remembered else ''}"
    elif built.fuse != "off":
        told["form"] = built.fuse
    if built.precision != "fp32":
        told["precision"] = built.precision
    if built.exits != "plain":
        told["exits"] = {"nested": "in the graph", "staged": "between a graph for each"}[built.exits]
    return told


def _latency(timing: Timing) -> tuple[str, str, str, str]:
    ratio = timing.speedup.value
    factor = f"{max(ratio, 1 / ratio):.2f}"
    change = "as fast" if factor == "1.00" else f"{factor} x {'faster' if ratio > 1 else 'slower'}"
    return ("latency", show.duration(timing.full), show.duration(timing.expert), change)


def _interval(timing: Timing, *, to_the_end: bool) -> str:
    return _ratio(timing) + ("; both nested and run to the last exit, at threshold 0" if to_the_end else "")


def _ratio(timing: Timing) -> str:
    ratio = timing.speedup
    if ratio.low is None or ratio.high is None:
        return f"in turns within one run, {times(ratio.blocks)}: too few for an interval"
    return f"in turns within one run; full over expert {ratio.low:.2f} to {ratio.high:.2f} (95 %)"


def summary(certificate: Certificate) -> str:
    """A certificate in one line."""
    if certificate.verdict == "off":
        return "off: nobody has compared it with the full model; expertc verify --level full does"
    inputs = certificate.inputs
    shown = {"verified": "passed", "uninformative": "UNINFORMATIVE, the scores do not vary"}
    steps = sum(step.passed for step in certificate.steps)
    what = "photos" if inputs["kind"] == "images" else "noise images"
    verdict = shown.get(certificate.verdict, certificate.verdict)
    return f"{verdict}; {steps} of {len(certificate.steps)} steps on {inputs['count']} {what} ({certificate.level})"


def _mapping(built: Built) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "bundle": str(built.path),
        "classes": list(built.selection.classes),
        "full": asdict(built.full),
        "expert": asdict(built.expert),
        "verification": built.certificate.to_mapping(),
        "timing": None if built.timing is None else asdict(built.timing),
        "fuse": built.fuse,
        "contest": None if built.contest is None else built.contest.to_mapping(),
        "precision": built.precision,
        "target": built.target.name,
        "findings": [asdict(finding) for finding in built.findings],
        "notes": list(built.notes),
        "seconds": dict(built.seconds),
    }


# -- plans -------------------------------------------------------------------------------------------------------------


def plans(source: Source, texts: Sequence[str], as_json: bool) -> None:
    """Print what would go and what would stay for each class set."""
    from ..plan import plan
    from ..selection import resolve

    made = [plan(source, resolve(source.card.taxonomy, text)) for text in texts]
    if as_json:
        mappings = [_plan_mapping(each) for each in made]
        show.json_out(mappings if len(made) > 1 else mappings[0])
        return
    for number, each in enumerate(made):
        if number:
            show.line()
        _plan(each)


def _plan(made: Plan) -> None:
    rows = [("stays", "(trunk)", *_costs([made.trunk]))]
    for verb, branches in (("stays", made.stays), ("goes", made.goes)):
        if verb == "goes" and made.exits is not None:
            rows.append((verb, "(exits)", *_costs([made.exits])))
        rows += [(verb, _name(branch, made), *_costs([branch])) for branch in branches[:LISTED]]
        rest = branches[LISTED:]
        if rest:
            rows.append((verb, f"({len(rest):,} more branches)", *_costs(rest)))
    whole = [("full", "(full model)", made.full), ("expert", "(expert, before folding)", made.expert)]
    rows += [(what, name, show.count(c.parameters), show.count(c.macs), show.size(c.weight_bytes))
             for what, name, c in whole]  # fmt: skip
    show.table(("", "branch", "parameters", "MACs", "weights"), rows, left=2)
    notes = [f"Kept whole, {times(number)}: {reason}." for reason, number in made.stopped]
    for note in (*notes, *made.notes):
        show.line(note)


def _name(branch: Branch, made: Plan) -> str:
    return branch.name or f"(shared by {len(branch.indices):,} classes)"


def _costs(branches: Sequence[Branch]) -> tuple[str, str, str]:
    total = sum((branch.cost for branch in branches[1:]), branches[0].cost)
    return show.count(total.parameters), show.count(total.macs), show.size(total.weight_bytes)


def _plan_mapping(made: Plan) -> dict[str, Any]:
    from dataclasses import asdict

    def branch(one: Branch) -> dict[str, Any]:
        return {"name": one.name, "classes": list(one.indices), "nodes": one.nodes} | asdict(one.cost)

    return {
        "classes": list(made.selection.classes),
        "trunk": branch(made.trunk),
        "exits": None if made.exits is None else branch(made.exits),
        "stays": [branch(one) for one in made.stays],
        "goes": [branch(one) for one in made.goes],
        "full": asdict(made.full),
        "expert": asdict(made.expert),
        "stopped": [{"reason": reason, "times": number} for reason, number in made.stopped],
        "notes": list(made.notes),
    }
