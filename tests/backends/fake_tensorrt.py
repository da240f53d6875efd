"""``tensorrt`` without TensorRT: one module per release, made from what that release's real bindings have.

``trt_api_contract.json`` was dumped from the bindings of eight releases: ``core`` is in all of them, ``gated`` in the
ones it names. A fake has exactly the names of its release, so whatever a release lacks raises ``AttributeError``, as it
would there. The contract has no numbers of enums; those of a fake follow from its names, so that they differ from
release to release, as the real ones do, and a stored one is found out. What a parser's error, a layer and a tensor of a
network have is not in it either: the fakes give them the few names that the API reference of every release has.

**Everything here is simulated.** A fake proves which names are used, in which order and with which arguments, and what
becomes of TensorRT's refusals, whose words are quoted from real logs. It proves nothing about TensorRT itself: no
kernel is chosen, nothing runs on a GPU. What an engine of it computes, ONNX Runtime computes.

>>> scene = Scene(dla_cores=2)
>>> trt = fake("10.3", scene)          # scene.calls records what was asked of it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from fake_tensorrt_build import BUILD
from fake_tensorrt_run import RUN

CONTRACT: Mapping[str, Any] = json.loads(Path(__file__).with_name("trt_api_contract.json").read_text("utf-8"))
RELEASES: tuple[str, ...] = tuple(CONTRACT["versions"])

_PLAYED: Mapping[str, type] = {**BUILD, **RUN}
_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")  # their order is that of all releases


@dataclass
class Scene:
    """What the simulated device has, and how the builder fares on it.

    ``dla`` are the ONNX operators that its accelerator takes. ``memory`` is how many bytes of workspace can be had:
    with more, or with no limit set, the build runs out of memory. ``unread`` are operators that the parser refuses.
    ``log`` is what the builder says (severity, text); with ``fails`` it then gives up. ``during`` is called in the
    middle of the build, ``launched`` with the stream and the work of every execution: by default it works at once.
    ``compute`` maps feeds to outputs in place of ONNX Runtime.
    """

    driver: bool = True
    dla_cores: int = 0
    dla: tuple[str, ...] = ("Conv", "Relu", "GlobalAveragePool")
    fast_fp16: bool = True
    fast_int8: bool = True
    memory: int | None = None
    unread: tuple[str, ...] = ()
    log: tuple[tuple[str, str], ...] = ()
    fails: bool = False
    during: Callable[[], None] = lambda: None
    launched: Callable[[int, Callable[[], None]], None] = lambda stream, work: work()
    compute: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)
    """How many layers each build had to time: those that its timing cache did not have."""

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of ``Class.method``; ``Class.attribute=`` was set."""
        return [arguments for each, arguments in self.calls if each == name]


class Segfault(BaseException):
    """The real library would have taken the process with it."""


def names(kind: str, release: str) -> list[str]:
    """What a class has in a release of the contract; nothing if the release does not have the class."""
    gated = [name for name, releases in CONTRACT["gated"].get(kind, {}).items() if release in releases]
    return [*CONTRACT["core"].get(kind, ()), *gated]


def fake(release: str, scene: Scene | None = None) -> Any:
    """A module ``tensorrt`` of the release that starts with ``release`` ("8.5", "10.3", "11.4.0.106")."""
    full = next(each for each in RELEASES if f"{each}.".startswith(f"{release}."))
    trt: Any = ModuleType("tensorrt")
    trt.__version__, trt.scene = full, scene or Scene()
    for kind in sorted({*CONTRACT["core"], *CONTRACT["gated"]}):  # ILogger before Logger
        found = names(kind, full)
        if found:
            setattr(trt, kind, _Enum.of(kind, found) if _is_enum(kind) else _class(trt, kind, found))
    severity = _Enum.of("Severity", _SEVERITIES, ordered=True)
    for kind in (trt.ILogger, trt.Logger):
        kind.Severity = severity
        for name in _SEVERITIES:
            setattr(kind, name, getattr(severity, name))
    return trt


def _is_enum(kind: str) -> bool:
    return (
        not {"__init__"} & {*CONTRACT["core"].get(kind, ()), *CONTRACT["gated"].get(kind, ())} and kind not in _PLAYED
    )


class _Enum:
    """A member of an enum as pybind11 makes them: not an integer, but ``int()`` gives its number."""

    __members__: dict[str, _Enum]

    def __init__(self, name: str, number: int) -> None:
        self.name, self.value = name, number

    @classmethod
    def of(cls, kind: str, members: Any, *, ordered: bool = False) -> type:
        """The enum ``kind``. A release's numbers follow from its names, so they move when one comes or goes.

        So they do in the contract's releases: STRONGLY_TYPED is 1 beside EXPLICIT_BATCH, and 0 from 11 on.
        """
        made = type(kind, (cls,), {"__members__": {}})
        order = members if ordered else sorted(members, key=lambda name: (name.startswith("PREFER"), name))
        for number, name in enumerate(order):
            made.__members__[name] = made(name, number)
            setattr(made, name, made.__members__[name])
        return made

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.value == other.value  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.value))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"


def _class(trt: Any, kind: str, found: list[str]) -> type:
    """A class with exactly the names that were found: those that are played, and others that can only be seen."""
    played = _PLAYED.get(kind, _Silent)
    body = {name: value for name, value in vars(played).items() if name.startswith("_") and name != "__dict__"}
    body |= {"_trt": trt, "_sealed": True, "__setattr__": _set}
    for name in found:
        if not name.startswith("__"):
            value = vars(played).get(name, _unplayed(kind, name))
            body[name] = _recorded(kind, name, value) if callable(value) else _watched(kind, name, value)
    body.pop("__weakref__", None)
    return type(kind, (trt.ILogger,) if kind == "Logger" else played.__bases__, body)


def unplayed() -> set[str]:
    """What is played but in no release: there must be nothing."""
    known = {f"{kind}.{name}" for kind in _PLAYED for release in RELEASES for name in names(kind, release)}
    return {f"{kind}.{name}" for kind, played in _PLAYED.items() for name in vars(played) if name[0] != "_"} - known


class _Silent:
    """A class of which nothing is played."""


def _set(self: Any, name: str, value: Any) -> None:
    """Only what a class has can be set; what is derived from it in Python can have anything."""
    if "_sealed" in vars(type(self)) and not name.startswith("_") and not hasattr(type(self), name):
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
    object.__setattr__(self, name, value)


def _unplayed(kind: str, name: str) -> property:
    def get(self: Any) -> Any:
        raise NotImplementedError(f"{kind}.{name} is not simulated")

    return property(get, get)


def _recorded(kind: str, name: str, function: Any) -> Any:
    @wraps(function)
    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        self._trt.scene.calls.append((f"{kind}.{name}", (*args, *keywords.values())))
        return function(self, *args, **keywords)

    return call


def _watched(kind: str, name: str, value: Any) -> property:
    """A property, or an attribute with its first value; setting it is recorded."""
    if isinstance(value, property) and value.fset is None:
        return value

    def get(self: Any) -> Any:
        return value.fget(self) if isinstance(value, property) else vars(self).get(f"_{name}_set", value)

    def put(self: Any, given: Any) -> None:
        self._trt.scene.calls.append((f"{kind}.{name}=", (given,)))
        if isinstance(value, property):
            value.fset(self, given)
        vars(self)[f"_{name}_set"] = given

    return property(get, put)
