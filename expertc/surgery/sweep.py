"""The backward sweep: from what is wanted of the outputs to what is needed of every tensor. One visit per node."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import Model, Node, captured
from ..graph.routing import routing
from .demand import Demand, join
from .passes import MALFORMED, malformed
from .rules import rule_of
from .rules.elementwise import first_only
from .site import Answer, Flow, Rule, Site, Wanted, everyone

CUT_THROUGH = Rule(first_only)
"""The rule of a class softmax and of a router's choice: the expert normalises over the classes, and chooses among the
branches, that it keeps (RULES, outputs)."""


def rule_at(at: int, node: Node, through: frozenset[int]) -> Rule:
    """The rule of the node at position ``at``, the class softmax and the choice of a branch included."""
    return CUT_THROUGH if at in through else rule_of(node)


def sweep(model: Model, seeds: Mapping[str, Demand], through: frozenset[int] = frozenset()) -> Flow:
    """Spread ``seeds`` (demands on graph outputs) backwards. ``through`` are the nodes that are class softmaxes.

    A router's choice (``routing``) is cut through as well.
    """
    through = through | routing(model)
    demands: dict[str, Demand] = dict(seeds)
    answers: list[Answer | None] = [None] * len(model.nodes)
    for at in range(len(model.nodes) - 1, -1, -1):
        node = model.nodes[at]
        wanted = [demands.get(tensor.name) for tensor in node.outputs]
        if not any(wanted):
            continue
        rule = rule_at(at, node, through)
        if rule.plain and not any(item is None or item.marks for item in wanted):
            answer = _whole(node, wanted)
        else:
            answer = _asked(Site(model, at, node), rule, wanted)
        answers[at] = answer
        for tensor, ask in zip(node.inputs, answer.asks, strict=True):
            if ask is not None and tensor.name:
                _add(demands, tensor.name, ask)
        if node.has_graphs:
            inside = answer.captured if answer.inner else dict.fromkeys(captured(node), Demand(everyone(wanted)))
            for name, ask in inside.items():
                _add(demands, name, ask)
    return Flow(tuple(answers), demands, through)


def _whole(node: Node, wanted: Wanted) -> Answer:
    """What a node with a plain rule answers whose outputs are wanted as a whole."""
    whole = wanted[0] if len(wanted) == 1 else Demand(everyone(wanted))
    return Answer(tuple([whole if tensor.name else None for tensor in node.inputs]), (whole,) * len(wanted))


def _asked(site: Site, rule: Rule, wanted: Wanted) -> Answer:
    """The rule's answer, with one ask per input: a rule need not mention optional inputs that are left out.

    A rule takes its operator's specification for granted; a stranger's node that breaks it ends here.
    """
    try:
        answer = rule.ask(site, wanted)
    except MALFORMED as error:
        raise malformed(site.node) from error
    missing = len(site.node.inputs) - len(answer.asks)
    return answer._replace(asks=(*answer.asks, *(None,) * missing)) if missing > 0 else answer


def _add(demands: dict[str, Demand], name: str, ask: Demand) -> None:
    found = demands.get(name)
    joined = ask if found is None else join((found, ask))
    if joined is not None:
        demands[name] = joined
