"""The picture that ``expertc inspect --features`` draws: what the branches see in a photo."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import show

if TYPE_CHECKING:
    from ..evaluate.features import Features
    from ..source import Foreign

F = TypeVar("F", bound=Callable[..., Any])


def options(command: F) -> F:
    """``--features`` and what belongs to it; the command hands them on to ``asked`` and ``draw``."""
    added = (
        click.option("--features", metavar="IMAGE", help="Draw what each branch sees in a photo, as a PNG file."),
        click.option("--branches", metavar="LIST", help="Classes or categories to draw (default: the 8 likeliest)."),
        click.option("-o", "--output", metavar="FILE", help="The PNG file (default: named after IMAGE)."),
        click.option("--force", is_flag=True, help="Replace an existing PNG file."),
    )
    for option in reversed(added):
        command = option(command)
    return command


def asked(features: str | None, branches: str | None, output: str | None, force: bool) -> bool:
    """Whether a picture is wanted. Raises ``UsageError`` for options of a picture without one."""
    from ..errors import UsageError

    if features is None and (branches is not None or output is not None or force):
        raise UsageError("--branches, --output and --force belong to --features.", "Write --features photo.jpg.")
    return features is not None


def draw(
    path: str | None, foreign: Foreign, as_json: bool, *, features: str, branches: str | None, output: str | None,
    force: bool,
) -> None:  # fmt: skip
    """Write the picture and say what is in it."""
    from ..atomic import refuse_unless, save
    from ..evaluate import picture
    from ..evaluate.features import features as find
    from ..runtime import load_image
    from ..selection import resolve
    from ..source import open_source

    file = Path(f"{Path(features).stem}-features.png" if output is None else output)
    if not force:
        refuse_unless(file, None)  # before any work
    image = load_image(features)
    source = open_source(path, foreign)
    found = find(source, image, None if branches is None else resolve(source.card.taxonomy, branches))
    save(file, picture.png(picture.draw(found, Path(features).name)), force=force)
    if as_json:
        show.json_out(_mapping(found, features, file))
    else:
        _print(found, file)


def _mapping(found: Features, image: str, file: Path) -> dict[str, Any]:
    return {
        "image": image,
        "file": str(file),
        "branches": [
            {
                "name": column.name,
                "classes": list(column.indices),
                "probability": column.probability,
                "maps": [
                    {
                        "branch": one.name,
                        "classes": list(one.indices),
                        "tensor": one.tensor,
                        "shape": list(one.shape),
                        "channels": list(one.channels),
                        "min": float(heat.min()),
                        "max": float(heat.max()),
                    }
                    for one, heat in zip(column.maps, column.heats, strict=True)
                ],
            }
            for column in found.columns
        ],
        "scales": [list(found.scale(row)) for row in range(found.rows)],
    }


def _print(found: Features, file: Path) -> None:
    show.table(("branch", "probability"), [(column.name, show.percent(column.probability)) for column in found.columns])
    maps = dict.fromkeys(one for column in found.columns for one in column.maps)
    rows = [(one.name, one.tensor, f"{len(one.channels)} x {one.size[0]} x {one.size[1]}") for one in maps]
    show.line()
    show.table(("part of the network", "tensor", "channels and size"), rows, left=2)
    show.line()
    show.line(f"picture: {shlex.quote(str(file))}")
