"""``expertc train``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..training import Progress


@click.command(
    epilog=options.example(
        "expertc train sea-animals --data photos/ -o run/",
        "expertc train nhl-imagenette --taxonomy pets.yaml --data photos/ -o run/",
    )
)
@click.argument("recipe")
@click.option("--data", required=True, metavar="DIR", help="Labelled photos: a folder per class, or packed.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Checkpoints and the trained weights go here.")
@click.option("--taxonomy", metavar="FILE", help="The class tree, instead of the recipe's.")
@click.option("--classes", metavar="LIST", help="Train on these classes alone.")
@click.option("--trunk", metavar="FILE", help="Safetensors of the backbone, to start from.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="torch device, such as cuda.")
@click.option("--precision", default="fp32", show_default=True, metavar="fp32|bf16", help="Autocast type.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(0, 256), metavar="N",
    help="Processes that read images.",
)  # fmt: skip
@options.quietly
@options.everywhere
def command(
    recipe: str,
    data: str,
    output: str,
    taxonomy: str | None,
    classes: str | None,
    trunk: str | None,
    device: str,
    precision: str,
    workers: int,
    quiet: bool,
) -> None:
    """Train RECIPE (a name or a TOML file). A run that was stopped goes on where it was.

    Shows loss, accuracy on the held-out part of the training photos, and the time left. Several GPUs or processes work
    on one run under `accelerate launch -m expertc train ...`; a recipe's batch is that of all of them together.
    """
    from dataclasses import replace

    import torch

    from ..errors import UsageError
    from ..runtime import open_dataset
    from ..selection import resolve
    from ..text import shown
    from ..training import is_main, load_recipe, require_known, save_trained, train

    kinds = {"fp32": None, "bf16": torch.bfloat16}
    if precision not in kinds:
        raise UsageError(f"There is no training precision {shown(precision)}.", "Use fp32 or bf16.")
    _check_device(device)
    loaded = load_recipe(recipe)
    if taxonomy is not None:
        loaded = replace(loaded, taxonomy=taxonomy)
    tree = loaded.tree()
    if taxonomy is not None:
        loaded = replace(loaded, name=tree.name)
    if classes is not None:
        tree = tree.restrict(resolve(tree, classes).indices)
    images = open_dataset(data, "train")
    if classes is None:
        require_known(images, tree)
    folder = Path(output)
    with _display(quiet or not is_main()) as report:
        trained = train(
            loaded,
            tree,
            images,
            folder,
            trunk=None if trunk is None else Path(trunk),
            workers=workers,
            device=device,
            autocast=kinds[precision],
            report=report,
        )
    if not is_main():
        return
    save_trained(folder, trained, loaded, tree)
    held = trained.facts["holdout"]
    low, high = held["wilson95"]
    show.line(
        f"held out: {held['hits']} of {held['images']} right, 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    )
    click.echo(f"next: expertc export {shlex.quote(output)} -o full.onnx")


def _check_device(name: str) -> None:
    import torch

    from ..errors import UsageError
    from ..text import clean_text, shown

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = clean_text(str(error).partition("\n")[0]).rstrip(".")
        raise UsageError(f"torch cannot use the device {shown(name)}: {reason}.", "Use --device cpu.") from error


@contextmanager
def _display(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line per epoch elsewhere."""
    if quiet:
        yield lambda progress: None
    elif not sys.stderr.isatty():
        yield _per_epoch
    else:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
        with Bar(*columns, console=show.console(stderr=True)) as bar:
            task = bar.add_task("starting", total=1.0, line="")
            best = [""]

            def update(progress: Progress) -> None:
                if progress.accuracy is not None:
                    best[0] = f", held out {100 * progress.accuracy:.1f} %"
                line = f"loss {progress.loss:.3f}{best[0]}, {_time(progress.seconds_left)} left"
                bar.update(task, description=f"{progress.stage} {progress.epoch}/{progress.epochs}", line=line,
                           completed=progress.epoch / progress.epochs)  # fmt: skip

            yield update


def _per_epoch(progress: Progress) -> None:
    if progress.accuracy is not None:
        click.echo(
            f"{progress.stage} {progress.epoch}/{progress.epochs}: loss {progress.loss:.3f}, held out "
            f"{100 * progress.accuracy:.1f} %, {_time(progress.seconds_left)} left",
            err=True,
        )


def _time(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
