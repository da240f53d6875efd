"""``expertc package``."""

from __future__ import annotations

import shlex

import click

from . import options, show


@click.command(
    epilog=options.example(
        "expertc package sharks-rays.expert --format triton",
        "expertc package sharks-rays.expert --format deepstream -o deepstream/",
        "expertc package sharks-rays.expert --format deepstream --objects-of 1",
    )
)
@click.argument("bundle")
@click.option("--format", "kind", required=True, metavar="triton|deepstream", help="What is to read it.")
@click.option(
    "-o", "--output", metavar="DIR",
    help="Folder to write into, in a folder of the model's name.  [default: model_repository; deepstream]",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the model (default: the bundle's).")
@click.option(
    "--max-batch", type=int, metavar="N", help="Images run together, of an expert built as dynamic.  [default: 8]"
)
@click.option("--engine", is_flag=True, help="Triton: take the plan in the bundle, for one GPU and one TensorRT.")
@click.option("--objects-of", type=int, metavar="ID", help="DeepStream: classify what this detector finds, not frames.")
@click.option("--force", is_flag=True, help="Replace an earlier package, if nobody has changed it.")
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, kind: str, output: str | None, name: str | None, max_batch: int | None, engine: bool,
    objects_of: int | None, force: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write the expert in BUNDLE for Triton or for DeepStream.

    The package runs without expertc; its README.txt says how, and what is different there.
    """
    from ..package import package

    with options.stages(quiet or as_json) as progress:
        progress("package")
        made = package(
            bundle, kind, output, name=name, max_batch=max_batch, engine=engine, objects_of=objects_of, force=force
        )
    if as_json:
        show.json_out(
            {"path": str(made.path), "format": made.format, "files": list(made.files), "notes": list(made.notes)}
        )
    elif quiet:
        click.echo(made.path)
    else:
        note = {"note": "\n".join(made.notes)} if made.notes else {}
        show.facts({"wrote": str(made.path), "files": "\n".join(made.files), **note})
        show.line()
        click.echo(f"next:   cat {shlex.quote(str(made.path / 'README.txt'))}")
