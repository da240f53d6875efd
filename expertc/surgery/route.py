"""From a tree of branches that are all computed to one that runs the branch alone that its router finds likeliest.

The *slow* model gives every class its log-probability: the sum of what the routers on its path and the last classifier
say. Every branch becomes an ``If`` here, decided by a column of a Hardmax over its router, and so does every branch
inside it. A class whose branch is not taken gets the log-probability of its branch less ``FLOOR``: far enough below
whatever is taken to count for nothing in a softmax, and a number still, which an infinity is not.

With a fixed batch of one the branches read what they did before. With any other each branch takes the rows that are
sent there and puts its answers back among the others: the images of a batch are grouped by route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from ..card import Card, Routes
from ..errors import UnsupportedError
from ..graph import Constant, Graph, Model, Node, Shape, Tensor, Variable, captured, refreshed
from ..graph.routing import CHOICE
from ..text import shown
from .owners import needs

FLOOR = 50.0
"""e**-50 is 2e-22: added to 1, nothing in double precision, whose grain is 2e-16."""

_MOVERS = ("Concat", "Gather", "Identity", "Slice")
_TAKEN = ".taken"  # a tensor inside the branch that makes it
_HINT = "Export it so that each branch adds its router's log-probability to its own, and the branches are put together."

TOP = ""  # where what every class needs is at home


def route(model: Model, card: Card) -> Model:
    """The *fast* model of a slow one, whose card names its routes; the card is the same.

    Raises ``UnsupportedError`` if it has no routes, or its branches do not come together as they should.
    """
    if card.routes is None:
        raise UnsupportedError("The model has no routers, so nothing can be routed.", "Give a tree of classifiers.")
    return _Router(model, card, card.routes).run()


@dataclass
class _Scope:
    """A branch: the ``name`` of its column, column number ``at`` of the router ``logs``; ``path`` from the top."""

    name: str
    path: tuple[str, ...]
    logs: str = ""
    at: int = 0
    nodes: list[int] = field(default_factory=list)  # at home here, not in a branch inside
    constants: dict[str, Constant] = field(default_factory=dict)


class _Router:
    def __init__(self, model: Model, card: Card, routes: Routes) -> None:
        self.model, self.card, self.routes = model, card, routes
        self.plain = all(shape[:1] == (1,) for shape in model.inputs.values())
        self.routers = routes.routers(card.taxonomy)
        self.logs = self._logs()
        self.scopes = self._scopes()
        self.home = self._homes()
        for at, scope in self.home.items():
            self.scopes[scope].nodes.append(at)
        self._settle_constants()

    def run(self) -> Model:
        graph = self.model.graph
        nodes = self._written(TOP, {})
        made = Graph(nodes, graph.inputs, graph.outputs, graph.name, graph.opsets)
        return refreshed(replace(self.model, graph=made))

    # -- who is where --------------------------------------------------------------------------------------------------

    def _logs(self) -> dict[str, str]:
        """The tensor ``[N, columns]`` with the log-probabilities of every router."""
        pieces = _pieces(self.model, self.routes.name)
        widths = [(self.model.shapes.get(piece) or (None,))[-1] for piece in pieces]
        if widths != [len(columns) for columns in self.routers.values()]:
            raise UnsupportedError(
                f"The output {shown(self.routes.name)} is not the routers' probabilities one after another.", _HINT
            )
        return dict(zip(self.routers, pieces, strict=True))

    def _scopes(self) -> dict[str, _Scope]:
        """The branches by name; what is the only one below its router is no branch, but a part of the one around it."""
        found = {TOP: _Scope(TOP, ())}
        for above, columns in self.routers.items():
            outer = found[above]
            for at, column in enumerate(columns):
                name = self.routes.columns[column]
                inner = _Scope(name, (*outer.path, name), self.logs[above], at)
                found[name] = outer if len(columns) == 1 else inner
        return found

    def _homes(self) -> dict[int, str]:
        """For every node that anybody needs, the innermost branch that is alone in needing it."""
        taxonomy = self.card.taxonomy
        bits = {name: sum(1 << i for i in taxonomy.by_name[name].leaves) for name in self.routes.columns}
        found: dict[int, str] = {}
        for at, answer in enumerate(needs(self.model, self.card).answers):
            kept = () if answer is None else answer.kept
            who = 0
            for item in kept:
                who |= 0 if item is None else int(item.who)
            if who:
                found[at] = self._innermost(who, bits)
        for name, tensor in self.logs.items():
            # A router decides from outside the branches; only where they are all that is left could it be in one.
            outer, waiting = self.scopes[name], [tensor]
            while waiting:
                maker = self.model.producers.get(waiting.pop())
                if maker in found and len(self.scopes[found[maker]].path) > len(outer.path):
                    found[maker] = outer.name
                    waiting += [read.name for read in self.model.nodes[maker].inputs]
        return found

    def _innermost(self, who: int, bits: Mapping[str, int]) -> str:
        at = TOP
        while at in self.routers:
            names = (self.routes.columns[column] for column in self.routers[at])
            inner = next((name for name in names if not who & ~bits[name]), None)
            if inner is None:
                break
            at = inner
        return self.scopes[at].name

    def _settle_constants(self) -> None:
        """Give every initializer to the innermost branch around all its readers."""
        places: dict[str, tuple[str, ...]] = {}
        for at, name in self.home.items():
            path = self.scopes[name].path
            for tensor in self.model.nodes[at].inputs:
                if isinstance(tensor, Constant):
                    places[tensor.name] = _common(places.get(tensor.name, path), path)
        for constant, path in places.items():
            self.scopes[path[-1] if path else TOP].constants[constant] = self.model.constants[constant]

    # -- writing -------------------------------------------------------------------------------------------------------

    def _written(self, name: str, names: Mapping[str, str]) -> list[Node]:
        """The nodes of a branch, those of the branches in it inside an If each; ``names`` are those it renames."""
        scope = self.scopes[name]
        items = [(at, self._renamed(self.model.nodes[at], names)) for at in scope.nodes]
        chosen: set[str] = set()
        for inner in {id(s): s for s in self.scopes.values()}.values():
            if inner.path[:-1] != scope.path or inner is scope:
                continue
            place = max(self._inside(inner), default=0)
            if inner.logs not in chosen:
                chosen.add(inner.logs)
                hot = _out(f"{inner.logs}.choice")
                logs = Variable(names.get(inner.logs, inner.logs))
                items.append((place, Node(CHOICE, hot.name, {"axis": 1}, [logs], [hot])))
            items += [(place, node) for node in self._branch(inner, names)]
        return _sorted(items)

    def _renamed(self, node: Node, names: Mapping[str, str]) -> Node:
        if not any(tensor.name in names for tensor in (*node.inputs, *node.outputs)):
            return node
        read, made = ([_renamed(tensor, names) for tensor in side] for side in (node.inputs, node.outputs))
        return Node(node.op, node.name, node.attrs, read, made, node.domain, like=node)

    def _branch(self, scope: _Scope, around: Mapping[str, str]) -> list[Node]:
        """The If of a branch, and what decides it; ``around`` are the names that the graph around it renames."""
        inside, base = set(self._inside(scope)), f"{scope.logs}.route{scope.at}"
        ends = self._ends(inside)
        if not ends:
            raise UnsupportedError(f"Nothing is computed for {shown(scope.name)} alone.", _HINT)
        logs = Variable(around.get(scope.logs, scope.logs))
        own = _Slice(base, Variable(f"{scope.logs}.choice"), scope.at)
        sent, go = own.made if self.plain else _out(f"{base}.any"), _out(f"{base}.go")
        deciding = list(own.nodes)
        if not self.plain:
            deciding.append(Node("ReduceMax", sent.name, {"keepdims": 0}, [own.made], [sent]))
        deciding.append(Node("Cast", go.name, {"to": TensorProto.BOOL}, [sent], [go]))
        made = [Variable(around.get(end, end)) for end in ends]
        taken = [Variable(tensor.name + _TAKEN) for tensor in made]
        names = {**around, **{end: tensor.name for end, tensor in zip(ends, taken, strict=True)}}
        before: list[Node] = []
        after: list[Node] = []
        held, results = dict(scope.constants), taken
        if not self.plain:
            rows = _Rows(base, own.made)
            before, held = list(rows.nodes), held | rows.constants
            for tensor in self._captured(inside):
                source = Variable(around.get(tensor, tensor))
                part = _out(f"{base}.{source.name}")
                before.append(Node("Gather", part.name, {"axis": 0}, [source, rows.index], [part]))
                names[tensor] = part.name
            others = _Others(self, scope, ends, logs, own.made, f"{base}.others")
            results = [Variable(f"{tensor.name}.back") for tensor in taken]
            after = list(others.nodes)
            for there, mine, back in zip(others.made, taken, results, strict=True):
                after.append(Node("ScatterND", back.name, {}, [there, rows.places, mine], [back]))
            held |= others.constants
        nodes = [*before, *self._written(scope.name, names), *after]
        then = self._graph(scope, nodes, results, ends, f"{base}.then", held)
        others = _Others(self, scope, ends, logs, own.made, f"{base}.else")
        other = self._graph(scope, others.nodes, others.made, ends, f"{base}.else", others.constants)
        return [*deciding, Node("If", base, {"then_branch": then, "else_branch": other}, [go], made)]

    def _graph(
        self, scope: _Scope, nodes: list[Node], results: Sequence[Variable], ends: Iterable[str], name: str,
        held: dict[str, Constant],
    ) -> Graph:  # fmt: skip
        """A branch whose ``results`` stand for ``ends``; in one that is sent rows by another nobody knows how many."""
        sent = not self.plain and len(scope.path) > 1
        for tensor, end in zip(results, ends, strict=True):
            shape = self._shape(end)
            tensor.kind, tensor.shape = self.model.types.get(end), [None if sent else shape[0], *shape[1:]]
        return Graph(nodes, (), results, name, self.model.graph.opsets, held)

    def _inside(self, scope: _Scope) -> list[int]:
        """The nodes of a branch and of those in it."""
        depth = len(scope.path)
        return [at for at, name in self.home.items() if self.scopes[name].path[:depth] == scope.path]

    def _ends(self, inside: set[int]) -> dict[str, bool]:
        """What others read of a branch, and whether that ends in the routes; all else ends in the scores."""
        outputs = {tensor.name for tensor in self.model.graph.outputs}
        found = {}
        for at in sorted(inside):
            for tensor in self.model.nodes[at].outputs:
                readers = [r for r in self.model.consumers.get(tensor.name, ()) if r in self.home and r not in inside]
                if tensor.name in outputs or readers:
                    found[tensor.name] = self._reaches(tensor.name) == {self.routes.name}
        return found

    def _reaches(self, name: str) -> set[str]:
        """The outputs that a tensor is a part of. Raises ``UnsupportedError`` if it is put to another use."""
        outputs = {tensor.name for tensor in self.model.graph.outputs}
        found, seen, waiting = set(), {name}, [name]
        while waiting:
            tensor = waiting.pop()
            found |= {tensor} & outputs
            for at in self.model.consumers.get(tensor, ()):
                node = self.model.nodes[at]
                if at in self.home and node.op not in (*_MOVERS, "Add"):
                    raise UnsupportedError(f"{shown(node.op)} reads what several branches make.", _HINT)
                new = {made.name for made in node.outputs} - seen if at in self.home else set()
                seen |= new
                waiting += sorted(new)
        if len(found) != 1 or len(self._shape(name)) != 2:
            raise UnsupportedError("A branch makes something besides scores and routes.", _HINT)
        return found

    def _captured(self, inside: set[int]) -> list[str]:
        """What a branch reads from outside, in order; of all of it the images are axis 0."""
        made = {tensor.name for at in inside for tensor in self.model.nodes[at].outputs}
        read = (tensor for at in sorted(inside) for tensor in self.model.nodes[at].inputs if tensor.name)
        found = list(dict.fromkeys(t.name for t in read if t.name not in made and not isinstance(t, Constant)))
        batch = {shape[0] for shape in self.model.inputs.values()}
        if any(self._shape(name)[:1] not in {(size,) for size in batch} for name in found):
            raise UnsupportedError("A branch reads something that has no row per image.", "Export it for one image.")
        return found

    def _shape(self, name: str) -> Shape:
        return self.model.shapes.get(name, ())


class _Slice:
    """One column ``[N, 1]`` of a matrix."""

    def __init__(self, base: str, matrix: Variable, at: int, name: str = ".own") -> None:
        self.made = _out(base + name)
        bounds = {"starts": [at], "ends": [at + 1], "axes": [1]}
        inputs = [Constant(f"{self.made.name}.{key}", np.array(value, np.int64)) for key, value in bounds.items()]
        self.nodes = [Node("Slice", self.made.name, {}, [matrix, *inputs], [self.made])]
        self.constants = {constant.name: constant for constant in inputs}


class _Rows:
    """Which images are sent to a branch: ``index`` ``[k]`` to gather them, ``places`` ``[k, 1]`` to put them back."""

    def __init__(self, base: str, own: Variable) -> None:
        flat, found = _out(f"{base}.flat"), _out(f"{base}.sent")
        self.index, self.places = _out(f"{base}.index"), _out(f"{base}.places")
        line = Constant(f"{base}.line", np.array([-1], np.int64))
        self.constants = {line.name: line}
        self.nodes = [
            Node("Reshape", flat.name, {}, [own, line], [flat]),
            Node("NonZero", found.name, {}, [flat], [found]),
            Node("Reshape", self.index.name, {}, [found, line], [self.index]),
            Node("Transpose", self.places.name, {"perm": [1, 0]}, [found], [self.places]),
        ]


class _Others:
    """What the ends of a branch hold for images that are not sent there: ``made``, one for each."""

    def __init__(
        self, router: _Router, scope: _Scope, ends: Mapping[str, bool], logs: Variable, own: Variable, base: str
    ) -> None:
        column = _Slice(base, logs, scope.at, ".log")
        scored = not all(ends.values())
        self.nodes: list[Node] = list(column.nodes) if scored else []
        self.constants: dict[str, Constant] = dict(column.constants) if scored else {}
        self.made: list[Variable] = []
        for number, (end, explains) in enumerate(ends.items()):
            made, width = _out(f"{base}{number}"), int(router.model.shapes[end][1] or 0)
            # A subtraction, because a vector that is added would count as trained.
            less = Constant(f"{made.name}.less", np.full(width, 0.0 if explains else FLOOR, np.float32))
            self.constants[less.name] = less
            self.nodes.append(Node("Sub", made.name, {}, [own if explains else column.made, less], [made]))
            self.made.append(made)


def _pieces(model: Model, name: str) -> list[str]:
    """What an output of exponentials put side by side is made of, from left to right."""
    at = model.producers.get(name)
    node = None if at is None else model.nodes[at]
    if node is None or node.op not in ("Concat", "Exp", "Identity"):
        return []
    if node.op == "Exp":
        return [str(node.inputs[0].name)]
    return [piece for tensor in node.inputs for piece in _pieces(model, tensor.name)]


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """The longest path that both begin with."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _out(name: str) -> Variable:
    return Variable(name)


def _renamed(tensor: Tensor, names: Mapping[str, str]) -> Tensor:
    return Variable(names[tensor.name]) if tensor.name in names and not isinstance(tensor, Constant) else tensor


def _sorted(items: Sequence[tuple[int, Node]]) -> list[Node]:
    """The nodes by their place, each after those it reads."""
    ordered = [node for _, node in sorted(items, key=lambda item: item[0])]
    makers = {tensor.name: node for node in ordered for tensor in node.outputs if tensor.name}
    done: list[Node] = []
    seen: dict[int, bool] = {}  # whether it is done

    def visit(node: Node) -> None:
        if seen.get(id(node)):
            return
        if id(node) in seen:
            raise UnsupportedError("Two branches wait for each other.", _HINT)
        seen[id(node)] = False
        for name in (*(tensor.name for tensor in node.inputs), *captured(node)):
            maker: Any = makers.get(name)
            if maker is not None and maker is not node:
                visit(maker)
        seen[id(node)] = True
        done.append(node)

    for node in ordered:
        visit(node)
    return done
