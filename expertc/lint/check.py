"""The check of a whole model against a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from onnx import TensorProto

from ..card import Card
from ..errors import UnsupportedError
from ..graph import Graph, Model, Node, branch_model
from ..surgery.owners import members, needs
from ..surgery.passes import MALFORMED, malformed
from ..surgery.quantise import broken_rules
from ..targets import Release, Target
from ..text import shown
from .finding import LEVELS, NOTE, REFUSAL, WARNING, Finding
from .memory import footprint
from .operators import OLDEST, ceiling
from .rules import TEN, Place, check_node

_MIB = 2**20
_MOST_NAMED = 3  # classes that name a branch which has no name of its own
_LOWER = {TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8"}


def lint(
    model: Model, target: Target, card: Card | None = None, *, release: Release | None = None, batch: int = 1
) -> tuple[Finding, ...]:
    """What TensorRT will make of ``model`` on ``target``: refusals first, then warnings and notes.

    Args:
        model: the model, as it will be handed over.
        target: a target of the backend "tensorrt"; for another nothing is found.
        card: its card, by which nodes are told apart by branch.
        release: the TensorRT that is there; by default the oldest that the target allows, or the oldest supported.
        batch: images per call, where the model leaves that open.

    Raises ``ModelError`` for a node that breaks its operator's specification.
    """
    if target.backend != "tensorrt":
        return ()
    found = [*_whole(model, target, release, batch)]
    branches = _Branches(model, card)
    counted: dict[tuple[str, str, str, str], Finding] = {}
    for at, node, level, why in _nodes(model, target, release or target.tensorrt_min or OLDEST):
        branch = branches.of(at)
        key = (level, node.op, branch, why)
        one = Finding(level, why, node.op, node.name or (node.outputs[0].name if node.outputs else ""), branch)
        counted[key] = replace(counted[key], count=counted[key].count + 1) if key in counted else one
    return tuple(sorted((*found, *counted.values()), key=lambda item: LEVELS.index(item.level)))


def refuse(findings: Iterable[Finding], target: Target) -> None:
    """Raise ``UnsupportedError``, naming operator, node and branch, if one of the findings is a refusal."""
    refusals = [finding for finding in findings if finding.level == REFUSAL]
    if refusals:
        more = f" (and {len(refusals) - 1:,} more such findings)" if len(refusals) > 1 else ""
        raise UnsupportedError(
            f"'{target.name}' cannot run this model{more}: {refusals[0]}",
            "Choose another target or form of the model, or leave that branch out.",
        )


def _whole(model: Model, target: Target, release: Release | None, batch: int) -> Iterator[Finding]:
    """What is to be said of no single node."""
    known = release or target.tensorrt_min
    if known is None:
        yield Finding(NOTE, f"no release of TensorRT is known, so {'.'.join(map(str, OLDEST))} is taken for it")
    limit = ceiling(known or OLDEST) if release or target.max_opset is None else target.max_opset
    if model.opset > limit:
        yield Finding(REFUSAL, f"the model is of opset {model.opset}, and the target reads up to {limit}")
    for name, shape in model.inputs.items():
        if any(not isinstance(dim, int) for dim in shape[1:]):
            yield Finding(
                WARNING, f"the input {shown(name)} leaves open more than its batch, which needs a profile of sizes"
            )
    yield from _memory(model, target, batch)


def _memory(model: Model, target: Target, batch: int) -> Iterator[Finding]:
    need = footprint(model, batch)
    weights, data = (f"{size / _MIB:,.1f} MB" for size in (need.weight_bytes, need.activation_bytes))
    said = f"it holds about {weights} of weights and {data} of data"
    if target.memory_mb is None or target.workspace_mb is None:
        yield Finding(NOTE, said)
        return
    room = target.memory_mb * _MIB
    if need.total > room:
        yield Finding(REFUSAL, f"{said}, more than the {target.memory_mb:,} MB of the device")
    elif need.total + target.workspace_mb * _MIB > room:
        yield Finding(WARNING, f"{said}, which leaves less than the builder's workspace of {target.workspace_mb:,} MB")
    else:
        yield Finding(NOTE, f"{said}; the device has {target.memory_mb:,} MB")


def _nodes(model: Model, target: Target, release: Release) -> Iterator[tuple[int, Node, str, str]]:
    """What is to be said of the nodes: which, in whose place at the top, level and sentence. Subgraphs are entered."""
    refused = set()
    stack: list[tuple[Model, Sequence[int]]] = [(model, range(len(model.nodes)))]
    while stack:
        graph, at_top = stack.pop()
        for at, node in zip(at_top, graph.nodes, strict=True):
            try:
                for level, why in check_node(Place(graph, node, release)):
                    if graph is model and level == REFUSAL:
                        refused.add(at)
                    yield at, node, level, why
                kinds = {_LOWER.get(graph.types.get(tensor.name, 0)) for tensor in node.outputs} - {None}
                for kind in sorted(map(str, kinds - set(target.precisions))):
                    yield at, node, REFUSAL, f"it makes {kind}, which the target does not run"
                inner = [value for value in node.attrs.values() if isinstance(value, Graph)] if node.has_graphs else []
            except MALFORMED as error:
                raise malformed(node) from error
            stack += [(found := branch_model(graph, each), [at] * len(found.nodes)) for each in inner]
    places = {id(node): at for at, node in enumerate(model.nodes)}
    for node, why in broken_rules(model):
        if places[id(node)] not in refused:  # what has been said of it says more
            yield places[id(node)], node, REFUSAL if release < TEN else WARNING, f"it {why}"


class _Branches:
    """The branch that each node belongs to, found out when it is first asked for."""

    def __init__(self, model: Model, card: Card | None) -> None:
        self._model, self._card = model, card

    def of(self, at: int) -> str:
        """The name of a node's branch, "trunk" if every class needs it, or "" if no class does or nobody knows."""
        return self._names[at] if self._card is not None else ""

    @cached_property
    def _names(self) -> list[str]:
        assert self._card is not None
        flow = needs(self._model, self._card)
        owners = [
            next((int(item.who) for item in answer.kept if item is not None), 0) if answer is not None else 0
            for answer in flow.answers
        ]
        names = {who: self._name(self._card, who) for who in set(owners)}
        return [names[who] for who in owners]

    @staticmethod
    def _name(card: Card, who: int) -> str:
        indices = tuple(members(who))
        if len(indices) in (0, len(card.classes)):
            return "trunk" if indices else ""
        node = card.taxonomy.owner(indices)
        named = ", ".join(card.classes[index] for index in indices[:_MOST_NAMED])
        return node.name if node is not None else f"{named}{', …' if len(indices) > _MOST_NAMED else ''}"
