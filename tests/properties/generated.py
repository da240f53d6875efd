"""Random branched classifiers, which can also be built with only some of their branches.

A network is a trunk and parts of the kinds that the literature has: separate branches, nested ones, branches as groups
of one convolution (with batched heads), rows of a flat classifier. ``build(spec, keep)`` builds it with what the
classes in ``keep`` need and nothing else: what an expert should cost, without asking expertc.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hypothesis import strategies as st
from networks import Net


@dataclass(frozen=True)
class Flat:
    """Rows of one linear layer on what the part stands on."""

    classes: int


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
    part: Flat | Branch | Grouped

    @property
    def classes(self) -> int:
        return self.part.classes


Part = Flat | Branch | Grouped | Reader


@dataclass(frozen=True)
class Spec:
    """A network; ``order[c]`` is the place of class c among the rows in the order the parts make them."""

    opset: int
    trunk: int
    root: Branch
    order: tuple[int, ...]
    ending: str  # "logits", "softmax", "joint"
    seed: int

    @property
    def classes(self) -> int:
        return len(self.order)

    @property
    def kind(self) -> str:
        """The kind of the output, in the card's words."""
        return {"logits": "logits", "softmax": "probabilities", "joint": "joint"}[self.ending]


def build(spec: Spec, keep: Collection[int] | None = None) -> Net:
    """The network over all classes, or the one over the classes ``keep`` only, with its own random weights."""
    net = Net(spec.opset, seed=spec.seed)
    chosen = range(spec.classes) if keep is None else sorted(keep)
    rows = _Rows({spec.order[c] for c in chosen}, keep is not None)
    trunk = net.node("LeakyRelu", net.conv(net.image(), 3, spec.trunk, kernel=3, name="trunk"))
    pieces = list(_branch(net, spec.root, trunk, spec.trunk, 0, rows, "b"))
    together = net.node("Concat", *(tensor for _, tensor in pieces), axis=1) if len(pieces) > 1 else pieces[0][1]
    places = [row for held, _ in pieces for row in held]
    index = [places.index(spec.order[c]) for c in chosen]
    if index != list(range(len(places))):
        together = net.node("Gather", together, net.constant(index), axis=1)
    if spec.ending == "softmax":
        together = net.node("Softmax", together, axis=1)
    elif spec.ending == "joint":
        # The normaliser needs every class, so an expert keeps them all; only what comes after it is cut.
        weights = net.weight(len(index), name="after")
        together = net.node("Mul", net.node("Softmax", together, axis=1), weights)
    net.result(net.node("Identity", together, out="scores"), len(index))
    return net


@dataclass(frozen=True)
class _Rows:
    """The rows to build, and whether channels that none of them reads are left out."""

    held: set[int]
    minimal: bool

    def of(self, part: Part, first: int) -> list[int]:
        """The rows of ``part``, whose first row is ``first``."""
        return [row for row in range(first, first + part.classes) if row in self.held]


Pieces = Iterator[tuple[list[int], str]]
"""Score tensors, and the rows each holds."""


def _build(net: Net, part: Flat | Branch | Grouped, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    if isinstance(part, Flat):
        held = rows.of(part, first)
        yield held, net.head(x, width, len(held), name=f"{name}.flat")
    else:
        yield from (_branch if isinstance(part, Branch) else _grouped)(net, part, x, width, first, rows, name)


def _branch(net: Net, part: Branch, x: str, width: int, first: int, rows: _Rows, name: str) -> Pieces:
    places = [first + sum(p.classes for p in part.parts[:k]) for k in range(len(part.parts))]
    children = [
        (p, at, f"{name}.{k}") for k, (p, at) in enumerate(zip(part.parts, places, strict=True)) if rows.of(p, at)
    ]
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
            if isinstance(part, Branch):
                walk(part.parts, first)
            elif isinstance(part, Grouped):
                hit = {divmod(row - first, part.each) for row in rows if first <= row < first + part.classes}
                found.append(len({g for g, _ in hit}) * len({p for _, p in hit}) != len(hit))
            first += part.classes

    walk((spec.root,), 0)
    return any(found)


_flats = st.builds(Flat, st.integers(1, 3))
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
    leaf = _readers(_flats | _groupeds)
    inner = _readers(_flats | _groupeds | _branches(leaf | _branches(_flats, 2), 3))
    root = draw(_branches(inner, 4).filter(lambda part: 2 <= part.classes <= 20))
    order = draw(st.permutations(range(root.classes)) | st.just(list(range(root.classes))))
    opset, trunk, seed = draw(st.sampled_from((13, 17, 20))), draw(st.integers(2, 4)), draw(st.integers(0, 2**16))
    return Spec(opset, trunk, root, tuple(order), draw(st.sampled_from(endings)), seed)


@st.composite
def selections(draw: st.DrawFn, spec: Spec) -> list[int]:
    """A selection of one or more of the spec's classes, ascending."""
    return sorted(draw(st.sets(st.integers(0, spec.classes - 1), min_size=1, max_size=spec.classes)))
