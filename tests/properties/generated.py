"""Random branched classifiers, which can also be built with only some of their branches.

A network is a trunk and parts of the kinds that the literature has: separate branches, nested ones (by Split, Slice or
Gather), branches as groups of one convolution (with batched heads), rows of a flat classifier, of one that keeps its
channels last, heads that share a weight. ``build(spec, keep)`` builds it with what the classes in ``keep`` need and
nothing else: what an expert should cost, without asking expertc.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from networks import Net
from onnx import helper


@dataclass(frozen=True)
class Flat:
    """Rows of one linear layer on what the part stands on."""

    classes: int


@dataclass(frozen=True)
class Last:
    """Rows of one linear layer on every pixel, channels last: there the classes are on axis 3."""

    classes: int


@dataclass(frozen=True)
class Twins:
    """Two heads of ``each`` classes on layers of their own, which share one weight."""

    width: int
    each: int

    @property
    def classes(self) -> int:
        return 2 * self.each


@dataclass(frozen=True)
class Divided:
    """One convolution whose channels are split between parts."""

    width: int  # of each
    parts: tuple[Part, ...]

    @property
    def classes(self) -> int:
        return sum(part.classes for part in self.parts)


@dataclass(frozen=True)
class Branch:
    """A stack of convolutions of its own, and further parts on top of it."""

    width: int
    depth: int
    residual: bool
    norm: bool
    parts: tuple[Part, ...]

    @property
    def classes(self) -> int:
        return sum(part.classes for part in self.parts)


@dataclass(frozen=True)
class Grouped:
    """``groups`` branches as the groups of one convolution; each has ``each`` classes, by a batched product."""

    groups: int
    width: int
    each: int
    norm: bool

    @property
    def classes(self) -> int:
        return self.groups * self.each


@dataclass(frozen=True)
class Reader:
    """A part that reads only some channels of what it stands on, in any order, some of them twice."""

    indices: tuple[int, ...]  # modulo the channels there are
    part: Solid

    @property
    def classes(self) -> int:
        return self.part.classes


Solid = Flat | Last | Twins | Divided | Branch | Grouped
Part = Solid | Reader


@dataclass(frozen=True)
class Spec:
    """A network; ``order[c]`` is the place of class c among the rows in the order the parts make them."""

    opset: int
    trunk: int
    root: Branch
    order: tuple[int, ...]
    ending: str  # "logits", "softmax", "joint" (of all classes), "apart" (a softmax for each piece)
    seed: int
    axis: int = 1  # of the classes in the output
    scattered: bool = False  # the scores are written piece by piece into zeros; the batch is 2 then
    exit: bool = False  # a second output, straight from the trunk

    @property
    def classes(self) -> int:
        return len(self.order)

    @property
    def kind(self) -> str:
        """The kind of the output, in the card's words."""
        return {"logits": "logits", "softmax": "probabilities"}.get(self.ending, "joint")


def build(spec: Spec, keep: Collection[int] | None = None, opaque: str = "") -> Net:
    """The network over all classes, or the one over the classes ``keep`` only, with its own random weights.

    ``opaque`` is an operator that makes a matrix of one element its element; all scores are put through it.
    """
    net = Net(spec.opset, seed=spec.seed, batch=2 if spec.scattered else "batch")
    chosen = range(spec.classes) if keep is None else sorted(keep)
    rows = _Rows({spec.order[c] for c in chosen}, keep is not None)
    trunk = net.node("LeakyRelu", net.conv(net.image(), 3, spec.trunk, kernel=3, name="trunk"))
    pieces = list(_branch(net, spec.root, trunk, spec.trunk, 0, rows, "b"))
    if spec.ending == "apart" and len(pieces) > 1:
        pieces = [(held, net.node("Softmax", tensor, axis=1)) for held, tensor in pieces]
    scores = _together(net, spec, chosen, pieces, scattered=spec.scattered and keep is None)
    if opaque:
        scores = net.node(opaque, net.node("Reshape", scores, net.constant([-1, len(chosen), 1, 1])))
    shape: tuple[int | str, ...] = (net.batch, len(chosen))
    if spec.axis == 2:
        scores, shape = net.node("Unsqueeze", scores, net.constant([1])), (net.batch, 1, len(chosen))
    elif spec.axis == 0:
        scores, shape = net.node("Transpose", scores), (len(chosen), net.batch)
    if spec.ending == "softmax":
        scores = net.node("Softmax", scores, axis=spec.axis)
    elif spec.ending == "joint":
        # The normaliser needs every class, so an expert keeps them all; only what comes after it is cut.
        each = (len(chosen), 1) if spec.axis == 0 else (len(chosen),)
        scores = net.node("Mul", net.node("Softmax", scores, axis=spec.axis), net.weight(*each, name="after"))
    net.outputs.append(helper.make_tensor_value_info(net.node("Identity", scores, out="scores"), 1, shape))
    if spec.exit:
        net.result(
            net.node("Identity", net.head(trunk, spec.trunk, len(chosen), name="b.exit"), out="exit"), len(chosen)
        )
    return net


