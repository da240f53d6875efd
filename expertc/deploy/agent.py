"""The device's end of a deployment: ``python -I -m expertc.deploy.agent``, which hears requests and answers them.

Its messages are those of ``protocol``. The verbs, with what they answer::

    facts      what ``expertc doctor`` knows, without its self-test
    receive    present, send: {FILE: offset}, bytes: to be sent to incoming/ID/FILE.part
    commit     release: {...}, or damaged: [FILE, ...]
    accept     accepted, why, compiled, verified, bench, notes, device
    activate   release: {...}
    rollback   release: {...}
    list       releases: [{...}, ...]
    remove     releases: those that were removed
    gc         releases, incoming: how many uploads, envs: [NAME, ...], all of them removed
    service    unit, state, lingers
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ExpertcError, FileSystemError, UsageError
from ..releases import KEEP, ROOT, Store, point
from ..text import shown
from . import protocol
from .bootstrap import listen

if TYPE_CHECKING:
    from .bootstrap import Say

CURRENT = "current"
"""Beside the environments: a link to the one whose agent activated a release last, which other programs start."""

Fields = Mapping[str, Any]


def answer(line: bytes, say: Say) -> dict[str, Any]:
    """The message that ends the answer to a request."""
    try:
        request = protocol.read(line, UsageError, "the host")
        return protocol.done(_answered(request, say))
    except ExpertcError as error:
        return protocol.failed(error)
    except OSError as error:
        where = "The device" if error.filename is None else f"'{error.filename}' on the device"
        return protocol.failed(FileSystemError(f"{where} cannot be used ({error.strerror}).", "See to it there."))


def _answered(request: dict[str, Any], say: Say) -> dict[str, Any]:
    name = request.pop("do", None)
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise UsageError(f"There is no verb {shown(name)}.", "Use the same version of expertc on both sides.")
    return verb.call(verb.checked(request), say)


def _root() -> Path:
    return ROOT.expanduser().parent


def _env() -> str | None:
    """The environment that this runs in, if it is one of expertc's."""
    own = Path(sys.prefix).resolve()  # it may have been started by the link
    return own.name if own.parent == (_root() / "envs").resolve() else None


def _facts(given: Fields, say: Say) -> dict[str, Any]:
    from ..device import describe

    return describe(Path.home())


def _receive(given: Fields, say: Say) -> dict[str, Any]:
    from .incoming import expected, receive

    files = expected(given["files"], given["id"])
    return receive(Store(), _root() / "incoming", given["name"], given["id"], files).to_mapping()


def _commit(given: Fields, say: Say) -> dict[str, Any]:
    from .incoming import commit, expected

    files = expected(given["files"], given["id"])
    found = commit(Store(), _root() / "incoming", given["name"], given["id"], files)
    return {"damaged": found} if isinstance(found, list) else {"release": found.to_mapping()}


def _accept(given: Fields, say: Say) -> dict[str, Any]:
    from .acceptance import accept

    wanted = {key: given[key] for key in ("max_p90_ms", "seconds", "threads", "verify")}
    return accept(Store(), given["name"], given["id"], wanted, _env(), say)


def _activate(given: Fields, say: Say) -> dict[str, Any]:
    found = Store().activate(given["name"], given["id"])
    env = _env()
    if env is not None:
        point(_root() / "envs" / CURRENT, env)
    return {"release": found.to_mapping()}


def _rollback(given: Fields, say: Say) -> dict[str, Any]:
    return {"release": Store().rollback(given["name"]).to_mapping()}


def _list(given: Fields, say: Say) -> dict[str, Any]:
    return {"releases": [each.to_mapping() for each in Store().every(given["name"])]}


def _remove(given: Fields, say: Say) -> dict[str, Any]:
    if given["id"] is None:
        from .service import forget

        forget(given["name"])
    return {"releases": [each.to_mapping() for each in Store().remove(given["name"], given["id"])]}


def _gc(given: Fields, say: Say) -> dict[str, Any]:
    from .clearing import clear_envs, clear_incoming, clear_scripts
    from .service import UNITS

    store, root = Store(), _root()
    gone = [each.to_mapping() for each in store.gc(given["name"], given["keep"])]
    envs = clear_envs(root, store, UNITS.expanduser(), _env())
    clear_scripts(root, protocol.bootstrap_file()[0])
    return {"releases": gone, "incoming": clear_incoming(root), "envs": list(envs)}


def _service(given: Fields, say: Say) -> dict[str, Any]:
    from .service import serve

    return serve(given["name"], given["host"], given["port"])


@dataclass(frozen=True)
class Verb:
    """What answers a verb, the types of its fields, and what those are by default that may be left out."""

    call: Callable[[Fields, Say], dict[str, Any]]
    types: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def checked(self, given: Fields) -> Fields:
        """The fields with their defaults. ``UsageError`` for one that is unknown, missing, or of another type."""
        fields = {**self.defaults, **given}
        odd = [key for key in fields if key not in self.types] + [key for key in self.types if key not in fields]
        odd += [key for key, types in self.types.items() if key in fields and type(fields[key]) not in types]
        odd += [key for key in fields if type(fields[key]) in _NUMBER and not 0 <= fields[key] <= _MOST]
        if odd:
            raise UsageError(f"The request's {shown(odd[0])} makes no sense.", "Use the same expertc on both sides.")
        return fields


_NOTHING = type(None)
_NUMBER = (int, float)
_MOST = 1e6  # of any number: a port, threads, milliseconds, releases to keep
_ONE: Mapping[str, tuple[type, ...]] = {"name": (str,), "id": (str,)}
_TRIED: Mapping[str, tuple[type, ...]] = {
    "max_p90_ms": (*_NUMBER, _NOTHING), "seconds": _NUMBER, "threads": (int, _NOTHING), "verify": (bool,),
}  # fmt: skip
VERBS = {
    "facts": Verb(_facts),
    "receive": Verb(_receive, {**_ONE, "files": (dict,)}),
    "commit": Verb(_commit, {**_ONE, "files": (dict,)}),
    "accept": Verb(_accept, {**_ONE, **_TRIED}, {"max_p90_ms": None, "seconds": 3.0, "threads": None, "verify": True}),
    "activate": Verb(_activate, _ONE),
    "rollback": Verb(_rollback, {"name": (str,)}),
    "list": Verb(_list, {"name": (str, _NOTHING)}, {"name": None}),
    "remove": Verb(_remove, {"name": (str,), "id": (str, _NOTHING)}, {"id": None}),
    "gc": Verb(_gc, {"name": (str,), "keep": (int,)}, {"keep": KEEP}),
    "service": Verb(_service, {"name": (str,), "host": (str,), "port": (int,)}, {"host": "127.0.0.1", "port": 8000}),
}


if __name__ == "__main__":
    sys.exit(listen(__version__, answer))
