"""``expertc export``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from . import options, show


@click.command(epilog=options.example("expertc export run/ -o full.onnx --data photos/"))
@click.argument("checkpoint")
@click.option("-o", "--output", required=True, metavar="FILE", help="The full model to write.")
@click.option("--data", metavar="DIR", help="Check the export against torch on these photos instead of noise.")
@click.option("--licence", default="", metavar="TEXT", help="One line on the licence of the weights, for the card.")
@options.quietly
@options.everywhere
def command(checkpoint: str, output: str, data: str | None, licence: str, quiet: bool) -> None:
    """Export the network that `expertc train` left in the folder CHECKPOINT to ONNX, with its model card."""
    from ..evaluate.sampling import photos
    from ..export import export_trained

    images = photos(data) if data else ()
    with options.stages(quiet) as progress:
        progress("export")
        path = export_trained(Path(checkpoint), Path(output), images, weights_licence=licence)
    click.echo(f"full model: {path} ({show.size(path.stat().st_size)})")
    click.echo(f"next:       expertc classes {shlex.quote(str(path))}")
