"""The plans that this machine compiled: a private cache, and the only place that a plan is trusted from.

A plan is native code, and a hash beside it does not say who made it. So the cache is a folder of the user's own that
nobody else may enter; one that others could have written to is refused, whatever is in it. It is opened once, and
everything is read through that descriptor: no name is looked up twice.

Beside ``KEY.plan`` stand ``KEY.json``, the record of how it was made, and ``KEY.layers.json``, what TensorRT's
inspector says about its layers. ``KEY`` begins with what the plan is of and made by, and ends with the options, so that
the newest of several for the same expert and machine is found.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...atomic import reported, save
from ...errors import ExpertcError, FileSystemError
from ...text import parse_json

if TYPE_CHECKING:
    from .builder import Plan
    from .identity import Identity
    from .options import Options

FORMAT = 1  # of the record
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_DIGITS = 16  # of each half of a file's name; what is in it is compared with the record


@dataclass(frozen=True)
class Key:
    """What a plan is of (``onnx``, the SHA-256 of the expert's files), where it was made, and how."""

    onnx: str
    identity: Identity
    options: Options

    @property
    def family(self) -> str:
        """The part of the file names that all plans of this expert on this machine share."""
        return _digest(_family(self.to_mapping()))

    @property
    def name(self) -> str:
        """The file name, without its suffix."""
        return f"{self.family}-{_digest(self.options.to_mapping())}"

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"onnx": self.onnx, "identity": asdict(self.identity), "options": self.options.to_mapping()}


@dataclass(frozen=True)
class Kept:
    """A plan of this cache: its bytes, which are those that its record gives the hash of, and the record."""

    path: Path
    data: bytes
    record: Mapping[str, Any]


def folder() -> Path:
    """The cache: ``plans`` below ``XDG_CACHE_HOME`` (``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "expertc" / "plans"


def find(key: Key) -> Kept | None:
    """The plan that was compiled with just these options; None if there is none, or its files are damaged.

    Raises ``FileSystemError`` if somebody else may have written to the cache.
    """
    with _opened() as place:
        return None if place is None else _read(place, key.name, key)


def newest(key: Key) -> Kept | None:
    """The plan that was asked for last, for this expert on this machine, whatever the options; else as ``find``."""
    with _opened() as place:
        if place is None:
            return None
        named = [name.removesuffix(".json") for name in os.listdir(place) if _is_record(name, key.family)]
        wanted = {name: str((_record(place, name) or {}).get("wanted")) for name in named}
        by_time = sorted(named, key=lambda name: wanted[name], reverse=True)
        return next((kept for name in by_time if (kept := _read(place, name, key)) is not None), None)


def prepare() -> None:
    """Make the cache, or raise ``FileSystemError`` at once: compiling takes minutes."""
    place = folder()
    with reported(place):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    with _opened():
        """It is ours alone."""


def layers(kept: Kept) -> list[Any]:
    """What TensorRT's inspector said about its layers; nothing if that file is gone or damaged."""
    with suppress(OSError, ValueError):
        found = json.loads(_layers(kept.path).read_text(encoding="utf-8"))
        return found if isinstance(found, list) else []
    return []


def prefer(kept: Kept) -> Kept:
    """``kept``, which from now on is the ``newest``. Raises ``FileSystemError``."""
    record = {**kept.record, "wanted": _now()}
    save(kept.path.with_suffix(".json"), _encode(record), force=True)
    return replace(kept, record=record)


def store(key: Key, plan: Plan, card: str | None) -> Kept:
    """Keep a plan that has just been compiled here; ``card`` is the expert's, which a session needs.

    The record is written last: without it there is no plan. Raises ``FileSystemError``.
    """
    prepare()
    record = {
        "format": FORMAT,
        **key.to_mapping(),
        "plan": {"bytes": len(plan.data), "sha256": sha256(plan.data).hexdigest()},
        "card": card,
        "made": _now(),
        "wanted": _now(),
        "seconds": plan.seconds,
        "layers": len(plan.layers),
        "dla_share": plan.dla_share,
        "notes": list(plan.notes),
    }
    place = folder() / f"{key.name}.plan"
    kept = Kept(place, plan.data, record)
    save(place, plan.data, force=True)
    save(_layers(place), _encode(plan.layers), force=True)
    save(place.with_suffix(".json"), _encode(record), force=True)
    return kept


def _layers(plan: Path) -> Path:
    return plan.with_suffix(".layers.json")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _encode(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _is_record(name: str, family: str) -> bool:
    return name.startswith(f"{family}-") and name.endswith(".json") and not name.endswith(".layers.json")


@contextmanager
def _opened() -> Iterator[int | None]:
    """A descriptor of the folder, which is ours alone; None if there is no such folder."""
    path = folder()
    try:
        place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise FileSystemError(
            f"The cache of plans '{path}' cannot be opened ({error.strerror}).", "Set XDG_CACHE_HOME to a folder."
        ) from error
    try:
        facts = os.fstat(place)
        if facts.st_uid != os.geteuid() or facts.st_mode & _OTHERS:
            whose = "is somebody else's" if facts.st_uid != os.geteuid() else "is open to others"
            raise FileSystemError(
                f"The cache of plans '{path}' {whose}, so no plan in it is trusted.",
                f"Remove it, or make it private if you know what is in it: chmod 700 '{path}'",
            )
        yield place
    finally:
        os.close(place)


def _family(said: Mapping[str, Any]) -> list[Any]:
    """What has to be the same of a plan and whoever opens it: any driver runs it."""
    machine = said.get("identity")
    named = machine if isinstance(machine, dict) else {}
    return [FORMAT, said.get("onnx"), {key: value for key, value in named.items() if key != "driver"}]


def _read(place: int, name: str, key: Key) -> Kept | None:
    """What is there under ``name``, None if it is not whole, or not of ``key``'s family."""
    record = _record(place, name)
    if record is None or _family(record) != _family(key.to_mapping()):
        return None
    with suppress(OSError):
        data = _bytes(place, f"{name}.plan")
        if record.get("plan") == {"bytes": len(data), "sha256": sha256(data).hexdigest()}:
            return Kept(folder() / f"{name}.plan", data, record)
    return None


def _record(place: int, name: str) -> Mapping[str, Any] | None:
    """How a plan was made; None if that is not written there, or damaged."""
    with suppress(OSError, UnicodeDecodeError, ExpertcError):
        record = parse_json(_bytes(place, f"{name}.json").decode(), "The record", ExpertcError)
        return record if record.get("format") == FORMAT else None
    return None


def _bytes(place: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    with open(descriptor, "rb") as file:
        return file.read()
