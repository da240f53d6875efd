"""``expertc calibrate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from . import data as photos
from . import options, show

REJECT_RATE = 0.05  # of own photos: what is accepted in Liu et al. (NeurIPS 2020) is the rest


@click.command(
    epilog=options.example(
        "expertc calibrate sharks.expert --data photos/ --others seaside/ --force",
        "expertc calibrate a.expert --data photos/ --others seaside/ -o b.expert",
        "expertc calibrate x.expert --data photos/ --min-accuracy 0.9 -o quick.expert",
        "expertc calibrate x.expert --data photos/ --max-ms 2 --force",
    )
)
@click.argument("bundle")
@photos.options
@click.option("--others", metavar="DIR", help="Photos of other things; own classes are left out.")
@click.option(
    "--reject-rate", type=options.number("--reject-rate 0.05"), metavar="P",
    help="With --others: share of own photos to give up (default: 0.05).",
)  # fmt: skip
@click.option(
    "--min-accuracy", type=options.number("--min-accuracy 0.9"), metavar="P",
    help="Early exits: the quickest that is right this often.",
)  # fmt: skip
@click.option(
    "--max-ms",
    type=options.number("--max-ms 5"),
    metavar="MS",
    help="Early exits: the most accurate within this mean time.",
)
@click.option(
    "--min-fine", type=options.number("--min-fine 0.9"), metavar="SHARE",
    help="With either: least share of answers that name a class.",
)  # fmt: skip
@click.option("--picture", metavar="FILE", help="With either: accuracy against latency of all settings, as a PNG file.")
@click.option("-o", "--output", metavar="DIR", help="The new bundle (default: BUNDLE itself, with --force).")
@click.option("--force", is_flag=True, help="Replace an existing bundle, and an existing PNG file.")
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, data: str, split: str, ignore_unknown: bool, others: str | None, reject_rate: float | None,
    min_accuracy: float | None, max_ms: float | None, min_fine: float | None, picture: str | None,
    output: str | None, force: bool, threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Set what the expert in BUNDLE decides by, on photos, in a new release of the bundle.

    With --others, teach it to say "none of these": a photo that scores below a threshold shows none of its classes.
    The threshold is found on photos of these classes, a share of which it gives up.

    With --min-accuracy or --max-ms, set when the early exits of a network answer, and how finely: the thresholds and
    the tolerance by which it is quickest, or most accurate. An answer is right if its class is, or its category.
    """
    from . import calibrate_exits

    _check_purpose(others, reject_rate, min_accuracy, max_ms, min_fine, picture)
    place = Path(bundle if output is None else output)
    if others is None:
        asked = calibrate_exits.Asked(min_accuracy, max_ms, min_fine, picture)
        calibrate_exits.run(bundle, data, split, ignore_unknown, asked, place, force, threads, as_json, quiet)
    else:
        rate = REJECT_RATE if reject_rate is None else reject_rate
        _reject(bundle, data, split, ignore_unknown, others, rate, place, force, threads, as_json, quiet)


def _check_purpose(
    others: str | None, reject_rate: float | None, min_accuracy: float | None, max_ms: float | None,
    min_fine: float | None, picture: str | None,
) -> None:  # fmt: skip
    """Raise ``UsageError`` unless the options belong together."""
    from ..errors import UsageError

    named = {"--others": others, "--min-accuracy": min_accuracy, "--max-ms": max_ms}
    wanted = [name for name, value in named.items() if value is not None]
    if not wanted:
        raise UsageError(
            "Nothing says what is to be calibrated.",
            "Give --others DIR to reject photos of other things, or --min-accuracy P or --max-ms MS for early exits.",
        )
    if len(wanted) > 1:
        raise UsageError(f"{' and '.join(wanted)} do not go together.", "Give one of them, and calibrate twice.")
    strangers = {"--min-fine": min_fine, "--picture": picture} if others is not None else {"--reject-rate": reject_rate}
    for name, value in strangers.items():
        if value is not None:
            raise UsageError(f"{name} does not belong to {wanted[0]}.", "Leave it out.")


def _reject(
    bundle: str, data: str, split: str, ignore_unknown: bool, others: str, reject_rate: float, output: Path,
    force: bool, threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the threshold for "none of these"."""
    from ..bundle import open_bundle, reserve
    from ..errors import BundleError
    from ..evaluate import evaluate
    from ..evaluate.calibrate import calibrate, check_rate, release
    from ..evaluate.judges import of_expert
    from ..evaluate.others import open_others, scope
    from ..runtime import Expert, open_dataset

    check_rate(reject_rate)
    opened = open_bundle(bundle)
    with reserve(output, force=force) as place:
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
