"""``expertc classes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..surgery.owners import Branch
    from ..taxonomy import Node

Branches = dict[tuple[int, ...], "Branch"]
Row = tuple[str, str, str, str]


@click.command(epilog=options.example("expertc classes", "expertc classes model.onnx --labels labels.txt"))
@click.argument("model", required=False)
@options.foreign
@options.as_json
@options.everywhere
def command(
    model: str | None, labels: str | None, taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Show the classes of MODEL as a tree, with what the branch of each node costs.

    A branch is the part of the network that exactly these classes need; every expert needs the trunk. MODEL may also be
    a bundle.
    """
    from ..source import open_source

    source = open_source(model, options.make_foreign(labels, taxonomy, preprocess, outputs))
    owners = source.owners
    branches = {branch.indices: branch for branch in owners.branches}
    roots = source.card.taxonomy.roots
    if as_json:
        show.json_out({
            "name": source.card.name,
            "routed": source.routed,
            "trunk": _numbers(owners.trunk),
            "tree": [_mapping(root, branches) for root in roots],
            "shared": [{"classes": list(b.indices)} | _numbers(b) for b in owners.branches if not b.name],
        })  # fmt: skip
        return
    rows = [("(trunk)", "", *_cost([owners.trunk]))]
    for root in roots:
        rows += _rows(root, 0, branches)
    unnamed = [branch for branch in owners.branches if not branch.name]
    if unnamed:
        rows.append(("(shared by other sets of classes)", "", *_cost(unnamed)))
    show.table((source.card.name, "index", "parameters", "MACs"), rows)
    if source.routed:
        from ..graph.routing import ONE_WAY

        show.line(ONE_WAY)


def _rows(node: Node, depth: int, branches: Branches) -> list[Row]:
    branch = _branch(node, branches)
    name = "  " * depth + node.name
    if node.label and _plain(node.label) != _plain(node.name):
        name += f" ({node.label})"
    index = "" if node.index is None else str(node.index)
    below = [row for child in node.children for row in _rows(child, depth + 1, branches)]
    return [(name, index, *_cost([] if branch is None else [branch])), *below]


def _branch(node: Node, branches: Branches) -> Branch | None:
    """The branch of a node; a category with one child has its classes, and the branch stands with the child."""
    return None if len(node.children) == 1 else branches.get(node.leaves)


def _plain(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").casefold()


def _cost(branches: list[Branch]) -> tuple[str, str]:
    if not branches:
        return "", ""
    total = sum((branch.cost for branch in branches[1:]), branches[0].cost)
    return show.count(total.parameters), show.count(total.macs)


def _mapping(node: Node, branches: Branches) -> dict[str, Any]:
    made: dict[str, Any] = {"name": node.name}
    if node.label:
        made["label"] = node.label
    if node.index is not None:
        made["index"] = node.index
    branch = _branch(node, branches)
    if branch is not None:
        made |= _numbers(branch)
    if node.children:
        made["children"] = [_mapping(child, branches) for child in node.children]
    return made


def _numbers(branch: Branch) -> dict[str, int]:
    cost = branch.cost
    return {"parameters": cost.parameters, "macs": cost.macs, "weight_bytes": cost.weight_bytes, "nodes": branch.nodes}
