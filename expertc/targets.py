"""Device profiles: what a target can run, read from ``targets/*.toml``.

A profile gives ``description``, ``backend`` and ``precisions``, and any number of ``[[facts]]`` tables. Everything
measurable stands in one of those, under the ``source`` it was read from, so that no number can be without one::

    description = "A board"
    backend = "tensorrt"
    precisions = ["fp32", "fp16"]

    [[facts]]
    source = "Data sheet DS-1"
    memory_mb = 8192
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InvalidArtifactError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

BACKENDS = ("onnxruntime", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")
LIMITS = ("memory_mb", "max_opset", "max_ir")  # the facts that decide what can be built

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
    def memory_mb(self) -> int | None:
        """Memory that the network can use, in MiB; on a Jetson the processor uses the same."""
        return self._limit("memory_mb")

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
    """The profile called ``name``; raises ``UsageError`` with the known names if there is none."""
    profiles = _profiles()
    if name not in profiles:
        raise UsageError(f"There is no target '{name}'.", f"Known targets: {', '.join(profiles)}.")
    return profiles[name]


def list_targets() -> tuple[Target, ...]:
    """All profiles, by name."""
    return tuple(_profiles().values())


def _folder() -> Path:
    """Where the profiles are: inside the package once it is installed, beside it in a checkout."""
    packed = Path(__file__).parent / "_targets"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "targets"


@cache
def _profiles() -> Mapping[str, Target]:
    files = sorted(_folder().glob("*.toml"))
    if not files:
        raise InvalidArtifactError(f"There are no target profiles in '{_folder()}'.", "Install expertc again.")
    return {file.stem: read_target(file) for file in files}


def read_target(file: Path) -> Target:
    """Read one profile; raises ``InvalidArtifactError`` if it is malformed or gives a value without a source."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _malformed(file, str(error)) from error
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
        source = table.pop("source", None) if isinstance(table, dict) else None
        if not isinstance(source, str) or not source.strip():
            raise _malformed(file, "a [[facts]] table has no source")
        for key, value in table.items():
            if key in facts:
                raise _malformed(file, f"{key} stands twice")
            facts[key], sources[key] = _fact(value, key, file), source
    return Target(file.stem, backend, description, tuple(precisions), facts, sources)


def _fact(value: Any, key: str, file: Path) -> Fact:
    if key in LIMITS and type(value) is not int:
        raise _malformed(file, f"{key} is not a whole number")
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return tuple(value)
    if isinstance(value, str | int | float):
        return value
    raise _malformed(file, f"{key} is neither text nor a number nor a list of them")


def _malformed(file: Path, why: str) -> InvalidArtifactError:
    return InvalidArtifactError(f"The target profile '{file}' is malformed: {why}.", "See expertc.targets.")
