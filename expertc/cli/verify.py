"""``expertc verify``."""

from __future__ import annotations

from collections.abc import Mapping

import click

from . import options, show


@click.command(
    epilog=options.example(
        "expertc verify sharks-rays.expert",
        "expertc verify mine.expert --against full.onnx --data photos/",
    )
)
@click.argument("bundle")
@click.option("--against", metavar="MODEL", help="The full model (default: the bundled one).")
@click.option("--data", metavar="DIR", help="Verify on these photos instead of noise.")
@click.option(
    "--level", default="full", show_default=True, metavar="fast|full", help="Run the kept nodes, or the whole model."
)
@options.foreign
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, against: str | None, data: str | None, level: str, labels: str | None, taxonomy: str | None,
    preprocess: str | None, outputs: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Check the expert in BUNDLE against its full model, step by step.

    The cut is made again from the full model; its raw scores, and the bundle's own files, must agree with it.
    """
    from ..audit import verify_bundle
    from ..bundle import open_bundle
    from ..source import open_source
    from .built import summary

    with options.stages(quiet) as progress:
        progress("read")
        opened = open_bundle(bundle)
        source = open_source(against, options.make_foreign(labels, taxonomy, preprocess, outputs))
        images = options.photos(source, data)
        progress("verify")
        certificate = verify_bundle(opened, source, level=level, images=images)
    if as_json:
        show.json_out(certificate.to_mapping())
        return
    steps = {step.name: f"{step.detail}\n{_numbers(step.numbers)}" for step in certificate.steps}
    show.facts(steps | {"verification": summary(certificate)})


def _numbers(values: Mapping[str, float]) -> str:
    """Short ``key value`` pairs."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value:,}"
        for key, value in values.items()
    )
