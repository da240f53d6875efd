"""``expertc build``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..compiler import Built


@click.command(epilog="Example: expertc build --classes sharks,rays")
@click.argument("model", required=False)
@click.option(
    "--classes", required=True, metavar="LIST", help="Classes to keep: names, categories, paths, -exclusions."
)
@click.option("-o", "--output", metavar="DIR", help="Bundle directory (default: named after the classes).")
@click.option("--target", default="cpu", show_default=True, help="Device profile; see expertc targets.")
@click.option("--batch", default="1", show_default=True, metavar="N|dynamic", help="Images per call.")
@click.option("--verify", "level", default="fast", show_default=True, metavar="fast|full|off", help="How to verify.")
@click.option("--data", metavar="DIR", help="Verify on these photos instead of noise.")
@click.option("--measure", default=0.6, show_default=True, metavar="SECONDS", help="Latency window; 0 for none.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@options.foreign
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    model: str | None, classes: str, output: str | None, target: str, batch: str, level: str, data: str | None,
    measure: float, force: bool, labels: str | None, taxonomy: str | None, preprocess: str | None,
    outputs: tuple[str, ...], threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Cut MODEL down to the classes of LIST, verify the expert and write its bundle.

    Without MODEL the bundled one is used: 23 sea animals.
    """
    from ..compiler import build

    foreign = options.make_foreign(labels, taxonomy, preprocess, outputs)
    images = _images(model, foreign, data) if data else None
    with options.stages(quiet) as progress:
        built = build(
            model, classes=classes, output=output, target=target, verification=level, images=images,
            batch=_batch(batch), foreign=foreign, force=force, threads=threads, measure_seconds=measure,
            progress=progress,
        )  # fmt: skip
    if as_json:
        show.json_out(_mapping(built))
    elif quiet:
        show.line(str(built.path))
    else:
        _print(built)


def _batch(value: str) -> int | None:
    from ..errors import UsageError
    from ..text import shown

    if value == "dynamic":
        return None
    if not value.isdigit() or not 1 <= int(value) <= 4096:
        raise UsageError(f"The batch {shown(value)} is neither a number from 1 on nor 'dynamic'.", "Use --batch 1.")
    return int(value)


def _images(model: str | None, foreign: Any, data: str) -> Any:
    """Preprocessed photos ``[N, 3, H, W]`` of a data set or a folder, at most 256, spread evenly."""
    from ..errors import CardError
    from ..evaluate import sample
    from ..source import open_source

    spec = open_source(model, foreign).card.preprocess
    if spec is None:
        raise CardError("The model does not say how images become its input.", "Give --preprocess.")
    return sample(data, spec)


def _print(built: Built) -> None:
    full, expert = built.full, built.expert
    change = show.share(expert.cost.macs, full.cost.macs)
    rows = [
        ("classes", show.count(full.classes), show.count(expert.classes), ""),
        ("branches", show.count(full.branches), show.count(expert.branches), ""),
        ("parameters", show.count(full.cost.parameters), show.count(expert.cost.parameters),
         show.share(expert.cost.parameters, full.cost.parameters)),
        ("MACs", show.count(full.cost.macs), show.count(expert.cost.macs), change),
        ("file", show.size(full.file_bytes), show.size(expert.file_bytes),
         show.share(expert.file_bytes, full.file_bytes)),
    ]  # fmt: skip
    if built.speedup is not None:
        ratio = built.speedup
        spread = "" if ratio.low is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
        rows.append(("latency", f"{ratio.value:.2f} x", "1 x", spread))
    show.table(("", "full model", "expert", "change"), rows)
    if built.speedup is not None:
        show.line("latency: time of the full model over time of the expert, in turns in one run; 95 % interval.")
    show.line(f"verification: {summary(built.certificate)}")
    for note in built.notes:
        show.line(f"note: {note}")
    show.line()
    show.line(f"bundle: {built.path} ({sum(built.seconds.values()):.1f} s)")
    show.line(f"next:   expertc predict {built.path} photo.jpg")


def summary(certificate: Any) -> str:
    """A certificate in one line."""
    if certificate.verdict == "off":
        return "off"
    inputs = certificate.inputs
    shown = {"verified": "passed", "uninformative": "UNINFORMATIVE (the scores do not vary)"}
    steps = sum(step.passed for step in certificate.steps)
    what = "photos" if inputs["kind"] == "images" else "noise images"
    verdict = shown.get(certificate.verdict, certificate.verdict)
    return f"{verdict}, {steps} of {len(certificate.steps)} steps on {inputs['count']} {what} ({certificate.level})"


def _mapping(built: Built) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "bundle": str(built.path),
        "classes": list(built.selection.classes),
        "full": asdict(built.full),
        "expert": asdict(built.expert),
        "verification": built.certificate.to_mapping(),
        "full_time_over_expert_time": None if built.speedup is None else asdict(built.speedup),
        "notes": list(built.notes),
        "seconds": dict(built.seconds),
    }
