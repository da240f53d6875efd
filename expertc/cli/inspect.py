"""``expertc inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, show


@click.command(epilog="Example: expertc inspect sharks-rays.expert")
@click.argument("path", required=False)
@click.option("--explain", is_flag=True, help="List what stopped the demand analysis, and so was kept whole.")
@click.option("--arch", metavar="NAME", help="Count a network of the zoo instead, without weights.")
@click.option("--classes-count", type=click.IntRange(1), metavar="K", help="Number of classes for --arch.")
@options.foreign
@options.as_json
@options.everywhere
def command(
    path: str | None, explain: bool, arch: str | None, classes_count: int | None, labels: str | None,
    taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Show what is in a model or a bundle: card, inputs and outputs, parameters, MACs, bytes, branches.

    Without PATH the bundled model is shown.
    """
    if arch is not None:
        facts = _arch(arch, classes_count)
    elif path is not None and Path(path).is_dir():
        facts = _bundle(path)
    else:
        facts = _model(path, options.make_foreign(labels, taxonomy, preprocess, outputs), explain)
    if as_json:
        show.json_out(facts)
        return
    show.table(("", ""), [(key, _cell(value)) for key, value in facts.items() if key not in ("branches", "kept whole")])
    if explain and not arch:
        _explain(facts.get("kept whole", {}))


def _model(path: str | None, foreign: Any, explain: bool) -> dict[str, Any]:
    from ..graph.cost import cost
    from ..source import open_source
    from ..surgery.owners import ownership

    source = open_source(path, foreign)
    card, model, spent = source.card, source.model, cost(source.model)
    owners = ownership(model, card)
    facts: dict[str, Any] = {
        "name": card.name,
        "file": source.name,
        "sha256": source.sha256,
        "classes": len(card.classes),
        "levels": card.taxonomy.depth,
        "input": {name: list(shape) for name, shape in model.inputs.items()},
        "output": {o.name: f"{o.kind}, axis {o.axis}" for o in card.outputs},
        "opset": model.opset,
        "ir_version": model.ir_version,
        "nodes": len(model.nodes),
        "parameters": spent.parameters,
        "macs": spent.macs,
        "weight_bytes": spent.weight_bytes,
        "trunk_parameters": owners.trunk.cost.parameters,
        "branch_count": len(owners.branches),
        "preprocess": None if card.preprocess is None else card.preprocess.to_mapping(),
        "weights_licence": card.weights_licence,
        "provenance": dict(card.provenance),
        "branches": [
            {"name": b.name, "classes": list(b.indices), "parameters": b.cost.parameters, "macs": b.cost.macs,
             "nodes": b.nodes}
            for b in owners.branches
        ],
    }  # fmt: skip
    if card.selected_from is not None:
        facts["selected_from"] = card.selected_from
    if explain:
        facts["kept whole"] = dict(owners.stopped)
    return facts


def _bundle(path: str) -> dict[str, Any]:
    from ..bundle import open_bundle

    bundle = open_bundle(path)
    manifest = bundle.manifest
    keys = "name target precision forms selection input output source verification versions weights_licence".split()
    facts = {key: manifest[key] for key in keys if key in manifest}
    facts["source"] = {key: value for key, value in facts.get("source", {}).items() if key != "kept_tensors"}
    expert, full = manifest["costs"]["expert"], manifest["costs"]["full"]
    facts["parameters"] = f"{show.count(expert['cost']['parameters'])} of {show.count(full['cost']['parameters'])}"
    facts["macs"] = f"{show.count(expert['cost']['macs'])} of {show.count(full['cost']['macs'])}"
    facts["files"] = {name: show.size(entry["bytes"]) for name, entry in manifest["files"].items()}
    return facts


def _arch(name: str, classes: int | None) -> dict[str, Any]:
    from ..errors import UsageError
    from ..zoo.count import count_arch

    if classes is None:
        raise UsageError("--arch needs the number of classes.", "Add --classes-count K.")
    return count_arch(name, classes)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, int):
        return show.count(value)
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_short(item)}" for key, item in value.items())
    return _short(value)


def _short(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def _explain(stopped: dict[str, int]) -> None:
    if not stopped:
        show.line("Nothing stopped the demand analysis: every branch can be cut to its last channel.")
    for reason, times in stopped.items():
        show.line(f"kept whole, {times} times: {reason}")