def _together(net: Net, spec: Spec, chosen: Sequence[int], pieces: list[Piece], *, scattered: bool) -> str:
    """The pieces' rows in the order of the classes."""
    places = [row for held, _ in pieces for row in held]
    index = [places.index(spec.order[c]) for c in chosen]
    if scattered:
        scores = net.constant(np.zeros((2, len(chosen)), np.float32), "zeros")
        for held, tensor in pieces:
            grid = np.stack(np.meshgrid(range(2), [index.index(places.index(row)) for row in held], indexing="ij"), -1)
            scores = net.node("ScatterND", scores, net.constant(grid), tensor)
        return str(scores)
    together = net.node("Concat", *(tensor for _, tensor in pieces), axis=1) if len(pieces) > 1 else pieces[0][1]
    return together if index == list(range(len(places))) else net.node("Gather", together, net.constant(index), axis=1)


@dataclass(frozen=True)
class _Rows:
    """The rows to build, and whether channels that none of them reads are left out."""

    held: set[int]
    minimal: bool

    def of(self, part: Part, first: int) -> list[int]:
        """The rows of ``part``, whose first row is ``first``."""
        return [row for row in range(first, first + part.classes) if row in self.held]


Piece = tuple[list[int], str]
Pieces = Iterator[Piece]
"""Score tensors, and the rows each holds."""


