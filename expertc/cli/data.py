"""Labelled photos on the command line: which of them are of a model's classes, and what is said of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import show

if TYPE_CHECKING:
    from ..evaluate.judges import Judge
    from ..evaluate.others import Scope
    from ..runtime import LabelledImages

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 10  # photos and classes that are named


def options(command: F) -> F:
    """``--data``, ``--split`` and ``--ignore-unknown``."""
    added = (
        click.option("--data", required=True, metavar="DIR", help="Labelled photos: a folder per class, or packed."),
        click.option("--split", default="val", show_default=True, metavar="NAME", help="Which part of a data set."),
        click.option("--ignore-unknown", is_flag=True, help="Leave out photos in folders that name no class."),
    )
    for option in reversed(added):
        command = option(command)
    return command


def match(images: LabelledImages, judge: Judge, ignore_unknown: bool) -> dict[str, int]:
    """Which classes of the photos are which of the judge's, those that are none left out.

    Raises ``DataError`` for photos of what the full model does not know either, unless it is told to ignore them: a
    folder may be misspelt.
    """
    from ..errors import DataError
    from ..evaluate import match_classes
    from ..text import shown

    found = match_classes(images.classes, judge.labels, judge.taxonomy)
    there = {images.classes[images.label(index)] for index in range(len(images))}
    known = match_classes(there, judge.taxonomy.classes, judge.taxonomy) if judge.taxonomy else found
    unknown = [name for name in images.classes if name in there - known.keys()]
    if unknown and found and not ignore_unknown:  # of no known class at all: evaluate() says it
        more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
        raise DataError(
            f"There are photos of {', '.join(map(shown, unknown[:LISTED]))}{more}, which the model does not know.",
            "Name the folders like its classes, or leave these photos out with --ignore-unknown.",
        )
    return found


def left_out(images: LabelledImages, match: Mapping[str, int]) -> dict[str, int]:
    """How many photos there are of each class that ``match`` does not have."""
    count = Counter(images.classes[images.label(index)] for index in range(len(images)))
    return {name: count[name] for name in images.classes if name in count and name not in match}


def remarks(
    unreadable: Sequence[tuple[str, str]], left_out: Mapping[str, int] | None = None, undecided: int = 0
) -> Iterator[str]:
    """A line for each photo that counts nowhere, up to ``LISTED``, and for all that were of other classes."""
    yield from (f"left out: {reason}" for _, reason in unreadable[:LISTED])  # which names the photo
    if len(unreadable) > LISTED:
        yield f"left out: {len(unreadable) - LISTED:,} more that cannot be read"
    if left_out:
        yield f"left out: {sum(left_out.values()):,} photos of {len(left_out)} other classes"
    if undecided:
        yield f"undecided: {undecided:,} photos, for which the scores are not numbers"


def print_scope(scope: Scope) -> None:
    """Print how well each score tells own photos from others, and what the bundle's threshold makes of them."""
    seen, rows = scope.seen, [(one.score, f"{one.auroc:.3f}", show.percent(one.fpr95)) for one in scope.separations]
    show.table(("score", "AUROC", "others let in with 95 % of own"), rows)
    show.line()
    if scope.kind != "logits":
        show.line("The model gives probabilities, not logits: the largest one is all there is to judge by.")
    if scope.reject is not None:
        print_caught(scope.rejected, len(scope.own), scope.caught, len(seen.scores))
    if seen.own:
        show.line(f"left out of the others: {seen.own:,} photos of the model's own classes")
    for remark in remarks(seen.unreadable, undecided=seen.undecided):
        show.line(remark)


def print_caught(rejected: int, own: int, caught: int, others: int) -> None:
    """Print how many photos of either kind are none of the classes, with Wilson 95 % intervals."""
    show.line(f"none of these: {show.percent(caught / others)} of {others:,} others ({interval(caught, others)})")
    show.line(f"and of {own:,} own photos {show.percent(rejected / own)} ({interval(rejected, own)})")


def interval(hits: int, images: int) -> str:
    """The Wilson 95 % interval of a share, for people."""
    from ..intervals import wilson

    low, high = wilson(hits, images)
    return f"{100 * low:.1f} to {100 * high:.1f} %" if images else "-"
