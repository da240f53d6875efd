"""Small networks with exits, of every kind there is, node by node: a convolution per stage, a head per granularity.

Five classes in three categories. Biases make the exits sure of different things, so that one input is enough to see
which one answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from networks import Array, Net
from networks import run as run_plain
from onnx import TensorProto, helper

import expertc
from expertc.card import CARD_KEY, Card, Output
from expertc.exits import Exit, Exits
from expertc.taxonomy import Taxonomy

TREE = Taxonomy.parse(
    "tree: {fish: {eel: {index: 3}, ray: {index: 0}}, bird: {owl: {index: 1}}, bug: {ant: {index: 2}, fly: {index: 4}}}"
)
KINDS = ("branchy", "sem", "gran", "ag", "strict")
CHANNELS = 4
QUICK: dict[str, Any] = {"measure_seconds": 0, "fuse": "off", "verification": "off"}


def exits_of(kind: str) -> Exits:
    """What a card says of a network of the kind."""
    fine, coarse = ([f"exit{u}.{which}" for u in (1, 2, 3)] for which in ("fine", "coarse"))
    if kind == "branchy":
        return Exits((), tuple(Exit(name) for name in fine))
    if kind == "sem":
        return Exits(("bug", "fish", "bird"), (Exit(coarse=coarse[0]), Exit(coarse=coarse[1]), Exit(fine[2])))
    both = tuple(map(Exit, fine, coarse))
    semantic = "granularity.logits" if kind == "ag" else None
    return Exits(("bug", "fish", "bird"), both, semantic, strict_coarse=kind == "strict")


def card(kind: str) -> Card:
    exits = exits_of(kind)
    return Card("tiny", TREE, tuple(map(Output, exits.fine)), "image", exits=exits)


def network(
    kind: str, batch: int | str = "batch", opset: int = 17, seed: int = 0, keep: tuple[int, ...] = tuple(range(5))
) -> bytes:
    """The plain network, with its card; the weights of classes and categories that are not kept are left out.

    ``keep`` makes the same network for some classes only: what an expert should be.
    """
    exits, net = exits_of(kind), Net(opset, seed=seed, batch=batch)
    left = card(kind).restrict(keep)
    assert left.exits is not None
    columns = [at for at, name in enumerate(exits.categories) if name in left.exits.categories]
    x, widths = net.image(3, 8, 8), {"fine": [*keep], "coarse": columns}
    made, drawn = {}, np.random.default_rng(seed + 1)
    for number, one in enumerate(exits.exits, 1):
        cin = 3 if number == 1 else CHANNELS
        x = net.node("Relu", net.conv(x, cin, CHANNELS, kernel=3, name=f"stage{number}"), out=f"stage{number}.relu")
        neck = net.node("Relu", net.conv(x, CHANNELS, CHANNELS, name=f"neck{number}"), out=f"neck{number}.relu")
        flat = net.node("Flatten", net.node("GlobalAveragePool", neck), axis=1)
        for which, name, size in (("fine", one.fine, 5), ("coarse", one.coarse, 3)):
            weight, bias = drawn.normal(size=(size, CHANNELS)) / 50, drawn.normal(size=size) * number
            if name is not None:
                parts = [
                    net.constant(values[widths[which]].astype(np.float32), f"{name}.{what}")
                    for what, values in (("w", weight), ("b", bias))
                ]
                made[name] = net.node("Gemm", flat, *parts, out=name, transB=1)
        if number == 1 and exits.semantic is not None:
            parts = [net.constant(drawn.normal(size=s).astype(np.float32), f"sem.{s}") for s in ((2, CHANNELS), (2,))]
            made[exits.semantic] = net.node("Gemm", flat, *parts, out=exits.semantic, transB=1)
    for name in made:
        if name in left.exits.tensors:
            size = 2 if name == exits.semantic else len(widths["fine" if name.endswith("fine") else "coarse"])
            net.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [net.batch, size]))
    net.metadata = {CARD_KEY: left.to_json()}
    return net.bytes()


def image(batch: int = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype(np.float32)


def plain_outputs(model: bytes, x: Array) -> dict[str, Array]:
    return run_plain(model, {"image": x})


def forcing(exits: Exits) -> list[tuple[tuple[float, ...], float]]:
    """Thresholds and tolerances that lead to every exit, and there to both granularities where they decide."""
    early = len(exits.exits) - 1
    found = []
    for at in range(early + 1):
        thresholds = tuple(1e9 if u == at else 0.0 for u in range(early))
        found += [(thresholds, 1e9), (thresholds, -1e9)]
    return [*found, ((0.5,) * early, 0.5), ((1.0,) * early, 0.1), ((1.4,) * early, -0.2)]


def saved(folder: Path, model: bytes, name: str = "full.onnx") -> Path:
    path = folder / name
    path.write_bytes(model)
    return path


def built(folder: Path, model: Path, form: str | None = None, **more: Any) -> Any:
    place = folder / f"{more.pop('name', form)}.expert"
    return expertc.build(model, output=place, exits=form, **{"classes": "ray,owl,eel", **QUICK, **more})
