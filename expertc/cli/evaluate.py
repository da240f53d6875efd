"""``expertc evaluate``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import data as photos
from . import options, show
from .confusion import print_confusion

if TYPE_CHECKING:
    from ..evaluate import Agreement, Evaluation
    from ..evaluate.confidence import Coverage
    from ..evaluate.given import Given


@click.command(
    epilog=options.example(
        "expertc evaluate sharks-rays.expert --data photos/",
        "expertc evaluate sharks-rays.expert --data photos/ --against full.onnx",
        "expertc evaluate sharks-rays.expert --data photos/ --others sea/ --report r",
    )
)
@click.argument("path", metavar="BUNDLE|MODEL", required=False)
@photos.options
@click.option("--classes", metavar="LIST", help="Judge only these classes, deciding among them alone.")
@click.option("--against", metavar="MODEL", help="Also compare every decision with this model, restricted alike.")
@click.option("--reject", type=float, metavar="P", help="Also judge only decisions with at least this probability.")
@click.option("--others", metavar="DIR", help="Photos of other things: how well are they told apart?")
@click.option("--report", metavar="DIR", help="Also write report.json, report.md and report.html there.")
@click.option("--picture", metavar="FILE", help="Draw what is taken for what (the confusion matrix) as a PNG file.")
@click.option("--force", is_flag=True, help="Replace an existing PNG file.")
@options.exits
@options.foreign
@options.threads
@options.as_json
@options.quietly
@options.everywhere
def command(
    path: str | None, data: str, split: str, ignore_unknown: bool, classes: str | None, against: str | None,
    reject: float | None, others: str | None, report: str | None, picture: str | None, force: bool,
    threshold: str | None, tolerance: float | None, forced: int | None, labels: str | None, taxonomy: str | None,
    preprocess: str | None, outputs: tuple[str, ...], threads: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure a bundle or a model on labelled photos: accuracy per class with 95 % Wilson intervals, calibration.

    Without BUNDLE|MODEL the bundled model is judged. A report, or what --json prints, can be shown beside latencies:
    expertc bench --accuracy.
    """
    from ..atomic import refuse_unless, save
    from ..errors import CardError
    from ..evaluate import EvaluationReport, compare, confusion, environment, evaluate
    from ..evaluate.given import Given, Listener
    from ..evaluate.judges import open_judge
    from ..evaluate.others import open_others, scope
    from ..evaluate.picture import png
    from ..evaluate.report import FOLDER
    from ..pages import to_json
    from ..runtime import open_dataset
    from ..source import BUNDLED

    _check(reject, picture, force)
    if picture is not None and not force:
        refuse_unless(Path(picture), None)  # before any work
    if report is not None:
        FOLDER.refuse_place(Path(report))
    chosen = options.make_exits(threshold, tolerance, forced)
    foreign = options.make_foreign(labels, taxonomy, preprocess, outputs)
    images = open_dataset(data, split)
    with ExitStack() as opened:
        judge = opened.enter_context(open_judge(path, classes=classes, foreign=foreign, threads=threads, chosen=chosen))
        other = None
        if against is not None:
            restricted = open_judge(against, classes=judge.labels, foreign=foreign, threads=threads)
            other = opened.enter_context(restricted)
        for notice in (*judge.notices, *(() if other is None else other.notices)):
            show.line(notice, error=True)
        spec = judge.preprocess
        if spec is None:
            raise CardError("The model does not say how images become its input.", "Give --preprocess.")
        match = photos.match(images, judge, ignore_unknown)
        strangers = None if others is None else open_others(others, split, judge.labels, judge.taxonomy)
        listener = None if judge.answered is None else Listener(judge.answered)
        with options.bar("evaluating", quiet) as progress:
            found = evaluate(
                listener or judge.scores, spec, judge.labels, images, match=match, progress=progress, kind=judge.kind
            )
        given = None
        if listener is not None and judge.exits is not None:
            given = Given.of(listener.heard, found.truth, judge.exits)
        covered = None if reject is None else found.covered(reject)
        agreed = None
        if other is not None:
            with options.bar("comparing", quiet) as progress:
                agreed = compare(judge.scores, other.scores, spec, images, only=match, progress=progress)
        apart = None
        if strangers is not None:
            with options.bar("looking at the others", quiet) as progress:
                apart = scope(judge, found, strangers, progress)
    if picture is not None:
        save(Path(picture), png(confusion.draw(found, Path(data).name)), force=force)
    name = str(BUNDLED if path is None else path)
    told = EvaluationReport(
        name, judge.sha256, data, split, spec.to_mapping(), found, environment(), covered, agreed, apart, given
    )
    if report is not None:
        told.write(Path(report))
    if as_json:
        click.echo(to_json(told.to_mapping()), nl=False)
    else:
        _print(found, covered, agreed, given)
        if apart is not None:
            show.line()
            photos.print_scope(apart)
        for what, place in (("picture", picture), ("report", report)):
            if place is not None:
                show.line(f"{what}: {place}")


def _check(reject: float | None, picture: str | None, force: bool) -> None:
    from ..errors import UsageError

    if reject is not None and not 0 <= reject <= 1:  # which NaN is not
        raise UsageError(f"--reject {reject:g} is not a probability.", "Write for example --reject 0.8.")
    if force and picture is None:
        raise UsageError("--force belongs to --picture.", "Write --picture confusion.png.")


def _print(found: Evaluation, covered: Coverage | None, agreed: Agreement | None, given: Given | None) -> None:
    rows = [
        (r.label, show.count(r.images), show.count(r.hits), show.percent(r.accuracy), photos.interval(r.hits, r.images))
        for r in (*found.per_class, found.overall)
    ]
    if (top5 := found.top5) is not None:
        share = show.percent(top5.accuracy), photos.interval(top5.hits, top5.images)
        rows.append(("all, among the best 5", show.count(top5.images), show.count(top5.hits), *share))
    show.table(("class", "photos", "right", "accuracy", "95 % interval"), rows)
    print_confusion(found)
    remarks = []
    if given is not None:
        by_exit = ", ".join(f"{n}: {show.percent(count / given.images)}" for n, count in enumerate(given.exits, 1))
        remarks += [
            f"answers as given: {show.percent(given.accuracy)} right ({photos.interval(given.hits, given.images)}), "
            f"{show.percent(given.fine_share)} name a class",
            f"answered by exit {by_exit}",
        ]
    if found.calibration_error is not None:
        remarks.append(f"calibration error: {show.percent(found.calibration_error)} (expected; 15 bins)")
    if covered is not None:
        share = show.percent(covered.accuracy), photos.interval(covered.hits, covered.covered)
        remarks += [
            f"with at least {covered.reject:g}: {covered.covered:,} of {covered.images:,} photos, "
            f"{show.percent(covered.coverage)}",
            "of these right: {} ({})".format(*share),
        ]
    remarks += photos.remarks(found.unreadable, found.left_out, len(found.undecided))
    if agreed is not None:
        remarks.append(
            f"agreement: {agreed.agreed:,} of {agreed.images:,} decisions; largest difference of a score "
            f"{agreed.max_abs_difference:.2g}"
        )
    for remark in ("", *remarks) if remarks else ():
        show.line(remark)
