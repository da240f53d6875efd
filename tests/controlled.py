"""Networks with an input beside the image: one gain per class, multiplied onto that class's maps, in several forms.

A cut keeps the gains of its classes; every form here can be asked, by ONNX Runtime, whether that is what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from networks import IMAGE, Array, Net, card, run
from onnx import TensorProto, helper

from expertc.card import CARD_KEY, Card, Control

CLASSES = 6
WIDTH = 2  # channels of a class


def gain_input(net: Net, classes: int = CLASSES, name: str = "gain", *more: int) -> str:
    """A control ``[classes, *more]``."""
    net.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [classes, *more]))
    return name


def controlled(classes: int = CLASSES, *others: Control, default: Sequence[float] | None = None) -> Card:
    """A card with a gain per class, ones unless ``default`` says otherwise."""
    from dataclasses import replace

    values = tuple(default or (1.0,) * classes)
    return replace(card(classes), controls=(Control("gain", values, True), *others))


def finished(net: Net, classes: int = CLASSES) -> Net:
    net.metadata = {CARD_KEY: controlled(classes).to_json()}
    return net


def _branch(net: Net, x: str, gain: str, cin: int, name: str) -> str:
    """Two blocks with the gain behind the first, and a score."""
    x = net.node("Relu", net.conv(x, cin, WIDTH, kernel=3, name=f"{name}.a"))
    x = net.node("Mul", x, gain)
    return net.head(net.node("Relu", net.conv(x, WIDTH, WIDTH, name=f"{name}.b")), WIDTH, 1, name=f"{name}.head")


def separate(how: str = "gather", opset: int = 17, seed: int = 0) -> Net:
    """A branch per class that reads its own gain: "gather" a scalar, "slice" a vector of one, or "split" them all."""
    net = Net(opset, seed=seed)
    x = net.node("Relu", net.conv(net.image(), 3, 4, name="trunk"))
    gain = gain_input(net)
    own: list[str] = []
    for i in range(CLASSES):
        if how == "gather":
            own.append(net.node("Gather", gain, net.constant(i, f"own{i}"), axis=0))
        elif how == "slice":
            bounds = [
                net.constant([value], f"{kind}{i}") for kind, value in (("start", i), ("end", i + 1), ("axis", 0))
            ]
            own.append(net.node("Slice", gain, *bounds))
    if how == "split":
        names = [f"part{i}" for i in range(CLASSES)]
        sizes = net.constant([1] * CLASSES, "sizes")
        own = net.node("Split", gain, sizes, out=names, axis=0)
    net.node("Concat", *(_branch(net, x, own[i], 4, f"b{i}") for i in range(CLASSES)), out="scores", axis=1)
    net.result("scores", CLASSES)
    return finished(net)


def grouped(how: str = "expand", seed: int = 1) -> Net:
    """One convolution for all classes, the gains repeated onto its channels, in five ways.

    ``fold`` multiplies ``[N, k, c, H, W]`` by ``[k, 1, 1, 1]`` instead.
    """
    net = Net(17, seed=seed)
    channels = CLASSES * WIDTH
    x = net.node("Relu", net.conv(net.image(), 3, channels, name="wide"))
    x = net.node("Relu", net.conv(x, channels, channels, kernel=3, group=CLASSES, name="groups"))
    gain = gain_input(net)
    if how == "expand":
        column = net.node("Reshape", gain, net.constant([CLASSES, 1], "column"))
        wide = net.node("Expand", column, net.constant([CLASSES, WIDTH], "pairs"))
        x = net.node("Mul", x, net.node("Reshape", wide, net.constant([1, channels, 1, 1], "flat")))
    elif how == "gather":
        repeated = net.node(
            "Gather", gain, net.constant(np.repeat(np.arange(CLASSES), WIDTH).tolist(), "owner"), axis=0
        )
        x = net.node("Mul", x, net.node("Unsqueeze", repeated, net.constant([1, 2], "space")))
    elif how == "tile":
        column = net.node("Unsqueeze", gain, net.constant([1], "last"))
        wide = net.node("Tile", column, net.constant([1, WIDTH], "times"))
        x = net.node("Mul", x, net.node("Reshape", wide, net.constant([channels, 1, 1], "flat")))
    elif how == "concat":
        row = net.node("Unsqueeze", gain, net.constant([0], "first"))
        wide = net.node("Transpose", net.node("Concat", *[row] * WIDTH, axis=0), perm=[1, 0])
        x = net.node("Mul", x, net.node("Reshape", wide, net.constant([1, -1, 1, 1], "flat")))
    elif how == "fold":
        x = net.node("Reshape", x, net.constant([0, CLASSES, WIDTH, 4, 4], "apart"))
        x = net.node("Mul", x, net.node("Unsqueeze", gain, net.constant([1, 2, 3], "space")))
        x = net.node("Reshape", x, net.constant([0, channels, 4, 4], "together"))
    x = net.node("GlobalAveragePool", net.node("Relu", net.conv(x, channels, channels, group=CLASSES, name="second")))
    net.node("Flatten", net.conv(x, channels, CLASSES, group=CLASSES, name="heads"), out="scores", axis=1)
    net.result("scores", CLASSES)
    return finished(net)


def nested(seed: int = 2) -> Net:
    """Three categories of two; a class's gain lies behind what its category shares."""
    net = Net(17, seed=seed)
    x = net.node("Relu", net.conv(net.image(), 3, 4, name="trunk"))
    gain, made = gain_input(net), []
    for category in range(3):
        inner = net.node("Relu", net.conv(x, 4, 3, kernel=3, name=f"category{category}"))
        first = 2 * category
        bounds = [net.constant([value], f"{kind}{first}") for kind, value in (("start", first), ("end", first + 2))]
        both = net.node("Slice", gain, *bounds)
        for i in range(2):
            own = net.node("Gather", both, net.constant([i], f"own{first + i}"), axis=0)
            made.append(_branch(net, inner, own, 3, f"b{first + i}"))
    net.node("Concat", *made, out="scores", axis=1)
    net.result("scores", CLASSES)
    return finished(net)


