"""``expertc predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..runtime import Prediction

PROGRESS_FROM = 20  # images


@click.command(epilog="Example: expertc predict sharks-rays.expert photo.jpg holiday-photos/")
@click.argument("bundle")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Labels per image.")
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(bundle: str, images: tuple[str, ...], top: int, threads: int | None, as_json: bool, quiet: bool) -> int:
    """Classify images, or all images in folders, with the expert in BUNDLE.

    An image that cannot be read is reported by name while the others go on; the exit code is then 10.
    """
    from ..errors import ExitCode
    from ..runtime import Expert, expand_images

    with Expert.open(bundle, threads=threads) as expert:
        files = expand_images(images)
        shown = not quiet and len(files) >= PROGRESS_FROM
        found = (
            _with_progress(expert.iter_predict(files, top), len(files)) if shown else expert.iter_predict(files, top)
        )
        failed = False
        collected = []
        for prediction in found:
            failed |= prediction.error is not None
            if as_json:
                collected.append(prediction.to_mapping())
            else:
                _print(prediction)
        if as_json:
            show.json_out(collected)
    return int(ExitCode.DATA) if failed else 0


def _print(prediction: Prediction) -> None:
    from ..text import clean_text

    name = clean_text(prediction.image)
    if prediction.error is not None:
        click.echo(f"{name}: {clean_text(prediction.error)}", err=True)
        return
    if prediction.raw:
        answers = [f"{clean_text(label)} (raw score {value:.4f})" for label, value in prediction.labels]
    else:
        answers = [f"{clean_text(label)} {100 * value:.1f} %" for label, value in prediction.labels]
    click.echo(f"{name}: {', '.join(answers)}")


def _with_progress(predictions: Iterable[Prediction], total: int) -> Iterator[Prediction]:
    if not sys.stderr.isatty():
        yield from predictions
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(predictions, "classifying", total, console=Console(stderr=True), transient=True)
