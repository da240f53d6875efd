"""The two driven forms of a network with exits, and back: *nested*, one graph with the rule in it, and *staged*.

The plain form computes every exit and decides nothing; it is what every other pass works on. Nested, each stage after
the first stands in the ``else_branch`` of an If, and is not computed where an earlier exit has answered. Staged, each
is a graph of its own that reads what earlier ones made, by its name; somebody else decides (``exit_rule.decide``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from onnx import TensorProto

from ..card import CARD_KEY, Card, Control
from ..errors import CardError, UnsupportedError
from ..exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE, Exits
from ..graph import Constant, Graph, Model, Node, Tensor, Variable, captured_tensors, fresh_name, refreshed, reread
from ..graph.cost import Cost, cost
from ..text import shown
from .rule import Rule

FACE = (SCORES, COARSE, GRANULARITY, EXIT)
FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)
_AGAIN = "Export the model again."
_HINT = "Build it in the plain form, with --exits plain."


def nested(model: Model, card: Card) -> tuple[Model, Card]:
    """The nested form of a plain model, and its card; both give the same model the same bytes.

    Thresholds and tolerance are inputs, ``[exits - 1]`` and ``[1]`` float32, unless the card says that they are frozen.
    Raises ``UnsupportedError`` if the model has an output beside its exits, or a stage nothing of its own.
    """
    exits = _plain(card)
    model = _renamed(model, card, {*FACE, THRESHOLD, TOLERANCE})
    stages = _stages(model, exits)
    driven = card.with_exits(replace(exits, driven=True))
    if not exits.frozen:
        settings = tuple(Control(name, values, False) for name, values in exits.settings.items())
        driven = replace(driven, controls=(*card.controls, *settings))
    graph = _Nest(model, card, exits, stages).graph()
    made = replace(model, graph=graph, metadata={**model.metadata, CARD_KEY: driven.to_json()})
    return refreshed(made), driven


def staged(model: Model, card: Card) -> tuple[Model, ...]:
    """The stages of a plain model, one per exit; the first has its card.

    A stage's outputs are its exit's logits and what later ones read. Raises ``UnsupportedError`` as ``nested`` does,
    and if it has inputs beside the image.
    """
    exits = _plain(card)
    if card.controls:
        raise UnsupportedError("Stages take an image and nothing else.", "Freeze the controls, with --embed.")
    stages = _stages(model, exits)
    homes = {tensor.name: at for at, nodes in enumerate(stages) for node in nodes for tensor in node.outputs}
    made = []
    for at, nodes in enumerate(stages):
        asked = [name for number in range(at, len(stages)) for name in _asked(exits, number)]
        later = [name for after in stages[at + 1 :] for node in after for name in _read(node)]
        face = dict.fromkeys((*asked, *later))
        read = dict.fromkeys(name for node in nodes for name in _read(node))
        outside = [name for name in read if homes.get(name, -1) < at and name not in model.constants]
        graph = Graph(
            nodes,
            [_faced(model, name) for name in ([card.input] if at == 0 else outside)],
            [_faced(model, name) for name in face if homes.get(name) == at],
            model.graph.name,
            model.graph.opsets,
        )
        metadata = model.metadata if at == 0 else {}
        made.append(refreshed(replace(model, graph=graph, metadata=metadata)))
    return tuple(made)


def joined(stages: Sequence[Model], card: Card) -> Model:
    """The plain model that ``staged`` has taken apart; ``card`` is its own.

    Raises ``CardError`` if the stages do not fit together.
    """
    made: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for stage in stages:
        nodes += _copied(stage.nodes, made)
    return _assembled(stages[0], nodes, card)


def flatten(model: Model, card: Card) -> tuple[Model, Card]:
    """The plain form of a nested model, and its card; any other model is given back as it is.

    Raises ``CardError`` if the graph does not hold what the card names.
    """
    exits = card.exits
    if exits is None or not exits.driven:
        return model, card
    made: dict[str, Tensor] = {}
    nodes: list[Node] = []
    graph = model.graph
    while True:
        nodes += _copied(graph.nodes, made)
        # Whatever decides: the next stage is where the scores come from if this one's exit does not answer.
        ends = {tensor.name for tensor in graph.outputs[:1]}
        last = next((node for node in nodes if ends & {tensor.name for tensor in node.outputs}), None)
        inner = last.attrs.get("else_branch") if last is not None and last.op == "If" else None
        if last is None or not isinstance(inner, Graph):
            break
        nodes.remove(last)
        graph = inner
    settings = {THRESHOLD, TOLERANCE}
    controls = tuple(control for control in card.controls if control.name not in settings)
    plain = replace(card, controls=controls, exits=None).with_exits(replace(exits, driven=False))
    return _assembled(model, nodes, plain), plain


def costs(model: Model, card: Card) -> tuple[Cost, ...]:
    """What a plain model costs up to each exit, those before it included, as a run does that gets there."""
    exits, found = _plain(card), []
    for at in range(len(exits.exits)):
        names = [name for number in range(at + 1) for name in _asked(exits, number)]
        nodes = [model.nodes[position] for position in sorted(needed(model.nodes, names))]
        found.append(cost(replace(model, graph=replace(model.graph, nodes=nodes, outputs=()))))
    return tuple(found)


class _Nest:
    """Writes the nested form, from the outermost stage to the innermost."""

    def __init__(self, model: Model, card: Card, exits: Exits, stages: Sequence[Sequence[Node]]) -> None:
        self.model, self.exits, self.stages = model, exits, stages
        self.rule = Rule(model, card, exits)
        self.face = tuple(name for name in FACE if name != COARSE or exits.categories)
        self.homes: dict[str, int] = {}  # of each initializer, the outermost stage that reads it
        for at in range(len(stages) - 1, -1, -1):
            self.homes.update((t.name, at) for n in stages[at] for t in _tensors(n) if isinstance(t, Constant))

    def graph(self) -> Graph:
        source = self.model.graph
        nodes, _ = self._from(0, self.face)
        settings = [] if self.exits.frozen else [
            Variable(name, FLOAT, [len(values)]) for name, values in self.exits.settings.items()
        ]  # fmt: skip
        return Graph(nodes, [*source.inputs, *settings], self._ends(self.face), source.name, source.opsets)

    def _from(self, at: int, names: Sequence[str]) -> tuple[list[Node], dict[str, Constant]]:
        """The nodes from a stage on, which end in ``names``, and the initializers that are its own."""
        decided = self.rule.decided(at)
        nodes, constants = [*self.stages[at], *decided.nodes], dict(decided.constants)
        constants |= {
            t.name: t
            for node in self.stages[at]
            for t in _tensors(node)
            if isinstance(t, Constant) and self.homes[t.name] == at
        }
        if decided.answers is None:
            answer = self.rule.answer(at, decided.fine, names)
            return [*nodes, *answer.nodes], constants | answer.constants
        mine, theirs = ([self.rule.name(f"{name}@{what}{at + 1}") for name in self.face] for what in ("exit", "after"))
        answer = self.rule.answer(at, decided.fine, mine)
        then = Graph(answer.nodes, (), self._ends(mine), f"exit{at + 1}", self.model.graph.opsets, answer.constants)
        rest, local = self._from(at + 1, theirs)
        other = Graph(rest, (), self._ends(theirs), f"stage{at + 2}", self.model.graph.opsets, local)
        branches = {"then_branch": then, "else_branch": other}
        name = self.rule.name(f"@exit{at + 1}")
        return [*nodes, Node("If", name, branches, [decided.answers], [Variable(name) for name in names])], constants

    def _ends(self, names: Sequence[str]) -> list[Variable]:
        """The four outputs, under these names."""
        logits = self.exits.tensors[-1]
        kind, batch = self.model.types.get(logits, FLOAT), self.model.shapes[logits][0]
        widths = {SCORES: len(self.rule.card.classes), COARSE: len(self.exits.categories)}
        return [
            Variable(name, kind, [batch, widths[what]]) if what in widths else Variable(name, INT64, [batch])
            for what, name in zip(self.face, names, strict=True)
        ]


def _plain(card: Card) -> Exits:
    if card.exits is None or card.exits.driven:
        raise UnsupportedError("Only the plain form of a network with exits can be driven.", "Give such a model.")
    return card.exits


def _asked(exits: Exits, at: int) -> tuple[str, ...]:
    """The tensors of the exit at a position; whether to answer finely is known at the first."""
    beside = (exits.semantic,) if at == 0 and exits.semantic is not None else ()
    return (*beside, *exits.exits[at].names)


def _stages(model: Model, exits: Exits) -> list[list[Node]]:
    """The nodes of each stage: what its exit needs and no earlier one does, in order."""
    odd = next((name for name in model.outputs if name not in exits.tensors), None)
    if odd is not None:
        raise UnsupportedError(f"Nothing says at which exit the output {shown(odd)} is wanted.", _HINT)
    seen: set[int] = set()
    stages = []
    for number in range(len(exits.exits)):
        new = needed(model.nodes, _asked(exits, number)) - seen
        if not new:
            raise UnsupportedError(f"Exit {number + 1} has nothing of its own to compute.", _HINT)
        seen |= new
        stages.append([model.nodes[at] for at in sorted(new)])
    return stages


def needed(nodes: Sequence[Node], names: Iterable[str]) -> set[int]:
    """Positions of the nodes that the tensors ``names`` are made by, from the inputs on."""
    producers = {tensor.name: at for at, node in enumerate(nodes) for tensor in node.outputs}
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        at = producers.get(waiting.pop())
        if at is not None and at not in found:
            found.add(at)
            waiting += _read(nodes[at])
    return found


def _tensors(node: Node) -> list[Tensor]:
    """What a node reads, subgraphs included."""
    return [tensor for tensor in (*node.inputs, *(captured_tensors(node) if node.has_graphs else ())) if tensor.name]


def _read(node: Node) -> list[str]:
    return [tensor.name for tensor in _tensors(node)]


def _faced(model: Model, name: str) -> Variable:
    """A tensor as a graph's face declares it."""
    return Variable(name, model.types.get(name), model.shapes.get(name))


