"""A classifier that tells colours, with branches, as the command line's tests want it: a file with a card, and photos.

Its weights are chosen, not trained, so what it says about a plain picture is known. A trunk, two branches of two
channels (warm, cold), one head per class, put side by side in an order that mixes the branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from networks import Net
from onnx import TensorProto, helper
from PIL import Image

from expertc.card import CARD_KEY, Card, Control, Output, Preprocess
from expertc.taxonomy import Node, Taxonomy

SIDE = 8
CLASSES = ("reds", "greens", "blues", "yellows")
COLOURS = {"reds": (255, 0, 0), "greens": (0, 255, 0), "blues": (0, 0, 255), "yellows": (255, 255, 0)}
DEFAULT_GAIN = (1.0, 1.0, 1.0, 0.5)
LICENCE = "Made up, for tests."

TAXONOMY = Taxonomy(
    "rainbow",
    (
        Node("warm", (Node("reds", index=0, label="Red Things"), Node("yellows", index=3))),
        Node("cold", (Node("greens", index=1), Node("blues", index=2))),
    ),
    ("warmth", "colour"),
)
SPEC = Preprocess((SIDE, SIDE), SIDE, "bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

_BRANCHES = {"warm": [[1, -1, -1], [0.7, 0.7, -1.4]], "cold": [[-1, 1, -1], [-1, -1, 1]]}
_HEADS = {
    "reds": ("warm", [8, 0.25]), "greens": ("cold", [9, 0.125]), "blues": ("cold", [0.375, 8.5]),
    "yellows": ("warm", [0.5, 7]),
}  # fmt: skip


def rainbow(*, batch: int | str = "batch", spec: Preprocess | None = SPEC, taxonomy: Taxonomy = TAXONOMY,
            kind: str = "logits", described: bool = True, end: str = "", gained: bool = False) -> Net:  # fmt: skip
    """The network; ``described`` is whether it carries its card, ``end`` an operator over the scores.

    ``gained`` multiplies what the head of a class reads by the class's entry of a further input, ``gain``.
    """
    net = Net(17, batch=batch)
    x = net.image(3, SIDE, SIDE)
    weight = _constant(net, "trunk.w", np.eye(3).reshape(3, 3, 1, 1))
    trunk = net.node("Conv", x, weight, out="trunk", kernel_shape=[1, 1])
    branches = {}
    for name, rows in _BRANCHES.items():
        weight = _constant(net, f"{name}.w", np.reshape(rows, (2, 3, 1, 1)))
        maps = net.node("Conv", trunk, weight, out=name, kernel_shape=[1, 1])
        branches[name] = net.node("Flatten", net.node("GlobalAveragePool", maps), axis=1)
    heads = []
    if gained:
        net.inputs.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [len(CLASSES)]))
    for number, (name, (branch, row)) in enumerate(_HEADS.items()):
        weights = (_constant(net, f"{name}.w", [row]), _constant(net, f"{name}.b", [number / 16]))
        read = branches[branch]
        if gained:
            read = net.node("Mul", read, net.node("Gather", "gain", net.constant(number, f"{name}.at"), axis=0))
        heads.append(net.node("Gemm", read, *weights, out=name, transB=1))
    scores = net.node("Concat", *heads, axis=1, out="joined" if end else "scores")
    if end:
        net.node(end, scores, out="scores", axis=1)
    net.result("scores", len(CLASSES))
    if described:
        controls = (Control("gain", DEFAULT_GAIN, True),) if gained else ()
        net.metadata = {CARD_KEY: replace(card(spec, taxonomy, kind), controls=controls).to_json()}
    return net


def card(spec: Preprocess | None = SPEC, taxonomy: Taxonomy = TAXONOMY, kind: str = "logits") -> Card:
    return Card("rainbow", taxonomy, (Output("scores", kind),), "image", spec, LICENCE, {"origin": "tests"})


def picture(path: Path, colour: str | tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS.get(colour, colour)).save(path)
    return path


def photos(folder: Path, classes: Iterable[str] = CLASSES, each: int = 3) -> Path:
    """A folder per class with plain pictures in it, a little darker each."""
    for name in classes:
        for number in range(each):
            dark = tuple(max(0, value - 20 * number) for value in COLOURS[name])
            picture(folder / name / f"{number}.png", dark)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and folder below, with its contents: what must be the same before and after a failure."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def _constant(net: Net, name: str, values: object) -> str:
    return net.constant(np.asarray(values, np.float32), name)
