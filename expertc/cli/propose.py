"""``expertc taxonomy propose``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..taxonomy import Taxonomy

KEY = "OPENAI_API_KEY"
BASE_URL = "https://api.openai.com/v1"


@click.command(
    epilog=options.example(
        "expertc taxonomy propose full.onnx --model gpt-4o -o t.yaml",
        "expertc taxonomy propose --model qwen3 --base-url http://gpu/v1 -o t.yaml",
    )
)
@click.argument("path", metavar="MODEL", required=False)
@click.option("--labels", metavar="FILE", help="The classes, one per line, instead of a model's.")
@click.option("--model", required=True, metavar="NAME", help="The language model to ask.")
@click.option("--base-url", default=BASE_URL, show_default=True, metavar="URL", help="An OpenAI-compatible endpoint.")
@click.option(
    "--key-env", default=KEY, show_default=True, metavar="NAME", help="The environment variable with its key."
)
@click.option("--timeout", type=float, default=300.0, show_default=True, metavar="S", help="Seconds for one answer.")
@click.option("--rounds", type=click.IntRange(1, 20), default=4, show_default=True, metavar="N",
              help="How often to ask until the answer is right.")  # fmt: skip
@click.option("-o", "--output", required=True, metavar="FILE", help="The taxonomy, a YAML file.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@options.quietly
@options.everywhere
def command(
    path: str | None, labels: str | None, model: str, base_url: str, key_env: str, timeout: float, rounds: int,
    output: str, yes: bool, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Let a language model nest the classes of MODEL in three levels, as the NHL paper does.

    Its answer is checked, and asked for again with what is wrong. What would change, against FILE or the model's own
    tree, is shown before anything is written. The names of the classes are sent to the endpoint, nothing else.
    """
    from ..atomic import refuse_unless, save
    from ..errors import UsageError
    from ..hierarchy.endpoint import Endpoint
    from ..hierarchy.file import to_yaml
    from ..hierarchy.propose import propose
    from ..labels import read_labels
    from ..source import open_source
    from ..taxonomy import Taxonomy

    if path is not None and labels is not None:
        raise UsageError("MODEL and --labels both say which classes there are.", "Give one of the two.")
    if not force:
        refuse_unless(Path(output), None)
    options.check_seconds(timeout, "--timeout", 1e-3)
    endpoint = Endpoint(base_url, model, os.environ.get(key_env, "").strip(), timeout)
    known = open_source(path).card.taxonomy if labels is None else Taxonomy.flat(read_labels(labels))
    before = Taxonomy.load(output) if Path(output).exists() else known
    with options.stages(quiet) as progress:
        tree = propose(endpoint.ask, known.leaves, Path(output).stem, rounds, progress)
    lines = list(_changes(before, tree))
    for line in lines:
        show.line(line)
    if not yes and not sys.stdin.isatty():
        raise UsageError("Nothing was written: there is no terminal to ask at.", "Give --yes.")
    if not yes and not click.confirm(f"Write {output}?", err=True):
        show.line("Nothing was written.")
        return
    origin = "Made by expertc taxonomy propose: names and groups are a language model's."
    save(Path(output), to_yaml(tree, origin).encode(), force=force)
    show.line(f"{output}: {len(tree):,} classes in {len(tree.roots):,} super-categories")


def _changes(before: Taxonomy, after: Taxonomy) -> list[str]:
    """The classes whose place changes as a unified diff, a line per class: its path."""
    from difflib import unified_diff

    old, new = (sorted("/".join(tree.path(name)) for name in tree.classes) for tree in (before, after))
    return list(unified_diff(old, new, before.name, after.name, lineterm="", n=0)) or ["(the same tree)"]
