"""Device profiles: what a target can run, read from ``targets/*.toml`` and from the user's own.

The user's stand in ``~/.config/expertc/targets`` (or below ``XDG_CONFIG_HOME``), where one takes the place of ours of
the same name, or in any file that is named instead of a target.

A profile gives ``description``, ``backend`` and ``precisions``, and any number of ``[[facts]]`` tables. Everything
measurable stands in one of those, under the ``source`` it was read from, so that no number can be without one::

    description = "A board"
    backend = "tensorrt"
    precisions = ["fp32", "fp16"]

    [[facts]]
    source = "Data sheet DS-1"
    memory_mb = 8192

``jetpack_min`` and ``tensorrt_min`` are the oldest releases that an expert for the target must run on; ``jetpack_max``
and ``tensorrt_max`` the newest that are known to be there, which is no reason to refuse a newer one.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .errors import InvalidArtifactError, UsageError
from .text import clean_text, read_text, shown

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

LONGEST = 2**16  # bytes of a profile
BACKENDS = ("onnxruntime", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")
LIMITS = ("memory_mb", "workspace_mb", "max_opset", "max_ir", "dla_cores")  # the facts that decide what can be built
RELEASES = ("jetpack_min", "jetpack_max", "tensorrt_min", "tensorrt_max", "sm")
WORKSPACE_SHARE = 4
"""The builder may work in a quarter of the memory: a choice of ours, which leaves room on boards that share it."""

Release = tuple[int, ...]

Fact = str | int | float | bool | tuple[str | int | float, ...]


@dataclass(frozen=True)
class Target:
    """A device profile.

    ``facts`` holds every sourced value by name, ``sources`` says for each where it was read. A limit that the profile
    does not give is None: the runtime on the device decides.
    """

    name: str
    backend: str
    description: str
    precisions: tuple[str, ...]
    facts: Mapping[str, Fact]
    sources: Mapping[str, str]

    @property
    def is_host(self) -> bool:
        """Whether its experts run on the processor that builds them, so that what is measured there counts."""
        return self.backend == "onnxruntime"

    @property
    def has_python(self) -> bool:
        """Whether expertc runs there: it needs Python 3.10, and JetPack before 6 has 3.8."""
        newest = self.facts.get("jetpack_max")
        return not isinstance(newest, str) or release(newest) >= (6, 0)

    def to_mapping(self) -> dict[str, Any]:
        """What its file says, as JSON types: what ``parse_target`` reads."""
        tables = []
        for source in dict.fromkeys(self.sources.values()):
            named = {key: fact for key, fact in self.facts.items() if self.sources[key] == source}
            lists = {key: list(fact) if isinstance(fact, tuple) else fact for key, fact in named.items()}
            tables.append({"source": source, **lists})
        about = {"description": self.description, "backend": self.backend, "precisions": list(self.precisions)}
        return about | {"facts": tables}

    @property
    def memory_mb(self) -> int | None:
        """Memory that the network can use, in MiB; on a Jetson the processor uses the same."""
        return self._limit("memory_mb")

    @property
    def workspace_mb(self) -> int | None:
        """Memory that the builder may work in, in MiB: as the profile says, or a part of ``memory_mb``."""
        said, memory = self._limit("workspace_mb"), self.memory_mb
        return said if said is not None or memory is None else memory // WORKSPACE_SHARE

    @property
    def dla_cores(self) -> int:
        """How many deep-learning accelerators there are beside the GPU."""
        return self._limit("dla_cores") or 0

    @property
    def tensorrt_min(self) -> Release | None:
        """The oldest TensorRT that an expert for this target must run on."""
        found = self.facts.get("tensorrt_min")
        return release(found) if isinstance(found, str) else None

    @property
    def max_opset(self) -> int | None:
        """The newest ONNX opset that the backend on this target reads."""
        return self._limit("max_opset")

    @property
    def max_ir(self) -> int | None:
        """The newest ONNX IR version that the backend on this target reads."""
        return self._limit("max_ir")

    def _limit(self, name: str) -> int | None:
        value = self.facts.get(name)
        return value if isinstance(value, int) else None


def load_target(name: str) -> Target:
    """The profile called ``name``, or the one in the file ``name`` if that ends in ``.toml``.

    Raises ``UsageError`` with the names that are near if there is none, ``InvalidArtifactError`` as ``read_target``.
    """
    if name.endswith(".toml"):
        return read_target(Path(name))
    files = _files()
    if name not in files:
        near = get_close_matches(name[:80], files, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(shown, near))}?" if near else "'expertc targets' lists them."
        raise UsageError(f"There is no target {shown(name)}.", hint)
    return read_target(files[name])


def list_targets() -> tuple[Target, ...]:
    """All profiles, by name."""
    return tuple(read_target(file) for _, file in sorted(_files().items()))


def release(text: str) -> Release:
    """A release as two numbers or more, to be compared: ``"10"`` is (10, 0). Raises ``ValueError`` if it is none."""
    if not re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", text):
        raise ValueError(f"{shown(text)} is not a release")
    first, *more = map(int, text.split("."))
    return (first, *(more or [0]))


def _folder() -> Path:
    """Where the profiles are: inside the package once it is installed, beside it in a checkout."""
    packed = Path(__file__).parent / "_targets"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "targets"


def _files() -> Mapping[str, Path]:
    """The profiles that come along and the user's, by name; they are read when they are asked for."""
    ours = sorted(_folder().glob("*.toml"))
    if not ours:
        raise InvalidArtifactError(f"There are no target profiles in '{_folder()}'.", "Install expertc again.")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folder = Path(config, "expertc", "targets")
    theirs = sorted(folder.glob("*.toml")) if os.access(folder, os.R_OK | os.X_OK) else []
    return {file.stem: file for file in (*ours, *theirs)}