def _build(net: Net, part: Solid, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    held = rows.of(part, first)
    if isinstance(part, Flat):
        yield held, net.head(x, width, len(held), name=f"{name}.flat")
    elif isinstance(part, Last):
        last = net.node("Transpose", x, perm=[0, 2, 3, 1])
        product = net.node("MatMul", last, net.weight(width, len(held), name=f"{name}.last"))
        yield (
            held,
            net.node("Flatten", net.node("GlobalAveragePool", net.node("Transpose", product, perm=[0, 3, 1, 2]))),
        )
    elif isinstance(part, Twins):
        yield from _twins(net, part, x, width, first, rows, name)
    elif isinstance(part, Divided):
        yield from _divided(net, part, x, width, first, rows, name)
    else:
        yield from (_branch if isinstance(part, Branch) else _grouped)(net, part, x, width, first, rows, name)


def _twins(net: Net, part: Twins, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    shared = ""
    for k in range(2):
        held = [row for row in rows.of(part, first) if (row - first) // part.each == k]
        if held:
            y = net.node("LeakyRelu", net.conv(x, width, part.width, name=f"{name}.twin{k}"))
            if rows.minimal or not shared:
                shared = net.weight(part.width, len(held), name=f"{name}.shared")
            yield held, net.node("MatMul", net.node("Flatten", net.node("GlobalAveragePool", y)), shared)


def _divided(net: Net, part: Divided, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    children = [child for child in _children(part, first, name) if rows.of(child[0], child[1])]
    y = net.node("LeakyRelu", net.conv(x, width, part.width * len(children), name=f"{name}.divided"))
    pieces = [y]
    if len(children) > 1:
        sizes = net.constant([part.width] * len(children))
        pieces = net.node("Split", y, sizes, axis=1, out=[f"{name}.piece{k}" for k in range(len(children))])
    for piece, (child, at, own) in zip(pieces, children, strict=True):
        if isinstance(child, Reader):
            child = child.part  # which reads all of its piece
        yield from _build(net, child, piece, part.width, at, rows, own)


def _children(part: Branch | Divided, first: int, name: str) -> list[tuple[Part, int, str]]:
    """The parts on top of a part, with the first row and the name of each."""
    places = [first + sum(p.classes for p in part.parts[:k]) for k in range(len(part.parts))]
    return [(p, at, f"{name}.{k}") for k, (p, at) in enumerate(zip(part.parts, places, strict=True))]


def _branch(net: Net, part: Branch, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    children = [child for child in _children(part, first, name) if rows.of(child[0], child[1])]
    needed = list(range(part.width))
    if rows.minimal and all(isinstance(child, Reader) for child, _, _ in children):
        needed = sorted(
            {i % part.width for child, _, _ in children if isinstance(child, Reader) for i in child.indices}
        )
    for layer in range(part.depth):
        held = needed if layer == part.depth - 1 else list(range(part.width))
        y = net.conv(x, width, len(held), kernel=1 + 2 * (layer % 2), name=f"{name}.conv{layer}")
        if part.norm:
            y = net.norm(y, len(held), name=f"{name}.norm{layer}")
        y = net.node("LeakyRelu", y)
        x = net.node("Add", _take(net, x, held, width), y) if part.residual and width == part.width else y
        width = part.width
    for child, at, own in children:
        if isinstance(child, Reader):
            index = [needed.index(i % part.width) for i in child.indices]
            yield from _build(net, child.part, _take(net, x, index, len(needed)), len(index), at, rows, own)
        else:
            yield from _build(net, child, x, part.width, at, rows, own)


def _take(net: Net, x: str, index: list[int], width: int) -> str:
    """These channels of ``x``: a Slice where they follow each other, else a Gather."""
    if index == list(range(width)):
        return x
    if index == list(range(index[0], index[0] + len(index))):
        return str(net.node("Slice", x, *(net.constant([n]) for n in (index[0], index[-1] + 1, 1))))
    return str(net.node("Gather", x, net.constant(index), axis=1))


def _grouped(net: Net, part: Grouped, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    """Groups must stay equal: the touched groups times the union of the touched positions."""
    touched = [divmod(row - first, part.each) for row in rows.of(part, first)]
    groups, positions = sorted({g for g, _ in touched}), sorted({p for _, p in touched})
    channels = len(groups) * part.width
    y = net.node("LeakyRelu", net.conv(x, width, channels, name=f"{name}.expand"))
    if part.norm:
        y = net.node("Elu", net.norm(y, channels, name=f"{name}.norm"))
    y = net.node("LeakyRelu", net.conv(y, channels, channels, kernel=3, group=len(groups), name=f"{name}.grouped"))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", y))
    split = net.node("Reshape", pooled, net.constant([-1, len(groups), 1, part.width]))
    product = net.node("MatMul", split, net.weight(len(groups), part.width, len(positions), name=f"{name}.heads"))
    flat = net.node("Reshape", product, net.constant([-1, len(groups) * len(positions)]))
    yield [first + g * part.each + p for g in groups for p in positions], str(flat)


def unequal(spec: Spec, keep: Collection[int]) -> bool:
    """Whether ``keep`` hits the groups of some grouped part in different positions, so that more must be kept."""
    rows = {spec.order[c] for c in keep}
    found = []

    def walk(parts: tuple[Part, ...], first: int) -> None:
        for outer in parts:
            part = outer.part if isinstance(outer, Reader) else outer
            if isinstance(part, (Branch, Divided)):
                walk(part.parts, first)
            elif isinstance(part, Grouped):
                hit = {divmod(row - first, part.each) for row in rows if first <= row < first + part.classes}
                found.append(len({g for g, _ in hit}) * len({p for _, p in hit}) != len(hit))
            first += part.classes

    walk((spec.root,), 0)
    return any(found)


_flats = st.builds(Flat, st.integers(1, 3)) | st.builds(Last, st.integers(1, 2))
_twins_of = st.builds(Twins, st.integers(1, 2), st.integers(1, 3))
_groupeds = st.builds(Grouped, st.integers(2, 3), st.integers(1, 3), st.integers(1, 2), st.booleans())


def _branches(parts: st.SearchStrategy[Part], most: int) -> st.SearchStrategy[Branch]:
    return st.builds(
        Branch, st.integers(1, 3), st.integers(1, 2), st.booleans(), st.booleans(),
        st.lists(parts, min_size=1, max_size=most).map(tuple),
    )  # fmt: skip


def _readers(parts: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    return parts | st.builds(Reader, st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), parts)


@st.composite
def specs(draw: st.DrawFn, endings: tuple[str, ...] = ("logits",)) -> Spec:
    """Networks of two to about twenty classes, nested up to three deep."""
    leaf = _readers(_flats | _groupeds | _twins_of)
    divided = st.builds(Divided, st.integers(1, 2), st.lists(leaf, min_size=2, max_size=3).map(tuple))
    inner = _readers(_flats | _groupeds | _twins_of | divided | _branches(leaf | divided | _branches(_flats, 2), 3))
    root = draw(_branches(inner, 4).filter(lambda part: 2 <= part.classes <= 20))
    order = draw(st.permutations(range(root.classes)) | st.just(list(range(root.classes))))
    opset, trunk, seed = draw(st.sampled_from((13, 17, 20))), draw(st.integers(2, 4)), draw(st.integers(0, 2**16))
    return Spec(
        opset, trunk, root, tuple(order), draw(st.sampled_from(endings)), seed,
        draw(st.sampled_from((1, 1, 2, 0))), draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


@st.composite
def selections(draw: st.DrawFn, spec: Spec) -> list[int]:
    """A selection of one or more of the spec's classes, ascending."""
    return sorted(draw(st.sets(st.integers(0, spec.classes - 1), min_size=1, max_size=spec.classes)))
