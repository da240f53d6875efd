"""``expertc taxonomy from-confusion``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import data as photos
from . import options, show

if TYPE_CHECKING:
    import numpy as np

    from ..hierarchy import Level

P_MIN, G_MAX = 0.0075, 50  # HierNet (paper 002), for CIFAR-100


@click.command(
    epilog=options.example(
        "expertc taxonomy from-confusion full.onnx --data photos/ -o t.yaml",
        "expertc taxonomy from-confusion --data photos/ --groups 5 -o t.yaml",
    )
)
@click.argument("path", metavar="BUNDLE|MODEL", required=False)
@photos.options
@click.option("--p-min", "p_min", type=float, multiple=True, metavar="P",
              help=f"Merge what is confused more than this (default {P_MIN:g}); once per level.")  # fmt: skip
@click.option("--g-max", "g_max", type=int, multiple=True, metavar="N",
              help=f"Classes of the largest group (default {G_MAX}); once per level.")  # fmt: skip
@click.option("--groups", type=click.IntRange(1), metavar="N", help="Find the --p-min that leaves so many groups.")
@click.option("-o", "--output", required=True, metavar="FILE", help="The taxonomy, a YAML file.")
@click.option("--picture", metavar="FILE",
              help="The matrix, ordered by group, as a PNG file (default: beside the taxonomy).")  # fmt: skip
@click.option("--no-picture", "bare", is_flag=True, help="Draw nothing.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@options.foreign
@options.threads
@options.quietly
@options.everywhere
def command(
    path: str | None, data: str, split: str, ignore_unknown: bool, p_min: tuple[float, ...], g_max: tuple[int, ...],
    groups: int | None, output: str, picture: str | None, bare: bool, force: bool, labels: str | None,
    taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...], threads: int | None, quiet: bool,
) -> None:  # fmt: skip
    """Group the classes that a model takes for each other on labelled photos, as HierNet does.

    Writes the taxonomy, and beside it a picture of the matrix. Give --p-min (rising) or --g-max (falling) several times
    for a deeper tree: each further level divides the groups of the one above. Without BUNDLE|MODEL the bundled model is
    asked.
    """
    from ..atomic import refuse_unless, save
    from ..errors import CardError
    from ..evaluate import evaluate, grouped
    from ..evaluate.confusion import MOST
    from ..evaluate.judges import open_judge
    from ..evaluate.picture import png
    from ..hierarchy import from_confusion
    from ..hierarchy.file import to_yaml
    from ..runtime import open_dataset
    from ..source import BUNDLED
    from ..taxonomy import Taxonomy
    from ..text import clean_text

    _check(p_min, g_max, groups)
    wanted = _place(output, picture, bare=bare)
    for place in (Path(output), wanted):
        if place is not None and not force:
            refuse_unless(place, None)  # before any work
    images = open_dataset(data, split)
    foreign = options.make_foreign(labels, taxonomy, preprocess, outputs)
    with open_judge(path, foreign=foreign, threads=threads) as judge:
        if judge.preprocess is None:
            raise CardError("The model does not say how images become its input.", "Give --preprocess.")
        if picture is not None:
            grouped.check_size(len(judge.labels))  # before any work
        too_many = len(judge.labels) > MOST
        wanted = None if too_many else wanted
        match = photos.match(images, judge, ignore_unknown)
        with options.bar("evaluating", quiet) as progress:
            found = evaluate(
                judge.scores, judge.preprocess, judge.labels, images, match=match, progress=progress, kind=judge.kind
            )
    matrix = grouped.confusion(found)
    levels = _levels(matrix, p_min, g_max, groups)
    known = (judge.taxonomy or Taxonomy.flat(judge.labels)).by_name
    source = Path(BUNDLED if path is None else path).name
    tree = from_confusion(matrix, [known[label] for label in judge.labels], levels, Path(output).stem)
    steps = ", ".join(f"p_min {level.p_min!r} g_max {level.g_max}" for level in levels)
    origin = f"Made by expertc taxonomy from-confusion: {source} on {Path(data).name} ({found.images} photos), {steps}."
    drawn = None if wanted is None else png(grouped.draw(matrix, tree, tree.name))
    save(Path(output), to_yaml(tree, clean_text(origin)).encode(), force=force)
    if wanted is not None and drawn is not None:
        save(wanted, drawn, force=force)
    alone = [root.name for root in tree.roots if root.is_class]
    show.table(
        ("group", "classes", "such as"),
        [(root.name, str(len(root.leaves)), ", ".join(judge.labels[at] for at in root.leaves[:4]))
         for root in tree.roots if not root.is_class],
    )  # fmt: skip
    show.line()
    show.line(f"groups: {len(tree.roots)}, of these classes on their own: {len(alone)}; {steps}")
    never = sorted(set(range(len(judge.labels))) - set(found.decided.tolist()))
    if never:
        some = ", ".join(judge.labels[at] for at in never[: photos.LISTED])
        show.line(f"never decided for, so grouped by what their own photos are taken for: {len(never)} ({some})")
    if wanted is not None:
        show.line(f"picture: {wanted}")
    elif too_many and not bare:
        show.line(f"no picture: {len(judge.labels):,} classes would make too large a one")
    if len(tree.roots) == 1:
        show.line("all classes are in one group: give a larger --p-min or a smaller --g-max")
    for remark in photos.remarks(found.unreadable, found.left_out):
        show.line(remark)


def _place(output: str, picture: str | None, *, bare: bool) -> Path | None:
    """Where the picture goes, if there is to be one: by default beside the taxonomy."""
    from ..errors import UsageError

    if bare and picture is not None:
        raise UsageError("--picture and --no-picture contradict each other.", "Give one of the two.")
    wanted = None if bare else Path(picture) if picture is not None else Path(output).with_suffix(".png")
    if wanted == Path(output):
        raise UsageError("The taxonomy and its picture would be one file.", "Name the taxonomy like groups.yaml.")
    return wanted


def _check(p_min: tuple[float, ...], g_max: tuple[int, ...], groups: int | None) -> None:
    from ..errors import UsageError

    if groups is not None and p_min:
        raise UsageError("--groups looks for --p-min itself.", "Give one of the two.")
    if groups is not None and len(g_max) > 1:
        raise UsageError("--groups makes one level.", "Give --g-max once.")
    if len(p_min) > 1 and len(g_max) > 1 and len(p_min) != len(g_max):
        raise UsageError(
            f"{len(p_min)} levels have a --p-min and {len(g_max)} a --g-max.", "Give both as often, or one only once."
        )
    if any(not 0 <= one <= 2 for one in p_min):  # the sum of two probabilities
        raise UsageError("--p-min is not a number from 0 to 2.", f"Write for example --p-min {P_MIN:g}.")
    if any(one < 2 for one in g_max):
        raise UsageError(f"Groups of at most {min(g_max)} are no groups.", "Give --g-max from 2 on.")


def _levels(matrix: np.ndarray, p_min: tuple[float, ...], g_max: tuple[int, ...], groups: int | None) -> list[Level]:
    """The levels asked for; ``UsageError`` if the first would leave every class alone."""
    from ..errors import UsageError
    from ..hierarchy import Level, agglomerate

    p_min, g_max = p_min or (P_MIN,), g_max or (G_MAX,)
    merges = agglomerate(matrix, g_max[0])
    if groups is not None:
        return [Level(merges.p_min(groups), g_max[0])]
    closest = merges.made[0].proximity if merges.made else 0.0
    if closest <= p_min[0]:
        raise UsageError(
            f"No two classes are confused more than --p-min {p_min[0]:g}: the closest reach {closest:.3g}.",
            "Give a smaller --p-min." if merges.made else "There is nothing to group.",
        )
    count = max(len(p_min), len(g_max))
    return [Level(p, g) for p, g in zip(p_min * (count // len(p_min)), g_max * (count // len(g_max)), strict=True)]
