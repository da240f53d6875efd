"""``expertc export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..runtime.images import Source
    from ..taxonomy import Taxonomy


@click.command(
    epilog=options.example(
        "expertc export run/ -o full.onnx --data photos/",
        "expertc export hlfp_small --num-classes 100 -o full.onnx",
        "expertc export hiernet_resnet20 --num-classes 100 --form fast -o fast.onnx",
        "expertc export gran_hbn --taxonomy tiny-imagenet --levels 2 -o full.onnx",
    )
)
@click.argument("network")
@click.option("-o", "--output", required=True, metavar="FILE", help="The full model to write.")
@click.option("--num-classes", type=click.IntRange(1, 10**6), metavar="K", help="Classes of a network given by name.")
@click.option("--taxonomy", metavar="NAME|FILE", help="Class tree of a network given by name, instead.")
@click.option(
    "--levels", type=click.IntRange(1, 64), metavar="N",
    help="Keep the N lowest levels of that tree: with 2 the classes and what is right above them.",
)  # fmt: skip
@click.option(
    "--form", default="", metavar="FORM",
    help="HLFP: fused or separate branches (default: fused). HierNet: slow, every classifier, or fast, the likeliest "
    "branch alone (default: slow). Early exits: nested, where a run stops at the exit that answers, or plain, the "
    "logits of all of them (default: nested).",
)  # fmt: skip
@click.option("--batch", default="1", show_default=True, metavar="1|dynamic", help="Images that a fast HierNet takes.")
@click.option(
    "--strict-coarse", is_flag=True,
    help="Early exits: answer with a category only if it is surer than the class by more than the tolerance, as "
    "Gran-HBN's authors' code does and their paper does not.",
)  # fmt: skip
@click.option("--embed-gain", is_flag=True, help="Leave out HLFP's input 'gain': every branch counts as it is.")
@click.option("--size", type=click.IntRange(32, 4096), metavar="PIXELS", help="Side of the image (default: its own).")
@click.option("--data", metavar="DIR", help="Check the export against torch on these photos instead of noise.")
@click.option("--licence", default="", metavar="TEXT", help="One line on the licence of the weights, for the card.")
@options.quietly
@options.everywhere
def command(
    network: str,
    output: str,
    num_classes: int | None,
    taxonomy: str | None,
    levels: int | None,
    form: str,
    batch: str,
    strict_coarse: bool,
    embed_gain: bool,
    size: int | None,
    data: str | None,
    licence: str,
    quiet: bool,
) -> None:
    """Export NETWORK to ONNX, with its model card.

    NETWORK is the folder that `expertc train` left, or the name of a network of the zoo, which then gets random
    weights: for timing and for trying things out.
    """
    import gc

    from ..errors import UsageError
    from ..evaluate.sampling import photos
    from ..export import export_random, export_trained
    from ..text import shown

    gc.set_threshold(2000, 10, 10)  # Python's own: torch's exporter leaves loops of references around every weight
    named = num_classes is not None or taxonomy is not None
    if named == Path(network).is_dir():
        raise UsageError(
            "A folder brings its classes along; a network of the zoo is given by name with --num-classes K.",
            "Write expertc export run/ -o full.onnx, or expertc export hlfp_small --num-classes 100 -o full.onnx.",
        )
    if levels is not None and taxonomy is None:
        raise UsageError("--levels is about a tree given with --taxonomy.", "Leave it out.")
    if batch not in ("1", "dynamic"):
        raise UsageError(f"The fast form does not take the batch {shown(batch)}.", "Use --batch 1 or --batch dynamic.")
    images_per_call = 1 if batch == "1" else None
    images: Sequence[Source] = photos(data) if data else ()
    with options.stages(quiet) as progress:
        progress("export")
        if not named:
            path = export_trained(
                Path(network), Path(output), images, weights_licence=licence, gain=not embed_gain, form=form,
                batch=images_per_call, strict_coarse=strict_coarse,
            )  # fmt: skip
        else:
            tree = _taxonomy(taxonomy, num_classes)
            tree = tree if tree is None or levels is None else tree.lowest(levels)
            classes = tree or num_classes or 0
            path = export_random(
                network, classes, Path(output), images, form=form, size=size, gain=not embed_gain,
                batch=images_per_call, strict_coarse=strict_coarse,
            )  # fmt: skip
    click.echo(f"full model: {path} ({show.size(path.stat().st_size)})")
    click.echo(f"next:       expertc classes {shlex.quote(str(path))}")


def _taxonomy(name: str | None, num_classes: int | None) -> Taxonomy | None:
    from ..errors import UsageError
    from ..taxonomy import Taxonomy

    if name is None:
        return None
    tree = Taxonomy.named(name)
    if num_classes not in (None, len(tree)):
        raise UsageError(
            f"The taxonomy has {len(tree)} classes, but --num-classes is {num_classes}.", "Leave out --num-classes."
        )
    return tree
