"""``expertc classes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from ..surgery.owners import Branch
    from ..taxonomy import Node


@click.command(epilog="Example: expertc classes")
@click.argument("model", required=False)
@options.foreign
@options.as_json
@options.everywhere
def command(
    model: str | None, labels: str | None, taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Show the classes of MODEL as a tree, with what the branch of each node costs.

    A branch is the part of the network that exactly these classes need. MODEL may also be a bundle.
    """
    from ..source import open_source
    from ..surgery.owners import ownership

    source = open_source(model, options.make_foreign(labels, taxonomy, preprocess, outputs))
    owners = ownership(source.model, source.card)
    branches = {branch.indices: branch for branch in owners.branches}
    if as_json:
        show.json_out({
            "name": source.card.name,
            "trunk": _numbers(owners.trunk),
            "tree": [_mapping(root, branches) for root in source.card.taxonomy.roots],
            "shared": [{"classes": list(b.indices)} | _numbers(b) for b in owners.branches if not b.name],
        })  # fmt: skip
        return
    rows = [("(trunk)", "", show.count(owners.trunk.cost.parameters), show.count(owners.trunk.cost.macs))]
    for root in source.card.taxonomy.roots:
        _rows(root, 0, branches, rows)
    unnamed = [branch for branch in owners.branches if not branch.name]
    if unnamed:
        parameters, macs = (sum(getattr(b.cost, key) for b in unnamed) for key in ("parameters", "macs"))
        rows.append(("(shared by other sets of classes)", "", show.count(parameters), show.count(macs)))
    show.table((source.card.name, "index", "parameters", "MACs"), rows)


def _rows(
    node: Node, depth: int, branches: dict[tuple[int, ...], Branch], rows: list[tuple[str, str, str, str]]
) -> None:
    # A category with one child has the same classes as it: its share stands at the lower node.
    branch = None if len(node.children) == 1 else branches.get(node.leaves)
    cost = ("", "") if branch is None else (show.count(branch.cost.parameters), show.count(branch.cost.macs))
    label = f" ({node.label})" if node.label and node.label.casefold() != node.name.replace("-", " ").casefold() else ""
    rows.append(("  " * depth + node.name + label, "" if node.index is None else str(node.index), *cost))
    for child in node.children:
        _rows(child, depth + 1, branches, rows)


def _mapping(node: Node, branches: dict[tuple[int, ...], Branch]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": node.name}
    if node.label:
        made["label"] = node.label
    if node.index is not None:
        made["index"] = node.index
    branch = None if len(node.children) == 1 else branches.get(node.leaves)
    if branch is not None:
        made |= _numbers(branch)
    if node.children:
        made["children"] = [_mapping(child, branches) for child in node.children]
    return made


def _numbers(branch: Branch) -> dict[str, int]:
    cost = branch.cost
    return {"parameters": cost.parameters, "macs": cost.macs, "weight_bytes": cost.weight_bytes, "nodes": branch.nodes}
