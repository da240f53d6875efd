"""What a finished engine consists of, from TensorRT's inspector."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any, NamedTuple

Layers = list[dict[str, Any]]

_TENSORS = ("I/O Tensors", "Bindings")  # from 11 on, and before
_RANGE = re.compile(r"\{ForeignNode\[(.+?)(?:\.\.\.(.+))?\]\}$")
_WORD = re.compile(r"[^\s+,()\[\]{}]+")


class Inspected(NamedTuple):
    """The engine's layers, each a mapping with at least "Name", and the names of its inputs and outputs."""

    layers: Layers
    tensors: tuple[str, ...]


def inspect(trt: ModuleType, listener: Any, plan: bytes, dla_core: int | None = None) -> Inspected | None:
    """Open a plan that was just built here, and list what is in it. None if it cannot be opened or its list be read.

    A build is not worth less for that: a small board may have no memory left for the engine, and releases have written
    JSON that is none.
    """
    runtime = trt.Runtime(listener)
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        found = json.loads(text)
        layers = [dict(each) if isinstance(each, dict) else {"Name": str(each)} for each in found["Layers"]]
        return Inspected(layers, tuple(next((map(str, found[key]) for key in _TENSORS if key in found), ())))
    except (ValueError, KeyError, TypeError):
        return None


def dla_share(layers: Layers, network: Sequence[str], named: Collection[str]) -> float:
    """The share of the network's layers that run on a DLA core, from 0 to 1.

    Args:
        layers: those of the engine. One on a DLA core stands for all that lie between the two that its name gives,
            ``{ForeignNode[first...last]}``, but for those that a layer on the GPU names.
        network: the names of the network's layers, in order.
        named: engine layers that the builder's log puts on a DLA core, for releases that give a layer no type.
    """
    places = {name: at for at, name in enumerate(network)}
    there: set[int] = set()
    elsewhere: set[int] = set()
    for layer in layers:
        name = str(layer.get("Name", ""))
        if str(layer.get("LayerType", "")).upper() == "DLA" or name in named:
            found = _RANGE.search(name)
            first, last = (found[1], found[2] or found[1]) if found else (name, name)
            if first in places and last in places:
                there.update(range(places[first], places[last] + 1))
        elif _RANGE.match(name) is None:
            elsewhere.update(places[word] for word in _WORD.findall(name) if word in places)
    return len(there - elsewhere) / len(network) if network else 0.0
