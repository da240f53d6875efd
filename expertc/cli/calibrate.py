"""``expertc calibrate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from . import data as photos
from . import options, show


@click.command(
    epilog=options.example(
        "expertc calibrate sharks.expert --data photos/ --others seaside/ --force",
        "expertc calibrate a.expert --data photos/ --others seaside/ -o b.expert",
    )
)
@click.argument("bundle")
@photos.options
@click.option("--others", required=True, metavar="DIR", help="Photos of other things; own classes are left out.")
@click.option("--reject-rate", default=0.05, show_default=True, metavar="P", help="Share of own photos to give up.")
@click.option("-o", "--output", metavar="DIR", help="The new bundle (default: BUNDLE itself, with --force).")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, data: str, split: str, ignore_unknown: bool, others: str, reject_rate: float, output: str | None,
    force: bool, threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Teach the expert in BUNDLE to say "none of these".

    A photo that scores below a threshold shows none of its classes. The threshold is found on photos of these classes,
    a share of which it gives up, and stored in a new release of the bundle.
    """
    from ..bundle import open_bundle, reserve
    from ..errors import BundleError
    from ..evaluate import evaluate
    from ..evaluate.calibrate import calibrate, check_rate, release
    from ..evaluate.judges import of_expert
    from ..evaluate.others import open_others, scope
    from ..runtime import Expert, open_dataset

    check_rate(reject_rate)
    opened = open_bundle(bundle)
    with reserve(Path(bundle if output is None else output), force=force) as place:
        images = open_dataset(data, split)
        with Expert.open(opened, threads=threads) as expert:
            judge = replace(of_expert(expert, opened), reject=None)  # an older threshold says nothing here
            if judge.preprocess is None:
                raise BundleError("The bundle does not say how images become tensors.", "Build it with preprocessing.")
            match = photos.match(images, judge, ignore_unknown)
            strangers = open_others(others, split, judge.labels, judge.taxonomy)
            with options.bar("looking at own photos", quiet) as progress:
                own = evaluate(
                    judge.scores,
                    judge.preprocess,
                    judge.labels,
                    images,
                    match=match,
                    progress=progress,
                    kind=judge.kind,
                )
            with options.bar("looking at the others", quiet) as progress:
                apart = scope(judge, own, strangers, progress)
        found = calibrate(apart.own, apart.seen.scores, judge.kind, reject_rate)
        path = release(opened, place, found)
    if as_json:
        left_out = {"left_out": dict(own.left_out), "others": apart.seen.to_mapping()}
        show.json_out({"bundle": str(path), **found.to_mapping(), **left_out})
        return
    photos.print_scope(apart)
    for remark in photos.remarks(own.unreadable, own.left_out, len(own.undecided)):
        show.line(remark)
    show.line()
    show.line(f"{path} says 'none of these' if its {found.reject.score} is below {found.reject.threshold:.6g}.")
    photos.print_caught(found.rejected, found.reject.images, found.caught, found.reject.others)
