"""``expertc predict``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..runtime import Prediction

BAR_FROM = 20  # images


@click.command(
    epilog=options.example(
        "expertc predict sharks-rays.expert photo.jpg",
        "expertc predict sharks-rays.expert holiday-photos/ --json",
        "expertc predict sharks-rays.expert photo.jpg --gain sharks=1.8",
        "expertc predict sharks-rays.expert photo.jpg --strict",
        "expertc predict vehicles.expert photo.jpg --explain",
        "expertc predict exits.expert photo.jpg --threshold 0.5,0.3 --tolerance 0.2",
    )
)
@click.argument("bundle")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), metavar="N", help="Labels per image.")
@click.option("--explain", is_flag=True, help="Of a HierNet: how likely the router of each step found it.")
@click.option("--strict", is_flag=True, help="Refuse to run anywhere but on the device the bundle is for.")
@click.option("--trust-plan", is_flag=True, help="Open the bundle's own engine.plan: native code of its maker.")
@options.gain
@options.exits
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, images: tuple[str, ...], top: int, explain: bool, strict: bool, trust_plan: bool,
    gains: tuple[str, ...], threshold: str | None, tolerance: float | None, forced: int | None, threads: int | None,
    as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Classify images, or all images in folders, with the expert in BUNDLE.

    An image that cannot be read is reported by name while the others go on; the exit code is then 10. A network with
    early exits decides for each image by itself, unless it was built for several per call: then once for all of them;
    a last call that is not full is filled up with its own images, in turns.
    """
    from ..errors import ExitCode
    from ..runtime import Expert, expand_images

    controls: dict[str, Any] = dict(options.make_controls(gains))
    chosen = options.make_exits(threshold, tolerance, forced)
    files = expand_images(images)
    failed = False
    collected = []
    with options.compiling(quiet) as told:  # a bundle for TensorRT, the first time on its device
        opened = Expert.open(bundle, threads=threads, strict=strict, trust_plan=trust_plan, told=told)
    for notice in opened.notices:
        show.line(notice, error=True)
    with (
        opened as expert,
        options.bar("classifying", quiet or len(files) < BAR_FROM) as bar,
    ):
        controls |= expert.set_exits(chosen)
        for done, prediction in enumerate(expert.iter_predict(files, top, controls=controls, explain=explain), 1):
            failed |= prediction.error is not None
            if as_json:
                collected.append(prediction.to_mapping())
            else:
                _print(prediction)
            bar(done, len(files))
    if as_json:
        show.json_out(collected)
    return int(ExitCode.DATA) if failed else 0


def _print(prediction: Prediction) -> None:
    if prediction.error is not None:
        show.line(f"{prediction.image}: {prediction.error}", error=True)
        return
    if prediction.paths:
        _print_paths(prediction)
        return
    if prediction.none_of_these:
        answers = ["none of these"]
    elif prediction.raw:
        answers = [f"{label} (raw score {value:.4f})" for label, value in prediction.labels]
    else:
        answers = [f"{label} {100 * value:.1f} %" for label, value in prediction.labels]
    if prediction.exit is not None:
        answers[-1] += f" ({prediction.granularity}, exit {prediction.exit})"
    show.line(f"{prediction.image}: {', '.join(answers)}")


def _print_paths(prediction: Prediction) -> None:
    """A table: each class, how likely it is among the expert's, and what the routers said on the way to it."""
    show.line(f"{prediction.image}:{' none of these; nearest' if prediction.none_of_these else ''}")
    rows = []
    for (label, value), path in zip(prediction.labels, prediction.paths, strict=True):
        steps = " > ".join(f"{name} {show.percent(chance)}" for name, chance in path)
        rows.append((label, steps, f"{value:.4f}" if prediction.raw else show.percent(value)))
    show.table(("class", "by way of", "score" if prediction.raw else "likely"), rows, left=2)
    show.line()
