"""The fleet in a TOML file: groups of devices, and what each group gets.

::

    model = "full.onnx"            # of all groups; by default the bundled one
    at_once = 4                    # devices at a time
    canary = 1                     # devices of each group that go first
    stop_after = 3                 # failures

    [groups.reef]
    hosts = ["jetson@10.0.0.5", "cam2"]
    classes = "sharks, rays"       # as --classes takes them; or bundle = "reef.expert", built already
    target = "orin-nano-8gb"
    precision = "fp16"
    max_p90_ms = 20

Paths are relative to the file. Every key of a group but ``hosts`` may stand at the top as well, for all of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..releases import KEEP, require_name
from ..text import read_text, shown
from .address import Address, can_listen

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

AT_ONCE, CANARY = 4, 0
"""Devices at a time, and those that go first, where nobody says otherwise."""

_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LONGEST_MS = 1e9
_PYTHON = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./+-]{0,199}")

_FLEET: dict[str, type | tuple[type, ...]] = {"at_once": int, "canary": int, "stop_after": int, "groups": dict}
_SHARED: dict[str, type | tuple[type, ...]] = {
    "model": str, "target": str, "precision": str, "calib": str, "data": str, "verify": str, "max_p90_ms": (int, float),
    "python": str, "keep": int, "port": int, "listen": str, "service": bool,
}  # fmt: skip
_OWN: dict[str, type | tuple[type, ...]] = {"hosts": list, "name": str, "classes": (str, list), "bundle": str}


@dataclass(frozen=True)
class Group:
    """Devices that get the same expert: the ``bundle``, or one that is cut out of ``model`` for ``classes``."""

    name: str
    expert: str
    hosts: tuple[Address, ...]
    bundle: Path | None = None
    classes: str | None = None
    model: Path | None = None
    target: str | None = None
    precision: str = "fp32"
    calib: Path | None = None
    data: Path | None = None
    verify: str = "fast"
    max_p90_ms: float | None = None
    python: str = "python3"
    keep: int = KEEP
    service: bool = False
    listen: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True)
class Fleet:
    """All groups, and how the rollout goes: ``stop_after`` failures, None for never."""

    groups: tuple[Group, ...]
    at_once: int = AT_ONCE
    canary: int = CANARY
    stop_after: int | None = None

    def changed(self, rolling: Mapping[str, Any], every: Mapping[str, Any]) -> Fleet:
        """With other settings of the rollout, and of every group; None changes nothing. ``UsageError`` as read."""
        own = {key: value for key, value in every.items() if value is not None}
        _check_values(own, "The command line")
        groups = tuple(replace(group, **own) for group in self.groups)
        _check_ports(groups)
        rolling = {key: value for key, value in rolling.items() if value is not None}
        return replace(self, groups=groups, **_rolling(rolling))


def read_fleet(path: Path) -> Fleet:
    """Read a fleet. Raises ``UsageError``, naming the place, for anything that is not as it should be."""
    text = read_text(path, "The fleet", UsageError)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The fleet {shown(path)} is not TOML ({error}).", "See 'expertc deploy --help'.") from error
    where = f"The fleet {shown(path)}"
    _check(data, {**_FLEET, **_SHARED}, where)
    groups = data.get("groups", {})
    if not groups:
        raise UsageError(f"{where} has no groups.", 'Write [groups.NAME] and hosts = ["user@host"].')
    shared = {key: value for key, value in data.items() if key in _SHARED}
    found = tuple(_group(name, about, shared, path.parent, where) for name, about in groups.items())
    every = [(address, group.expert) for group in found for address in group.hosts]
    twice = next(
        (address for number, (address, expert) in enumerate(every) if (address, expert) in every[:number]), None
    )
    if twice is not None:
        raise UsageError(f"{where} names {twice.given} twice for the same expert.", "Name it once.")
    _check_ports(found)
    return Fleet(found, **_rolling(data))


def _check_ports(groups: Sequence[Group]) -> None:
    """Refuse two services that would listen in one place."""
    taken: dict[tuple[Address, int], str] = {}
    for address, group in [(address, each) for each in groups if each.service for address in each.hosts]:
        other = taken.setdefault((address, group.port), group.name)
        if other != group.name:
            raise UsageError(
                f"The groups {other} and {group.name} would both serve on port {group.port} of {address.given}.",
                "Give one of them another port.",
            )


def _rolling(given: Mapping[str, Any]) -> dict[str, int]:
    """What of ``given`` says how a rollout goes."""
    least = {"at_once": 1, "canary": 0, "stop_after": 1}
    return {key: _count(given[key], key, few) for key, few in least.items() if key in given}


def _count(value: int, what: str, least: int) -> int:
    if value < least:
        raise UsageError(f"{what} is {value}.", f"Take {least} or more.")
    return value


def _check_values(given: Mapping[str, Any], where: str) -> None:
    """Refuse settings of a group that mean nothing, or would mean something else to another program."""
    if "keep" in given:
        _count(given["keep"], "keep", 0)
    if not 0 < given.get("max_p90_ms", 1) < _LONGEST_MS:
        raise UsageError(f"{where} has a limit of {given['max_p90_ms']} ms.", "Take a positive number.")
    if not 1024 <= given.get("port", 8000) < 2**16:
        raise UsageError(f"{given['port']} is not a port for a user's service.", "Take one of 1024 to 65535.")
    if not _PYTHON.fullmatch(given.get("python", "python3")):
        raise UsageError(f"{shown(given['python'])} is not the name of a Python.", "Write python3.10, or its path.")
    if not can_listen(given.get("listen", "127.0.0.1")):
        raise UsageError(f"{shown(given['listen'])} is not an address to listen on.", "Write 127.0.0.1, or 0.0.0.0.")


def _group(name: str, about: Any, shared: Mapping[str, Any], folder: Path, where: str) -> Group:
    where = f"{where}, group {shown(name)},"
    if not isinstance(about, dict) or not _GROUP.fullmatch(name):
        raise UsageError(
            f"{where} is not a table with a plain name.", "Write [groups.NAME] with a-z, 0-9, '-' and '_'."
        )
    _check(about, {**_OWN, **_SHARED}, where)
    given = {**shared, **about}
    hosts, bundle, classes = about.get("hosts", []), about.get("bundle"), about.get("classes")
    if not hosts or not all(isinstance(host, str) for host in hosts):
        raise UsageError(f"{where} has no hosts.", 'Write hosts = ["user@host"].')
    if (bundle is None) == (classes is None):
        raise UsageError(f"{where} does not say what to deploy.", "Give either classes or bundle.")
    if isinstance(classes, list):
        if not all(isinstance(item, str) for item in classes):
            raise UsageError(f"{where} has classes that are no text.", 'Write classes = ["sharks", "rays"].')
        classes = ",".join(classes)
    _check_values(given, where)
    paths = {key: folder / given[key] for key in ("model", "calib", "data") if key in given}
    plain = {key: value for key, value in given.items() if key in _SHARED and key not in paths}
    return Group(
        name,
        require_name(given.get("name", name.lower())),
        tuple(map(Address.parse, hosts)),
        None if bundle is None else folder / bundle,
        classes,
        **paths,
        **plain,
    )


def _check(found: Mapping[str, Any], known: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Refuse keys that are not known, and values of another kind; a truth value is no number."""
    for key, value in found.items():
        if key not in known:
            raise UsageError(f"{where} has the key {shown(key)}, which means nothing.", f"Known: {', '.join(known)}.")
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        if type(value) not in kinds:  # type: ignore[operator]
            raise UsageError(f"{where} has a wrong value for {key}.", "See the example in 'expertc deploy --help'.")
