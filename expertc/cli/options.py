"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..source import Foreign

F = TypeVar("F", bound=Callable[..., Any])


def everywhere(command: F) -> F:
    """``--debug``, on every command; it is read before click parses, so that it also covers parsing."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


def as_json(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def quietly(command: F) -> F:
    """``--quiet``."""
    return click.option("-q", "--quiet", is_flag=True, help="Print results only, no progress.")(command)


def threads(command: F) -> F:
    """``--threads``."""
    return click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads (default: all cores).")(
        command
    )


def foreign(command: F) -> F:
    """The options that describe a model without a card; they arrive as one ``Foreign``."""
    options = (
        click.option("--labels", metavar="FILE", help="Class names of a model without a card, one per line."),
        click.option("--taxonomy", metavar="FILE", help="Class tree (YAML) of a model without a card."),
        click.option("--preprocess", metavar="imagenet|FILE", help="How images become input, for such a model."),
        click.option(
            "--scores", "outputs", multiple=True, metavar="NAME:AXIS", help="Which output holds the class scores."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def make_foreign(
    labels: str | None, taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...] = ()
) -> Foreign:
    """Gather ``foreign``'s options. Raises ``UsageError`` for an output that is not NAME:AXIS."""
    from ..errors import UsageError
    from ..source import Foreign
    from ..text import shown

    chosen = {}
    for item in outputs:
        name, _, axis = item.rpartition(":")
        if not name or not axis.isdigit():
            raise UsageError(f"{shown(item)} is not NAME:AXIS.", "Write for example --scores logits:1.")
        chosen[name] = int(axis)
    return Foreign(labels, taxonomy, preprocess, chosen or None)


@contextmanager
def stages(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr that names what is being done; nothing without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(f"{stage} …")