def _renamed(model: Model, card: Card, taken: set[str]) -> Model:
    """The model with other names for tensors inside it that are called like one of ``taken``."""
    names = {tensor.name for node in model.nodes for tensor in node.outputs}
    clash = sorted(taken & names)
    bound = {card.input, *(control.name for control in card.controls), *(n for x in model.nodes for n in _captured(x))}
    if taken & bound:
        raise UnsupportedError(f"The model calls something {shown(min(taken & bound))}.", "Call it otherwise.")
    if not clash:
        return model
    names |= taken | bound
    new = {name: Variable(fresh_name(f"{name}.inside", names)) for name in clash}

    def changed(side: Sequence[Tensor]) -> list[Tensor]:
        return [new.get(tensor.name, tensor) for tensor in side]

    nodes = [
        Node(n.op, n.name, n.attrs, changed(n.inputs), changed(n.outputs), n.domain, like=n)
        if any(tensor.name in new for tensor in (*n.inputs, *n.outputs)) else n
        for n in model.nodes
    ]  # fmt: skip
    return refreshed(replace(model, graph=replace(model.graph, nodes=nodes)))


def _captured(node: Node) -> list[str]:
    return [tensor.name for tensor in captured_tensors(node)] if node.has_graphs else []


def _copied(nodes: Sequence[Node], made: dict[str, Tensor]) -> list[Node]:
    """The nodes of one of several graphs that become one; ``made`` are the tensors of those before, by name."""
    found = []
    for node in nodes:
        if node.op == "Constant" and isinstance(value := node.attrs.get("value"), Constant):
            _add(made, value.copy(node.outputs[0].name))
            continue
        for tensor in _tensors(node):
            if isinstance(tensor, Constant) and made.get(tensor.name) is not tensor:
                _add(made, tensor)
        read = [made.get(tensor.name, tensor) if tensor.name else tensor for tensor in node.inputs]
        for tensor in node.outputs:
            if tensor.name:
                _add(made, tensor, again=False)
        found.append(Node(node.op, node.name, node.attrs, read, node.outputs, node.domain, like=node))
    return found


