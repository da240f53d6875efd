"""``expertc evaluate``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..evaluate import Agreement, Evaluation

LISTED = 10  # photos that are named


@click.command(
    epilog=options.example(
        "expertc evaluate sharks-rays.expert --data photos/",
        "expertc evaluate sharks-rays.expert --data photos/ --against full.onnx",
    )
)
@click.argument("path", metavar="BUNDLE|MODEL", required=False)
@click.option("--data", required=True, metavar="DIR", help="Labelled photos: a folder per class, or packed.")
@click.option("--split", default="val", show_default=True, metavar="NAME", help="Which part of a packed data set.")
@click.option("--classes", metavar="LIST", help="Judge only these classes, deciding among them alone.")
@click.option("--against", metavar="MODEL", help="Also compare every decision with this model, restricted alike.")
@options.foreign
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    path: str | None, data: str, split: str, classes: str | None, against: str | None, labels: str | None,
    taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...], threads: int | None, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Measure top-1 accuracy of a bundle or a model on labelled photos, with 95 % Wilson intervals.

    Without BUNDLE|MODEL the bundled model is judged.
    """
    from ..errors import CardError
    from ..evaluate import compare, evaluate, match_classes
    from ..evaluate.judges import open_judge
    from ..runtime import open_dataset
    from ..source import BUNDLED

    foreign = options.make_foreign(labels, taxonomy, preprocess, outputs)
    images = open_dataset(data, split)
    with ExitStack() as opened:
        judge = opened.enter_context(open_judge(path, classes=classes, foreign=foreign, threads=threads))
        other = None
        if against is not None:
            restricted = open_judge(against, classes=judge.labels, foreign=foreign, threads=threads)
            other = opened.enter_context(restricted)
        spec = judge.preprocess
        if spec is None:
            raise CardError("The model does not say how images become its input.", "Give --preprocess.")
        match = match_classes(images.classes, judge.labels, judge.taxonomy)
        with options.bar("evaluating", quiet) as progress:
            found = evaluate(judge.scores, spec, judge.labels, images, match=match, progress=progress)
        agreed = None
        if other is not None:
            with options.bar("comparing", quiet) as progress:
                agreed = compare(judge.scores, other.scores, spec, images, only=match, progress=progress)
    if as_json:
        named = {"model": str(BUNDLED if path is None else path)}
        show.json_out(named | found.to_mapping() | ({} if agreed is None else {"agreement": agreed.to_mapping()}))
    else:
        _print(found, agreed)


def _print(found: Evaluation, agreed: Agreement | None) -> None:
    rows = [
        (r.label, show.count(r.images), show.count(r.hits), show.percent(r.accuracy), _interval(r.images, r.interval))
        for r in (*found.per_class, found.overall)
    ]
    show.table(("class", "photos", "right", "accuracy", "95 % interval"), rows)
    remarks = [f"left out: {reason}" for _, reason in found.unreadable[:LISTED]]  # which names the photo
    if len(found.unreadable) > LISTED:
        remarks.append(f"left out: {len(found.unreadable) - LISTED:,} more that cannot be read")
    if found.left_out:
        remarks.append(f"left out: {sum(found.left_out.values()):,} photos of {len(found.left_out)} other classes")
    if found.undecided:
        remarks.append(f"undecided: {len(found.undecided):,} photos, for which the scores are not numbers")
    if agreed is not None:
        remarks.append(
            f"agreement: {agreed.agreed:,} of {agreed.images:,} decisions; largest difference of a score "
            f"{agreed.max_abs_difference:.2g}"
        )
    for remark in ("", *remarks) if remarks else ():
        show.line(remark)


def _interval(images: int, bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %" if images else "-"
