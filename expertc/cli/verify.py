"""``expertc verify``."""

from __future__ import annotations

from typing import Any

import click

from . import options, show


@click.command(epilog="Example: expertc verify sharks-rays.expert --against full.onnx --data photos/")
@click.argument("bundle")
@click.option("--against", metavar="MODEL", help="The full model (default: the bundled one).")
@click.option("--data", metavar="DIR", help="Verify on these photos instead of noise.")
@click.option("--level", default="full", show_default=True, metavar="fast|full", help="Run the kept nodes, or all.")
@options.foreign
@options.as_json
@options.everywhere
def command(
    bundle: str, against: str | None, data: str | None, level: str, labels: str | None, taxonomy: str | None,
    preprocess: str | None, outputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Check the expert in BUNDLE against its full model, step by step.

    The cut is made again from the full model; its raw scores, and the bundle's own file, must agree with it.
    """
    from ..bundle import open_bundle
    from ..compiler import verify_bundle
    from ..evaluate import sample
    from ..source import open_source

    opened = open_bundle(bundle)
    source = open_source(against, options.make_foreign(labels, taxonomy, preprocess, outputs))
    spec = source.card.preprocess
    images = sample(data, spec) if data and spec is not None else None
    certificate = verify_bundle(opened, source, level=level, images=images)
    if as_json:
        show.json_out(certificate.to_mapping())
        return
    rows = [(step.name, "passed" if step.passed else "FAILED", numbers(step.numbers)) for step in certificate.steps]
    show.table(("step", "result", "numbers"), rows)
    for step in certificate.steps:
        show.line(f"{step.name}: {step.detail}")
    show.line(f"verdict: {certificate.verdict}")


def numbers(values: Any) -> str:
    """Short ``key value`` pairs."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
