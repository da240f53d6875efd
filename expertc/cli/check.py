"""``expertc taxonomy check``."""

from __future__ import annotations

import click

from . import options, show


@click.command(
    epilog=options.example(
        "expertc taxonomy check t.yaml --against full.onnx", "expertc taxonomy check imagenet1k --json"
    )
)
@click.argument("path", metavar="FILE|NAME")
@click.option("--against", metavar="BUNDLE|MODEL", help="Are its classes those of this model, in its order?")
@click.option("--labels", metavar="FILE", help="Are its classes these, one per line, in output order?")
@options.as_json
@options.everywhere
def command(path: str, against: str | None, labels: str | None, as_json: bool) -> None:
    """Look at a taxonomy: does it cover a model's classes, how even are its categories, how deep is it?

    FILE is a YAML file, NAME a taxonomy that comes with expertc. "Balance" is 1 where all nodes of a level have the
    same number of classes.
    """
    from ..errors import TaxonomyError, UsageError
    from ..hierarchy.check import floors, remarks, uncovered
    from ..labels import read_labels
    from ..taxonomy import Taxonomy

    if against is not None and labels is not None:
        raise UsageError("--against and --labels both say which classes there are.", "Give one of the two.")
    tree = Taxonomy.named(path)
    names: tuple[str, ...] | None = None
    if labels is not None:
        names = read_labels(labels)
    elif against is not None:
        from ..evaluate.judges import open_judge  # which a look at the file alone does not need

        with open_judge(against) as judge:
            names = judge.labels
    wrong = [] if names is None else list(uncovered(tree, names))
    levels, notes = floors(tree), list(remarks(tree))
    if as_json:
        show.json_out({
            "name": tree.name, "classes": len(tree), "depth": tree.depth,
            "levels": [floor.to_mapping() for floor in levels], "remarks": notes, "uncovered": wrong,
        })  # fmt: skip
    else:
        rows = []
        for floor in levels:
            facts = floor.to_mapping()
            numbers = (facts[key] for key in ("categories", "classes", "smallest", "median", "largest"))
            rows.append((floor.name, *(f"{number:g}" for number in numbers), f"{floor.balance:.2f}"))
        show.table((tree.name, "categories", "classes", "smallest", "median", "largest", "balance"), rows)
        show.line()
        show.line(f"{len(tree):,} classes, {tree.depth} levels")
        for note in (*notes, *wrong):
            show.line(note)
    if wrong:
        raise TaxonomyError("The taxonomy and the model's classes differ.", "Correct the taxonomy.")
