"""``expertc taxonomy from-wordnet``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options, show


@click.command(
    epilog=options.example(
        "expertc taxonomy from-wordnet wordnet/ --g-max 100 --g-max 20 -o t.yaml",
        "expertc taxonomy from-wordnet wordnet/ --classes-of pets.yaml -o t.yaml",
    )
)
@click.argument("folder", metavar="DIR")
@click.option("--classes-of", "classes", default="imagenet1k", show_default=True, metavar="FILE|NAME|MODEL",
              help="The classes: of a taxonomy, or of a model (.onnx) with a card.")  # fmt: skip
@click.option("--g-max", "g_max", type=int, multiple=True, metavar="N",
              help="Classes of the largest category; once per level (default: the whole tree).")  # fmt: skip
@click.option("-o", "--output", required=True, metavar="FILE", help="The taxonomy, a YAML file.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@options.everywhere
def command(folder: str, classes: str, g_max: tuple[int, ...], output: str, force: bool) -> None:
    """Group classes by their hypernyms in DIR, a WordNet database (data.noun, index.noun).

    A class is found by its synset, such as n01440764, else as a noun with only one sense. Give --g-max (falling)
    several times for several levels.
    """
    from ..atomic import refuse_unless, save
    from ..hierarchy.file import to_yaml
    from ..hierarchy.hypernyms import from_wordnet
    from ..hierarchy.wordnet import WordNet
    from ..taxonomy import Taxonomy

    if not force:
        refuse_unless(Path(output), None)
    if Path(classes).suffix == ".onnx":
        from ..source import open_source

        known = open_source(classes).card.taxonomy
    else:
        known = Taxonomy.named(classes)
    tree = from_wordnet(WordNet(folder), known.leaves, g_max, Path(output).stem)
    origin = "Made by expertc taxonomy from-wordnet; the names are WordNet's, by Princeton University."
    save(Path(output), to_yaml(tree, origin).encode(), force=force)
    categories = sum(not node.is_class for node in tree.nodes())
    show.line(f"{output}: {len(tree):,} classes in {categories:,} categories, {tree.depth} levels")