def opaque(seed: int = 3) -> Net:
    """Gains that are divided by their mean first: every class reads all of them."""
    net = Net(17, seed=seed)
    x = net.node("Relu", net.conv(net.image(), 3, CLASSES, name="wide"))
    gain = gain_input(net)
    shared = net.node("Div", gain, net.node("ReduceMean", gain, axes=[0], keepdims=1))
    x = net.node("Mul", x, net.node("Unsqueeze", shared, net.constant([1, 2], "space")))
    x = net.node("GlobalAveragePool", net.conv(x, CLASSES, CLASSES, group=CLASSES, name="second"))
    net.node("Flatten", x, out="scores", axis=1)
    net.result("scores", CLASSES)
    return finished(net)


FORMS: dict[str, Callable[[], Net]] = {
    "separate, Gather": separate,
    "separate, Gather, opset 11": lambda: separate(opset=11),
    "separate, Slice": lambda: separate("slice"),
    "separate, Split": lambda: separate("split"),
    "grouped, Reshape and Expand": grouped,
    "grouped, Gather": lambda: grouped("gather"),
    "grouped, Tile": lambda: grouped("tile"),
    "grouped, Concat and Transpose": lambda: grouped("concat"),
    "grouped, broadcast": lambda: grouped("fold"),
    "nested": nested,
}


def fed(gain: Array, seed: int = 0) -> dict[str, Array]:
    """Two random images, the same for every model, and these gains."""
    image = np.random.default_rng(seed).standard_normal((2, *IMAGE), np.float32)
    return {"image": image, "gain": np.asarray(gain, np.float32)}


def scores(data: bytes, gain: Array, seed: int = 0) -> Array:
    return run(data, fed(gain, seed))["scores"]
