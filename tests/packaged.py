"""Models in the kinds that a package must know what to do with, and bundles of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from networks import Array, Net, card
from onnx import TensorProto
from PIL import Image

from expertc import build
from expertc.bundle import REJECT, open_bundle, reserve
from expertc.card import CARD_KEY, Output, Preprocess

SIZE = (6, 9)
SPEC = Preprocess(SIZE, (8, 12), "bilinear", mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.4))
CLASSES = ("oak", "ash", "elm")


def network(
    spec: Preprocess | None = SPEC, kind: str = "logits", *, opset: int = 17, batch: int | str = "batch",
    labels: tuple[str, ...] = CLASSES, output: str = "scores", width: int = 4,
) -> bytes:  # fmt: skip
    """A convolution that sees the borders, and a score per class; in halves if that is what ``spec`` makes."""
    net = Net(opset, batch=batch, ir=8)
    halves, last = spec is not None and spec.dtype == "float16", spec is not None and spec.layout == "NHWC"
    kinds = {"float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
    own = kinds.get(spec.dtype if spec is not None else "", TensorProto.FLOAT)
    x = net.image(*((*SIZE, 3) if last else (3, *SIZE)), dtype=own)
    x = net.node("Cast", x, to=TensorProto.FLOAT) if own != TensorProto.FLOAT else x
    x = net.node("Transpose", x, perm=[0, 3, 1, 2]) if last else x
    if own == TensorProto.UINT8:
        x = net.node("Div", x, net.constant(np.float32(255).reshape(())))
    x = net.node("Relu", net.conv(x, 3, width, kernel=3))
    x = net.head(x, width, len(labels))
    if kind != "logits":
        x = net.node("Sigmoid", x)
    if kind == "probabilities":
        x = net.node("Softmax", x, axis=1)
    if halves:
        x = net.node("Cast", x, to=TensorProto.FLOAT16)
    net.result(x, len(labels), name=output, dtype=TensorProto.FLOAT16 if halves else TensorProto.FLOAT)
    about = replace(card(labels, Output(output, kind)), preprocess=spec)
    net.metadata = {CARD_KEY: about.to_json()}
    return net.bytes()


def bundle_of(model: bytes, folder: Path, name: str = "trees", **options: Any) -> Path:
    """A bundle of all classes of ``model``, not verified: what it says is what is compared."""
    source = folder / f"{name}.onnx"
    source.write_bytes(model)
    classes = [f"#{row}" for row in range(len(open_classes(source)))]
    options = {"verification": "off", "measure_seconds": 0} | options
    return build(source, classes=classes, output=folder / f"{name}.expert", **options).path


def open_classes(path: Path) -> tuple[str, ...]:
    from expertc.source import open_source

    return open_source(path).card.classes


def calibrated(bundle: Path, score: str, threshold: float) -> Path:
    """The same bundle with a threshold below which a picture is none of the classes."""
    entry = {"score": score, "threshold": threshold, "reject_rate": 0.05, "caught": 0.5, "images": 9, "others": 9}
    with reserve(bundle, force=True) as place:
        return place.again(open_bundle(bundle), {}, {REJECT: entry}, {})


def pictures(count: int = 5) -> list[Image.Image]:
    """Pictures of the size that the network takes, so that no resizing comes in between: noise of all brightnesses."""
    random = np.random.default_rng(0)
    wide = SIZE[1], SIZE[0]
    made = [random.integers(0, 50 * (number + 1), (SIZE[0], SIZE[1], 3)) for number in range(count)]
    return [Image.fromarray(pixels.astype(np.uint8)).resize(wide, Image.Resampling.NEAREST) for pixels in made]


def as_pixels(images: list[Image.Image]) -> Array:
    """``[N, H, W, 3]`` bytes."""
    return np.stack([np.asarray(image) for image in images])
