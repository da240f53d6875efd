"""Trees of classifiers (HierNet), made by hand: every class gets the sum of the log-probabilities on its path.

A tree is nested tuples: a number is a class, a tuple a category. A category that is all classes is one classifier on
features of its own; any other routes, on features that those below read. ``network`` is the slow form; ``fast`` says in
numpy, from its outputs, what the fast form should give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import strategies as st
from networks import Array, Net

from expertc.card import CARD_KEY, Card, Output, Preprocess
from expertc.routes import Routes
from expertc.surgery.route import FLOOR
from expertc.taxonomy import Node, Taxonomy

Tree = tuple["Tree | int", ...]
WIDTH = 3
TWO_LEVELS: Tree = ((3, 0, 5), (1, 4), (2, 6))
THREE_LEVELS: Tree = (((3, 0), (7, 5, 1)), ((2, 4), (6, 8)), (9, 10))
MIXED: Tree = (2, ((0, 4), 3, (1, 6)), (5, 7))


def classes(tree: Tree | int) -> list[int]:
    """The classes in a tree, from left to right."""
    return [tree] if isinstance(tree, int) else [index for child in tree for index in classes(child)]


def is_router(tree: Tree | int) -> bool:
    return not isinstance(tree, int) and any(not isinstance(child, int) for child in tree)


def name_of(child: Tree | int) -> str:
    """A category is called after its first class."""
    return f"c{child}" if isinstance(child, int) else f"g{'-'.join(map(str, classes(child)))}"


def taxonomy(tree: Tree) -> Taxonomy:
    def made(child: Tree | int) -> Node:
        if isinstance(child, int):
            return Node(name_of(child), index=child)
        return Node(name_of(child), tuple(map(made, child)))

    return Taxonomy("tree", tuple(map(made, tree)))


def routers(tree: Tree) -> Iterator[Tree]:
    """The trees that route, each after the one above it."""
    waiting = [tree]
    while waiting:
        at = waiting.pop(0)
        yield at
        waiting += [child for child in at if is_router(child) and not isinstance(child, int)]


def card(tree: Tree, size: int | None = None) -> Card:
    columns = tuple(name_of(child) for router in routers(tree) for child in router)
    spec = None if size is None else Preprocess((size, size), size, "bilinear", mean=(0.5,) * 3, std=(0.25,) * 3)
    return Card("tree", taxonomy(tree), (Output("scores"),), "image", spec, routes=Routes("routes", columns))


def network(tree: Tree, *, seed: int = 0, batch: int | str = "batch", opset: int = 18, size: int = 4) -> Net:
    """The slow form, with its card."""
    net = Net(opset, seed=seed, batch=batch)
    logs: dict[str, str] = {}
    temperature = net.constant(0.05, "temperature")  # which all share; nothing is certain

    def choice(at: Tree, x: str, name: str) -> str:
        """Log-probabilities ``[N, classes]`` of the classes in ``at`` given ``at``."""
        body = net.node("LeakyRelu", net.conv(x, 3, WIDTH, kernel=3, name=f"{name}.body"))
        head = net.head(body, WIDTH, len(at), name=f"{name}.head")
        soft = net.node("Mul", head, temperature)
        logs[name] = own = net.node("LogSoftmax", soft, axis=1, out=f"{name}.logs")
        if not is_router(at):
            return str(own)
        parts = []
        for place, child in enumerate(at):
            column = net.node("Slice", own, *(net.constant([n]) for n in (place, place + 1, 1)))
            below = None if isinstance(child, int) else choice(child, body, name_of(child))
            parts.append(column if below is None else net.node("Add", column, below))
        return str(net.node("Concat", *parts, axis=1))

    scores = choice(tree, net.image(3, size, size), "top")
    order = np.argsort(classes(tree))
    net.result(net.node("Gather", scores, net.constant(order), axis=1, out="scores"), len(order))
    named = ["top", *(name_of(router) for router in list(routers(tree))[1:])]
    parts = [net.node("Exp", logs[name]) for name in named]
    columns = len(card(tree).routes.columns)
    net.result(net.node("Concat", *parts, axis=1, out="routes") if len(parts) > 1 else parts[0], columns, name="routes")
    net.metadata = {CARD_KEY: card(tree, size).to_json()}
    return net


def fast(tree: Tree, scores: Array, routes: Array, keep: Sequence[int] | None = None) -> tuple[Array, Array]:
    """What the fast form of an expert for ``keep`` gives for the slow full model's outputs: scores and routes."""
    kept = sorted(classes(tree) if keep is None else keep)
    columns = list(card(tree).routes.columns)
    got, paths = np.full(scores.shape, np.nan), np.zeros(routes.shape)

    def walk(row: int, at: Tree, log: float) -> None:
        places = [columns.index(name_of(child)) for child in at]
        chances = routes[row, places].astype(np.float64)
        paths[row, places] = chances
        open_ = [n for n, child in enumerate(at) if set(classes(child)) & set(kept)]
        best = max(open_, key=lambda n: chances[n])
        for n, child in enumerate(at):
            below = log + np.log(chances[n])
            if n != best:
                got[row, classes(child)] = below - FLOOR
            elif isinstance(child, int):
                got[row, child] = below
            elif is_router(child):
                walk(row, child, below)
            else:
                got[row, classes(child)] = scores[row, classes(child)]

    for row in range(len(scores)):
        walk(row, tree, 0.0)
    shown = [n for n, name in enumerate(columns) if set(taxonomy(tree).by_name[name].leaves) & set(kept)]
    return got[:, kept], paths[:, shown]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Trees of two to four levels, classes beside categories too, classes in any order."""

    def shape(depth: int) -> object:
        children = draw(st.integers(2, 3))
        return [None if depth == 0 or draw(st.integers(0, 3)) == 0 else shape(depth - 1) for _ in range(children)]

    depth = draw(st.integers(1, 3))
    others = range(draw(st.integers(1, 2)))
    drawn = [shape(depth - 1), *(shape(depth - 1) if draw(st.booleans()) else None for _ in others)]
    count = str(drawn).count("None")
    order = iter(draw(st.permutations(range(count))))

    def filled(part: object) -> Tree | int:
        return tuple(map(filled, part)) if isinstance(part, list) else next(order)

    return tuple(map(filled, drawn))
