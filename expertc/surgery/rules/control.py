"""Control flow: If is cut in both branches; Loop and Scan need everything they read."""

from __future__ import annotations

from ...graph import branch_model
from ..demand import Demand, join
from ..site import Answer, Draft, Inner, Result, Rule, Site, Wanted, everyone, opaque

_BRANCHES = ("then_branch", "else_branch")


def _if(site: Site, wanted: Wanted) -> Answer:
    """Each branch is a network of its own whose outputs show exactly what is wanted, so both fit whoever reads them."""
    from ..sweep import sweep  # which knows the rules: a branch is swept like the graph around it

    inner: dict[str, Inner] = {}
    outside: dict[str, Demand] = {}
    for name in _BRANCHES:
        model = branch_model(site.model, site.attribute(name))
        if not all(t.name in model.shapes and t.name in model.types for t in model.graph.inputs):
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


def _loop(site: Site, wanted: Wanted) -> Answer:
    """What is carried from one turn to the next, and what is captured, is needed as a whole."""
    return opaque(site, wanted, f"{site.op} carries its state from turn to turn")


RULES: dict[str, Rule] = {
    "If": Rule(_if, _if_write),
    "Loop": Rule(_loop),
    "Scan": Rule(_loop),
}