def read_target(file: Path) -> Target:
    """Read one profile; raises ``InvalidArtifactError`` if it is malformed or gives a value without a source."""
    text = read_text(file, "The target profile", InvalidArtifactError, LONGEST)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(file, str(error)) from error
    return parse_target(file.stem, data, file)


def parse_target(name: str, data: Mapping[str, Any], file: Path) -> Target:
    """The profile that ``data``, parsed out of ``file``, describes; raises ``InvalidArtifactError`` likewise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise _malformed(file, "its name has other characters than letters, digits, '.', '_' and '-'")
    odd = sorted(data.keys() - {"description", "backend", "precisions", "facts"})
    if odd:
        raise _malformed(file, f"{', '.join(odd)} must stand in a [[facts]] table with its source")
    description, backend, precisions = data.get("description"), data.get("backend"), data.get("precisions")
    if not isinstance(description, str) or not description:
        raise _malformed(file, "it has no description")
    if backend not in BACKENDS:
        raise _malformed(file, f"the backend is none of {', '.join(BACKENDS)}")
    if not isinstance(precisions, list) or not precisions or set(map(str, precisions)) - set(PRECISIONS):
        raise _malformed(file, f"the precisions are not some of {', '.join(PRECISIONS)}")
    facts: dict[str, Fact] = {}
    sources: dict[str, str] = {}
    tables = data.get("facts", [])
    for table in tables if isinstance(tables, list) else [tables]:
        source = table.get("source") if isinstance(table, dict) else None
        if not isinstance(source, str) or not source.strip():
            raise _malformed(file, "a [[facts]] table has no source")
        for key, value in table.items():
            if key == "source":
                continue
            if key in facts:
                raise _malformed(file, f"{key} stands twice")
            facts[key], sources[key] = _fact(value, key, file), source
    return Target(name, backend, description, tuple(precisions), facts, sources)


def _fact(value: Any, key: str, file: Path) -> Fact:
    if key in LIMITS and (type(value) is not int or value < 0):
        raise _malformed(file, f"{key} is not a whole number")
    if key in RELEASES:
        try:
            release(str(value))
        except ValueError as error:
            raise _malformed(file, f"{key}: {error}") from error
        return str(value)
    values = value if isinstance(value, list) else [value]
    if all(isinstance(item, str) or (isinstance(item, int | float) and math.isfinite(item)) for item in values):
        return tuple(value) if isinstance(value, list) else value
    raise _malformed(file, f"{key} is neither text nor a number nor a list of them")


def _malformed(file: Path, why: str) -> InvalidArtifactError:
    return InvalidArtifactError(
        f"The target profile '{clean_text(str(file))}' is malformed: {clean_text(why)}.", "See expertc.targets."
    )
