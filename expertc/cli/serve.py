"""``expertc serve``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from . import options

LARGEST_BODY = 2**30
LARGEST_IMAGE = 178_956_970  # what load_image takes at most
LONGEST = 3600.0  # seconds


@click.command(
    epilog=options.example(
        "expertc serve sharks-rays",
        "expertc serve ./sharks-rays.expert --port 9000",
        "expertc serve sharks-rays --host 0.0.0.0 --unit",
    )
)
@click.argument("expert", metavar="NAME|BUNDLE")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen there; 0.0.0.0 is everywhere.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--max-body", type=click.IntRange(1, LARGEST_BODY), metavar="BYTES", help="Of a request; default 16 MiB.")
@click.option(
    "--max-pixels", type=click.IntRange(10**6, LARGEST_IMAGE), metavar="N", help="Of an image; default 50 million."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), metavar="N", help="Requests worked on at once; default 1 to 4."
)
@click.option(
    "--timeout", type=click.FloatRange(0.1, LONGEST), metavar="SECONDS", help="For a slow client; default 20."
)
@click.option("--store", metavar="DIR", help="Where experts are deployed, if elsewhere.")
@click.option("--unit", is_flag=True, help="Print a systemd user unit that does this, and stop.")
@options.gain
@options.exits
@options.threads
@options.everywhere
@click.pass_context
def command(
    context: click.Context, expert: str, host: str, port: int, max_body: int | None, max_pixels: int | None,
    concurrency: int | None, timeout: float | None, store: str | None, unit: bool, gains: tuple[str, ...],
    threshold: str | None, tolerance: float | None, forced: int | None, threads: int | None,
) -> int:  # fmt: skip
    """Serve an expert over HTTP: one that is deployed here by NAME, or a BUNDLE.

    Speaks the Open Inference Protocol (/v2), takes photos at /predict, and has /metrics for Prometheus. Of a NAME it
    follows the active release, without dropping a request. SIGTERM and Ctrl-C let what has begun finish.
    """
    from ..errors import BundleError, UsageError
    from ..releases import Store
    from ..serve.settings import Settings

    given = {"max_body": max_body, "max_pixels": max_pixels, "concurrency": concurrency, "patience": timeout}
    settings = Settings(
        host, port, threads=threads, controls=options.make_controls(gains),
        exits=options.make_exits(threshold, tolerance, forced),
        **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
    )  # fmt: skip
    bundle = _bundle(expert)
    if unit:
        if bundle is not None:
            raise UsageError("A unit serves an expert that is deployed here.", "Give its name, not a bundle.")
        _print_unit(context, expert)
        return 0
    releases = Store(None if store is None else Path(store))
    if bundle is None and releases.current(expert) is None:
        raise BundleError(f"No expert called '{expert}' is active here.", "Deploy it, or give the path of a bundle.")
    from ..serve.server import serve

    if bundle is None:
        return serve(expert, lambda: releases.current(expert), settings)
    return serve(_called(bundle), lambda: bundle, settings)


def _bundle(given: str) -> Path | None:
    """The bundle that is meant; None for a name."""
    from ..bundle import MANIFEST

    path = Path(given)
    return path.resolve() if "/" in given or (path / MANIFEST).is_file() else None


def _called(bundle: Path) -> str:
    """What clients call it: a path segment of a URL."""
    return re.sub("[^A-Za-z0-9._-]+", "-", bundle.name.removesuffix(".expert")).strip("-.") or "expert"


def _print_unit(context: click.Context, name: str) -> None:
    """The unit, with the options that were given."""
    from ..serve.unit import unit

    words = []
    for option in context.command.params:
        value: Any = context.params.get(option.name or "")
        if context.get_parameter_source(option.name or "") is not ParameterSource.COMMANDLINE:
            continue
        if option.name in ("expert", "unit") or value is None:
            continue
        if option.name == "store":
            value = Path(value).expanduser().resolve()
        words += [f"{option.opts[0]}={each}" for each in (value if option.multiple else [value])]
    click.echo(unit(name, words), nl=False)
