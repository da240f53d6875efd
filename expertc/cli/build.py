"""``expertc build``."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..compiler import Built, Timing
    from ..verify import Certificate

MAX_BATCH = 4096


@click.command(
    epilog=options.example(
        "expertc build --classes sharks,rays",
        "expertc build full.onnx --classes 'fishes,-sharks' -o fishes.expert",
    )
)
@click.argument("model", required=False)
@click.option(
    "--classes", required=True, metavar="LIST", help="Classes to keep: names, categories, paths, -exclusions, @files."
)
@click.option("-o", "--output", metavar="DIR", help="Bundle directory (default: named after the classes).")
@click.option("--target", default="cpu", show_default=True, metavar="NAME", help="Device profile; see expertc targets.")
@click.option("--batch", default="1", show_default=True, metavar="N|dynamic", help="Images per call.")
@click.option("--verify", "level", default="fast", show_default=True, metavar="fast|full|off", help="How to verify.")
@click.option("--data", metavar="DIR", help="Verify on these photos instead of noise.")
@click.option(
    "--measure", type=float, metavar="SECONDS", help="Latency window (default: 0.5, none above 1 GiB); 0 for none.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@options.foreign
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    model: str | None, classes: str, output: str | None, target: str, batch: str, level: str, data: str | None,
    measure: float | None, force: bool, labels: str | None, taxonomy: str | None, preprocess: str | None,
    outputs: tuple[str, ...], threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Cut MODEL down to the classes of LIST, verify the expert and write its bundle.

    Without MODEL the bundled one is used: 23 sea animals.
    """
    from ..verify import standby

    images_per_call, window = _batch(batch), None if measure is None else options.check_seconds(measure, "--measure")
    with ExitStack() as stack:
        progress = stack.enter_context(options.stages(quiet))
        # The verifying process loads its libraries while this one loads its own.
        standing = None if level == "off" else stack.enter_context(standby())
        from ..compiler import build

        built = build(
            model, classes=classes, output=output, target=target, verification=level,
            images=lambda source: options.photos(source, data), batch=images_per_call, force=force, threads=threads,
            foreign=options.make_foreign(labels, taxonomy, preprocess, outputs), measure_seconds=window,
            standing=standing, progress=progress,
        )  # fmt: skip
    if as_json:
        show.json_out(_mapping(built))
    elif quiet:
        click.echo(built.path)
    else:
        _print(built)


def _batch(value: str) -> int | None:
    from ..errors import UsageError
    from ..text import shown

    if value == "dynamic":
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 4 or not 1 <= int(value) <= MAX_BATCH:
        raise UsageError(
            f"The batch {shown(value)} is neither a number from 1 to {MAX_BATCH} nor 'dynamic'.", "Use --batch 1."
        )
    return int(value)


def _print(built: Built) -> None:
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
    told = {} if built.timing is None else {"latency": _interval(built.timing)}
    told["verification"] = summary(built.certificate)
    show.facts(told | ({"note": "\n".join(built.notes)} if built.notes else {}))
    show.line()
    click.echo(f"bundle: {built.path}")
    click.echo(f"next:   expertc predict {shlex.quote(str(built.path))} photo.jpg")


def _latency(timing: Timing) -> tuple[str, str, str, str]:
    ratio = timing.speedup.value
    change = f"{ratio:.2f} x faster" if ratio >= 1 else f"{1 / ratio:.2f} x slower"
    return ("latency", show.duration(timing.full), show.duration(timing.expert), change)


def _interval(timing: Timing) -> str:
    ratio = timing.speedup
    if ratio.low is None or ratio.high is None:
        return f"in turns within one run, {show.times(ratio.blocks)}: too few for an interval"
    return f"in turns within one run; full over expert {ratio.low:.2f} to {ratio.high:.2f} (95 %)"


def summary(certificate: Certificate) -> str:
    """A certificate in one line."""
    if certificate.verdict == "off":
        return "off"
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
        "notes": list(built.notes),
        "seconds": dict(built.seconds),
    }
