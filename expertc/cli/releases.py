"""``expertc releases``: the group and its commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options, show

if TYPE_CHECKING:
    from ..deploy.remote import RemoteStore
    from ..releases import Release, Store

F = TypeVar("F", bound=Callable[..., Any])


def _stored(command: F) -> F:
    """Where the releases are, ``--json`` and what every command has."""
    command = options.ssh(options.as_json(options.everywhere(command)))
    over = "Of a device that something was deployed to, over SSH."
    command = click.option("--host", metavar="USER@HOST", help=over)(command)
    say = "Folder of the experts (default: ~/.local/share/expertc/experts)."
    return click.option("--store", "folder", metavar="DIR", help=say)(command)


@click.group(
    epilog=options.example(
        "expertc releases list",
        "expertc releases rollback shore-camera --host jetson@10.0.0.5",
        "expertc releases gc shore-camera --keep 1",
    )
)
@options.everywhere
def command() -> None:
    """Look at the experts that were deployed to this machine, or to --host, or switch between their releases.

    An expert has one active release, which 'expertc serve' follows; others are kept, to go back to.
    """


@command.command(
    "list",
    short_help="List releases, the active one first.",
    epilog=options.example("expertc releases list", "expertc releases list shore-camera --json"),
)
@click.argument("name", required=False)
@_stored
def listed(name: str | None, as_json: bool, **where: str | None) -> None:
    """List the releases of all experts, or of NAME: the active one first, then what was active before it."""
    _print(_store(**where).every(name), as_json, "There is no release here.")


@command.command(
    short_help="Make a release the active one.",
    epilog=options.example("expertc releases activate shore-camera 0123456789abcdef"),
)
@click.argument("name")
@click.argument("release")
@click.option("--force", is_flag=True, help="Even one that did not pass its checks here.")
@_stored
def activate(name: str, release: str, force: bool, as_json: bool, **where: str | None) -> None:
    """Make RELEASE of NAME the active one. The first digits of its ID will do."""
    from ..errors import UsageError
    from ..releases import Store

    store = _store(**where)
    release = _whole_id(store, name, release)
    if not isinstance(store, Store):
        if force:
            raise UsageError("--force is for the device itself.", "Deploy the release again, or log in there.")
        _print([store.activate(name, release)], as_json)
        return
    _print([store.activate(name, release, force=force)], as_json)


@command.command(
    short_help="Go back to what was active before.", epilog=options.example("expertc releases rollback shore-camera")
)
@click.argument("name")
@_stored
def rollback(name: str, as_json: bool, **where: str | None) -> None:
    """Make active what was active before, of NAME: the last release that is whole and passed its checks."""
    _print([_store(**where).rollback(name)], as_json)


@command.command(
    short_help="Remove a release, or an expert with --all.",
    epilog=options.example("expertc releases remove shore-camera 0123456789abcdef"),
)
@click.argument("name")
@click.argument("release", required=False)
@click.option("--all", "everything", is_flag=True, help="The expert itself, with all its releases.")
@_stored
def remove(name: str, release: str | None, everything: bool, as_json: bool, **where: str | None) -> None:
    """Remove RELEASE of NAME, if it is not active; or with --all everything of NAME, its service too."""
    from ..deploy.service import forget
    from ..errors import UsageError
    from ..releases import Store

    if (release is None) != everything:
        raise UsageError("It is not clear what to remove.", "Give the ID of a release, or --all.")
    store = _store(**where)
    if release is not None:
        release = _whole_id(store, name, release)
    elif isinstance(store, Store) and where["folder"] is None:
        forget(name)  # another folder's expert has no unit of ours
    _print(store.remove(name, release), as_json, "It had no releases.")


@command.command(
    short_help="Remove old releases.",
    epilog=options.example("expertc releases gc shore-camera --keep 1"),
)
@click.argument("name")
@click.option("--keep", type=click.IntRange(0, 1000), metavar="N", help="How many to keep beside the active one (3).")
@_stored
def gc(name: str, keep: int | None, as_json: bool, **where: str | None) -> None:
    """Remove old releases of NAME, but not the active one and those that were active last; list what was removed."""
    from ..releases import KEEP

    _print(_store(**where).gc(name, KEEP if keep is None else keep), as_json, "There was nothing to remove.")


def _store(folder: str | None, host: str | None, **ssh: str | None) -> Store | RemoteStore:
    """The releases that are meant: of this machine, or of another."""
    from ..errors import UsageError
    from ..releases import Store

    if host is None:
        return Store(None if folder is None else Path(folder))
    from ..deploy.address import Address
    from ..deploy.remote import RemoteStore

    if folder is not None:
        raise UsageError("--store is a folder of this machine.", "Leave it out, or --host.")
    return RemoteStore(Address.parse(host), options.make_ssh(ssh["ssh_config"], ssh["known_hosts"], ssh["identity"]))


def _whole_id(store: Store | RemoteStore, name: str, start: str) -> str:
    """The ID that begins like this, as tables show it; ``UsageError`` if that could be several."""
    from ..errors import UsageError
    from ..releases import DIGITS

    if len(start) >= DIGITS or not start:
        return start
    found = [release.id for release in store.every(name) if release.id.startswith(start)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} releases of {name} begin with {start}.", "Give more digits of its ID.")
    return found[0] if found else start


def _print(releases: Sequence[Release], as_json: bool, otherwise: str = "") -> None:
    if as_json:
        show.json_out([release.to_mapping() for release in releases])
    elif releases:
        show.table(("expert", "release", "state", "installed", "p90"), [_row(each) for each in releases], left=4)
    else:
        show.line(otherwise)


def _row(release: Release) -> tuple[str, ...]:
    from ..releases import INSTALLED

    bench = release.facts.get("bench")
    p90 = bench.get("p90_ms") if isinstance(bench, dict) else None
    state = "active" if release.active else "accepted" if release.accepted else "not accepted"
    state = "active, not accepted" if release.active and not release.accepted else state
    installed = str(release.facts.get(INSTALLED, "-"))[:16].replace("T", " ")
    return release.name, release.id, state, installed, "-" if p90 is None else f"{p90:.3g} ms"