def _add(made: dict[str, Tensor], tensor: Tensor, *, again: bool = True) -> None:
    """Remember a tensor. Raises ``CardError`` if one has its name; the same weight may come ``again``."""
    known = made.get(tensor.name)
    same = isinstance(known, Constant) and isinstance(tensor, Constant) and known.stored() == tensor.stored()
    if known is not None and not (again and same):
        raise CardError(f"Two stages of the network make {shown(tensor.name)}.", _AGAIN)
    made.setdefault(tensor.name, tensor)


def _assembled(model: Model, nodes: list[Node], card: Card) -> Model:
    """The plain model of all these nodes that its card's exits need."""
    assert card.exits is not None
    names = card.exits.tensors
    kept = [nodes[at] for at in sorted(needed(nodes, names))]
    made = {tensor.name for node in kept for tensor in node.outputs}
    known = {card.input, *(control.name for control in card.controls)}
    inputs = [tensor for tensor in model.graph.inputs if tensor.name in known]
    for name in (*names, *(tensor.name for node in kept for tensor in _tensors(node) if type(tensor) is Variable)):
        if name not in made and name not in known:
            raise CardError(f"The graph has no tensor {shown(name)}, which the card names or a stage reads.", _AGAIN)
    graph = Graph(kept, inputs, [Variable(name) for name in names], model.graph.name, model.graph.opsets)
    flat = reread(replace(model, graph=graph, metadata={**model.metadata, CARD_KEY: card.to_json()}))
    outputs = [_faced(flat, name) for name in names]
    return reread(replace(flat, graph=replace(flat.graph, outputs=outputs)))
