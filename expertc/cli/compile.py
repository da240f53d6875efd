"""``expertc compile``."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..engines import Ready


@click.command(
    epilog=options.example(
        "expertc compile sharks-rays.expert",
        "expertc compile sharks-rays.expert --workspace 1024 --batch 1:4:16",
        "expertc compile sharks-rays.expert --dla-core 0 --save-engine",
    )
)
@click.argument("bundle")
@click.option("--workspace", type=int, metavar="MB", help="Memory the builder may use (default: the target's).")
@click.option("--batch", metavar="MIN:OPT:MAX", help="Images per call, of an expert built as dynamic (1:1:8).")
@click.option("--dla-core", type=int, metavar="N", help="Run it on this deep-learning accelerator.")
@click.option("--save-engine", is_flag=True, help="Also put the plan into the bundle, as engine.plan.")
@click.option("--force", is_flag=True, help="Compile again what was compiled before.")
@click.option("--strict", is_flag=True, help="Refuse what is otherwise only warned of.")
@options.as_json
@options.quietly
@options.everywhere
def command(
    bundle: str, workspace: int | None, batch: str | None, dla_core: int | None, save_engine: bool, force: bool,
    strict: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compile the expert in BUNDLE with TensorRT, on the device that it is for.

    The plan is kept in a private cache of this machine, where predict finds it; compiled once, it is found again.
    """
    from ..backends.tensorrt.options import batch_range
    from ..bundle import open_bundle, reserve
    from ..engines import compile_bundle
    from ..engines import save_engine as write

    sizes = None if batch is None else batch_range(batch)
    opened = open_bundle(bundle)
    with ExitStack() as stack:
        place = stack.enter_context(reserve(Path(bundle), force=True)) if save_engine else None
        with options.compiling(quiet or as_json) as told:
            ready = compile_bundle(
                opened, workspace_mb=workspace, batch=sizes, dla_core=dla_core, force=force, strict=strict, told=told
            )
        if place is not None:
            write(opened, place, ready)
    if as_json:
        show.json_out(_mapping(ready))
    elif quiet:
        click.echo(ready.kept.path)
    else:
        _print(ready)
        for each in (ready, *ready.later):
            click.echo(f"kept:   {each.kept.path}")
        click.echo(f"next:   expertc predict {shlex.quote(bundle)} photo.jpg")


def _print(ready: Ready) -> None:
    record, here = ready.kept.record, ready.here.identity
    parts = (ready, *ready.later)
    said = [*map(str, (finding for each in parts for finding in each.findings)), *ready.notes]
    said += dict.fromkeys(note for each in parts for note in each.kept.record["notes"])
    show.facts({
        "target": f"{ready.target.name}: {ready.target.description}",
        "here": f"{here.device} (SM {here.sm}), TensorRT {here.tensorrt}, driver {here.driver}",
        "plan": "\n".join(map(_plan, parts)),
        "options": _options(record["options"]),
        **({"note": "\n".join(said)} if said else {}),
    })  # fmt: skip
    show.line()


def _plan(ready: Ready) -> str:
    """One of them, of an expert that has a plan for each of its stages."""
    record = ready.kept.record
    made = f"{'compiled' if ready.fresh else 'found, compiled earlier'} in {record['seconds']:.0f} s"
    return f"{made}; {show.size(record['plan']['bytes'])}, {show.count(record['layers'])} layers"


def _options(given: dict[str, Any]) -> str:
    """The precision, and the options that are not as they are by default."""
    from ..backends.tensorrt.options import Options

    usual = Options().to_mapping()
    told = {key: value for key, value in given.items() if key == "precision" or value != usual.get(key)}
    return ", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in told.items())


def _text(value: Any) -> str:
    return ":".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _mapping(ready: Ready) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "target": ready.target.name,
        "plan": str(ready.kept.path),
        "fresh": ready.fresh,
        **{key: value for key, value in ready.kept.record.items() if key not in ("format", "plan", "card")},
        "findings": [asdict(finding) for finding in ready.findings],
        "notes": [*ready.notes, *ready.kept.record["notes"]],
        **({"later": [_mapping(each) for each in ready.later]} if ready.later else {}),
    }
