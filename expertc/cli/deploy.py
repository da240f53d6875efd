"""``expertc deploy``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..deploy.fleet import Fleet
    from ..deploy.host import Job


@click.command(
    epilog=options.example(
        "expertc deploy sharks-rays.expert jetson@10.0.0.5",
        "expertc deploy sharks-rays.expert cam1 cam2 --max-p90-ms 20 --service",
        "expertc deploy --fleet fleet.toml --canary 1 --stop-after 3",
    )
)
@click.argument("given", nargs=-1, metavar="BUNDLE HOST...")
@click.option("--name", metavar="NAME", help="What the expert is called on the device (default: as the bundle).")
@click.option("--fleet", metavar="FILE", help="Groups of devices, and what each gets, instead of BUNDLE and HOST.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="Only this group of the fleet.")
@click.option("--rebuild", is_flag=True, help="Cut the fleet's experts anew, though they are there.")
@click.option("--plan", is_flag=True, help="Show what would go where; connect to nothing, write nothing.")
@click.option("--at-once", type=int, metavar="N", help="Devices at a time.  [default: 4]")
@click.option("--canary", type=int, metavar="N", help="Devices of each group that go first, and must end well.")
@click.option("--stop-after", type=int, metavar="F", help="Go no further after so many failures.")
@click.option("--max-p90-ms", type=float, metavar="MS", help="Do not activate what is slower on the device.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="How long a device measures.")
@click.option("--keep", type=int, metavar="K", help="Earlier releases to keep on the device.  [default: 3]")
@click.option("--service", is_flag=True, help="Run it as a service on the device, with systemd.")
@click.option("--listen", metavar="ADDRESS", help="Where the service listens.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Of the service.  [default: 8000]")
@click.option("--python", metavar="PROGRAM", help="Python of the device, 3.10 or newer.  [default: python3]")
@click.option("--wheel", metavar="FILE", help="The wheel of expertc to install (default: made of this one).")
@click.option("--wheelhouse", metavar="DIR", help="Wheels of all it needs: the device installs without a network.")
@options.ssh
@options.as_json
@options.quietly
@options.everywhere
def command(
    given: tuple[str, ...], name: str | None, fleet: str | None, groups: tuple[str, ...], rebuild: bool, plan: bool,
    at_once: int | None, canary: int | None, stop_after: int | None, max_p90_ms: float | None, seconds: float,
    keep: int | None, service: bool, listen: str | None, port: int | None, python: str | None, wheel: str | None,
    wheelhouse: str | None, ssh_config: str | None, known_hosts: str | None, identity: str | None,
    as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Bring BUNDLE onto devices over SSH, prove it there, and make it the active release.

    Each device compiles it, checks it against the answers that the bundle carries, and measures it; what does not pass
    is not activated. Only what a device has not is sent, and a deployment that broke off goes on where it was.

    A fleet is a TOML file:

    \b
      model = "full.onnx"                      # or bundle = "..." in a group
      canary = 1
      [groups.reef]
      hosts = ["jetson@10.0.0.5", "cam2"]
      classes = "sharks, rays"
      target = "orin-nano-8gb"
      precision = "fp16"
      max_p90_ms = 20
    """
    from ..errors import UsageError
    from . import deployed

    if fleet is None:
        if groups or rebuild:
            raise UsageError("--group and --rebuild are for a fleet.", "Give one: --fleet FILE.")
        wanted, folder = _one(given, name), Path()
    else:
        if given or name is not None:
            raise UsageError("A fleet says what goes where.", "Leave out BUNDLE, HOST and --name.")
        wanted, folder = _several(Path(fleet), groups), Path(fleet).with_suffix(".bundles")
    rolling = {"at_once": at_once, "canary": canary, "stop_after": stop_after}
    every = {
        "max_p90_ms": max_p90_ms, "keep": keep, "service": service or None, "listen": listen, "port": port,
        "python": python,
    }  # fmt: skip
    wanted = wanted.changed(rolling, every)
    if plan:
        from .fleet_experts import check

        check(wanted.groups)
        deployed.plan(wanted, as_json)
        return 0
    measured = options.check_seconds(seconds, "--seconds", 0.1)
    with TemporaryDirectory(prefix="expertc-") as scratch:
        from .fleet_experts import experts

        ssh = options.make_ssh(ssh_config, known_hosts, identity)
        with options.stages(quiet or as_json) as progress:
            bundles = experts(wanted.groups, folder, rebuild=rebuild, progress=progress)
            progress("make the wheel")
            jobs = _jobs(wanted, bundles, measured, Path(scratch), *map(_path, (wheel, wheelhouse)))
        outcomes = deployed.watched(jobs, ssh, wanted, quiet or as_json)
    return deployed.tell(outcomes, as_json, quiet)


def _one(given: Sequence[str], name: str | None) -> Fleet:
    """A fleet of the devices on the command line."""
    from ..deploy.address import Address
    from ..deploy.fleet import Fleet, Group
    from ..errors import UsageError
    from ..releases import require_name

    if len(given) < 2:
        raise UsageError("Say what to deploy, and where to.", "expertc deploy BUNDLE user@host, or --fleet FILE.")
    bundle, hosts = Path(given[0]), tuple(map(Address.parse, given[1:]))
    if len(set(hosts)) < len(hosts):
        raise UsageError("A host is given twice.", "Give it once.")
    expert = require_name(name if name is not None else bundle.resolve().name.removesuffix(".expert"))
    return Fleet((Group(expert, expert, hosts, bundle),))


def _several(path: Path, groups: Sequence[str]) -> Fleet:
    """The fleet in a file, or some groups of it."""
    from ..deploy.fleet import read_fleet
    from ..errors import UsageError
    from ..text import shown

    fleet = read_fleet(path)
    known = [group.name for group in fleet.groups]
    odd = next((name for name in groups if name not in known), None)
    if odd is not None:
        raise UsageError(f"The fleet has no group {shown(odd)}.", f"It has {', '.join(known)}.")
    return replace(fleet, groups=tuple(group for group in fleet.groups if not groups or group.name in groups))


def _jobs(
    fleet: Fleet, bundles: Mapping[str, Bundle], seconds: float, scratch: Path, wheel: Path | None, house: Path | None
) -> list[Job]:
    """What every device gets, group by group."""
    from ..deploy.host import Job, Limits, Service
    from ..deploy.wheel import collect, in_house, make

    others = None if house is None else in_house(house)
    own = make(scratch) if wheel is None else wheel
    jobs = []
    for group in fleet.groups:
        how: dict[str, Any] = {
            "bundle": bundles[group.name],
            "wheels": collect(own, others, ("serve",) if group.service else ()),
            "limits": Limits(group.max_p90_ms, seconds),
            "python": group.python,
            "keep": group.keep,
            "service": Service(group.listen, group.port) if group.service else None,
            "group": group.name,
        }
        jobs += [Job(address, group.expert, **how) for address in group.hosts]
    return jobs


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
