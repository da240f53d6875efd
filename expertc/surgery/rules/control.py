"""Control flow: If is cut in both branches; Loop and Scan need everything they read."""

from __future__ import annotations

from dataclasses import replace

from ...graph import Constant, Graph, Model, Node, Tensor, Variable, outside, refreshed
from ..demand import Demand, join
from ..site import Answer, Draft, Inner, Result, Rule, Site, Wanted, everyone, opaque, symbol_source

_BRANCHES = ("then_branch", "else_branch")


def _if(site: Site, wanted: Wanted) -> Answer:
    """Each branch is a network of its own whose outputs show exactly what is wanted, so both fit whoever reads them."""
    from ..sweep import sweep  # which knows the rules: a branch is swept like the graph around it

    inner: dict[str, Inner] = {}
    outside: dict[str, Demand] = {}
    for name in _BRANCHES:
        model = _as_model(site, site.attribute(name))
        if model is None:
            return opaque(site, wanted, "If reads a tensor of unknown shape")
        ends = [tensor.name for tensor in site.attribute(name).outputs]
        results = tuple(Result(end, end, item) for end, item in zip(ends, wanted, strict=True) if item is not None)
        seeds: dict[str, Demand] = {}
        for result in results:
            seeds[result.source] = join((seeds.get(result.source), result.want)) or result.want
        flow = sweep(model, seeds)
        inner[name] = Inner(model, flow, results)
        for tensor in model.graph.inputs:
            asked = join((outside.get(tensor.name), flow.demands.get(tensor.name)))
            if asked is not None:
                outside[tensor.name] = asked
    return Answer((Demand(everyone(wanted)),), tuple(wanted), inner=inner, captured=outside)


def _if_write(site: Site, answer: Answer, draft: Draft) -> None:
    draft.outputs = [name for name, kept in zip(draft.outputs, answer.kept, strict=True) if kept is not None]


def _as_model(site: Site, branch: Graph) -> Model | None:
    """A branch as a graph whose inputs are what it captures; its constants are initializers; None if one is unknown.

    Sizes that the graph around it cannot read at run time are not known inside either.
    """
    outer = site.model
    made: dict[str, Tensor] = {}
    nodes: list[Node] = []

    def tensor(old: Tensor) -> Tensor:
        if not old.name:
            return Tensor()
        if old.name not in made:
            made[old.name] = old.copy() if isinstance(old, Constant) else Variable(old.name)
        return made[old.name]

    for node in branch.nodes:
        if node.op == "Constant" and isinstance(node.attrs.get("value"), Constant):
            made[node.outputs[0].name] = node.attrs["value"].copy(node.outputs[0].name)
            continue
        read, written = [tensor(t) for t in node.inputs], [tensor(t) for t in node.outputs]
        nodes.append(Node(node.op, node.name, node.attrs, read, written, node.domain, like=node))
    inside = {t.name for node in nodes for t in node.outputs} | {n for n, t in made.items() if isinstance(t, Constant)}
    inputs = []
    # Constants count as the branch's own, whoever has them.
    for name in dict.fromkeys(tensor.name for tensor in outside(branch) if isinstance(tensor, Variable)):
        if name in inside:
            continue
        shape, kind = outer.shapes.get(name), outer.types.get(name)
        if shape is None or kind is None:
            return None
        known = [dim if isinstance(dim, int) or symbol_source(outer, dim) else None for dim in shape]
        captive = made.get(name)
        if not isinstance(captive, Variable):
            captive = made[name] = Variable(name)
        captive.kind, captive.shape = kind, known
        inputs.append(captive)
    graph = Graph(nodes, inputs, [tensor(t) for t in branch.outputs], branch.name, outer.graph.opsets)
    return refreshed(replace(outer, graph=graph, metadata={}))


def _loop(site: Site, wanted: Wanted) -> Answer:
    """What is carried from one turn to the next, and what is captured, is needed as a whole."""
    return opaque(site, wanted, f"{site.op} carries its state from turn to turn")


RULES: dict[str, Rule] = {
    "If": Rule(_if, _if_write),
    "Loop": Rule(_loop),
    "Scan": Rule(_loop),
}
