"""``expertc taxonomy``: the group; a file per command beside it."""

from __future__ import annotations

import click

from . import options
from .lazy import Lazy

# name -> (module, one line for --help)
COMMANDS = {
    "from-confusion": ("from_confusion", "Group the classes that a model confuses."),
    "from-wordnet": ("from_wordnet", "Group classes by what WordNet calls them."),
    "propose": ("propose", "Let a language model propose groups."),
    "check": ("check", "Look at a taxonomy: coverage, balance, depth."),
}


@click.group(
    cls=Lazy,
    table=COMMANDS,
    epilog=options.example(
        "expertc taxonomy from-confusion full.onnx --data photos/ -o t.yaml", "expertc taxonomy check t.yaml"
    ),
)
@options.everywhere
def command() -> None:
    """Make a class tree, or look at one."""
