"""A tree of branches as a network, twice with the same weights: a module per branch, and groups of one convolution.

A trunk, a block per category of the rainbow's taxonomy, a block per class, a head per class. The branches stand in the
taxonomy's order, in which the classes' rows are mixed.
"""

from __future__ import annotations

import numpy as np
from networks import Net
from rainbow import CLASSES, SIDE, card

from expertc.card import CARD_KEY

CATEGORIES = ("warm", "cold")
LEAVES = ("reds", "yellows", "greens", "blues")
TRUNK, WIDE, NARROW = 4, 3, 2  # channels: of the trunk, a category, a class

_random = np.random.default_rng(7)


def _drawn(*shape: int) -> np.ndarray:
    return _random.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "trunk": _drawn(TRUNK, 3, 3, 3),
    **{name: _drawn(WIDE, TRUNK, 3, 3) for name in CATEGORIES},
    **{name: _drawn(NARROW, WIDE, 1, 1) for name in LEAVES},
    **{f"{name}.last": _drawn(NARROW, NARROW, 3, 3) for name in LEAVES},
    **{f"{name}.head": _drawn(1, NARROW, 1, 1) for name in LEAVES},
}
PARENT = dict(zip(LEAVES, np.repeat(CATEGORIES, 2).tolist(), strict=True))


def forest(form: str, side: int | str = SIDE) -> Net:
    """The network as ``"separate"`` or ``"grouped"`` branches; ``side`` may be a symbol. It carries its card."""
    net = Net(17)
    trunk = block(net, "trunk", net.image(3, side, side))
    if form == "separate":
        above = {name: block(net, name, trunk) for name in CATEGORIES}
        heads = {}
        for name in LEAVES:
            own = block(net, name, above[PARENT[name]])
            heads[name] = head(net, f"{name}.head", block(net, f"{name}.last", own, strides=[2, 2]))
        rows = [heads[name] for name in CLASSES]
        joined = net.node("Concat", *rows, axis=1)
    else:
        wide = block(net, "categories", trunk, CATEGORIES)
        narrow = block(net, "leaves", wide, LEAVES, group=2)
        last = block(net, "lasts", narrow, [f"{name}.last" for name in LEAVES], group=4, strides=[2, 2])
        mixed = head(net, "heads", last, [f"{name}.head" for name in LEAVES], group=4)
        joined = net.node("Gather", mixed, net.constant([LEAVES.index(name) for name in CLASSES]), axis=1)
    net.result(joined, len(CLASSES), name="scores")
    net.metadata = {CARD_KEY: card().to_json()}
    return net


def block(net: Net, name: str, x: str, parts: list[str] | tuple[str, ...] = (), **attributes: object) -> str:
    """A convolution and a ReLU called ``name.out``; ``parts`` are those whose weights it stacks."""
    weight = net.constant(np.concatenate([WEIGHTS[part] for part in parts or (name,)]), name)
    sides = WEIGHTS[(parts or (name,))[0]].shape[2:]
    made = net.node("Conv", x, weight, kernel_shape=list(sides), pads=[sides[0] // 2] * 4, **attributes)
    return str(net.node("Relu", made, out=f"{name}.out"))


def head(net: Net, name: str, x: str, parts: list[str] | tuple[str, ...] = (), group: int = 1) -> str:
    weight = net.constant(np.concatenate([WEIGHTS[part] for part in parts or (name,)]), name)
    made = net.node("Conv", net.node("GlobalAveragePool", x), weight, kernel_shape=[1, 1], group=group)
    return str(net.node("Flatten", made, axis=1))
