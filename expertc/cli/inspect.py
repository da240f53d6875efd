"""``expertc inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import describe, features, options, show


@click.command(
    epilog=options.example(
        "expertc inspect sharks-rays.expert",
        "expertc inspect --arch resnet50 --classes-count 1000",
        "expertc inspect --arch hiernet --taxonomy cifar100 --set split=4 --set add=3",
        "expertc inspect --arch gran_hbn --taxonomy cifar10 --levels 2",
        "expertc inspect --features photo.jpg --branches cetaceans,sharks",
    )
)
@click.argument("path", required=False)
@click.option("--explain", is_flag=True, help="List what stopped the demand analysis, and so was kept whole.")
@click.option("--arch", metavar="NAME", help="Count a network of the zoo instead, without weights.")
@click.option("--classes-count", type=click.IntRange(1, 10**6), metavar="K", help="Number of classes for --arch.")
@click.option(
    "--levels", type=click.IntRange(1, 64), metavar="N", help="Keep the N lowest levels of --taxonomy, with --arch."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An argument of --arch, as JSON.")
@click.option("--size", type=click.IntRange(1, 4096), metavar="PIXELS", help="Side of the image for --arch.")
@features.options
@options.foreign
@options.as_json
@options.everywhere
def command(
    path: str | None, explain: bool, arch: str | None, classes_count: int | None, levels: int | None,
    settings: tuple[str, ...], size: int | None, labels: str | None, taxonomy: str | None, preprocess: str | None,
    outputs: tuple[str, ...], as_json: bool, **picture: Any,
) -> None:  # fmt: skip
    """Show what is in a model or a bundle: card, inputs and outputs, parameters, MACs, bytes, branches.

    Without PATH the bundled model is shown.
    """
    from ..errors import UsageError

    classes = taxonomy if arch is not None and classes_count is None else classes_count
    foreign = options.make_foreign(labels, None if classes is taxonomy else taxonomy, preprocess, outputs)
    if (arch is None) != (classes is None) or (arch is None and (settings or size)):
        raise UsageError(
            "--arch and --classes-count go together, and --set and --size with them.",
            "Write --arch resnet50 --classes-count 1000, or --taxonomy FILE instead of the number.",
        )
    if levels is not None and not isinstance(classes, str):
        raise UsageError("--levels is about a tree given with --arch and --taxonomy.", "Leave it out.")
    drawn = features.asked(**picture)
    if drawn and explain:
        raise UsageError("--features and --explain do not go together.", "Leave out one of them.")
    if arch is not None and (path is not None or explain or foreign or drawn):
        raise UsageError("--arch counts a network of the zoo, not a file.", "Leave out --arch, or the rest.")
    if drawn:
        features.draw(path, foreign, as_json, **picture)
        return
    if arch is not None and classes is not None:
        from ..taxonomy import Taxonomy
        from ..zoo.count import count_arch

        counted = Taxonomy.named(classes) if isinstance(classes, str) else classes
        if levels is not None and isinstance(counted, Taxonomy):
            counted = counted.lowest(levels)
        facts, print_facts = count_arch(arch, counted, size, _settings(settings)), describe.arch
    elif path is not None and Path(path).is_dir():
        facts, print_facts = _bundle(path, explain), describe.bundle
    else:
        facts, print_facts = _model(path, foreign, explain), describe.model
    if as_json:
        show.json_out(facts)
        return
    print_facts(facts)
    if explain:
        describe.explain(facts["kept_whole"])


def _settings(items: tuple[str, ...]) -> dict[str, Any]:
    """What ``--set`` says; a value that is no JSON is text. Raises ``UsageError`` for what is not NAME=VALUE."""
    import json

    from ..errors import UsageError
    from ..text import shown

    found: dict[str, Any] = {}
    for item in items:
        name, _, value = item.partition("=")
        if not name.isidentifier() or not value:
            raise UsageError(f"{shown(item)} is not NAME=VALUE.", "Write for example --set split=5.")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def _model(path: str | None, foreign: Any, explain: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from ..graph.cost import cost
    from ..source import open_source
    from ..surgery.owners import ownership

    source = open_source(path, foreign)
    card, model = source.card, source.model
    owners = ownership(model, card)
    facts: dict[str, Any] = {
        "name": card.name,
        "file": source.name,
        "file_bytes": source.file_bytes,
        "sha256": source.sha256,
        "classes": list(card.classes),
        "selected_from": card.selected_from,
        "levels": card.taxonomy.depth,
        **_face(source),
        "opset": model.opset,
        "ir_version": model.ir_version,
        "nodes": len(model.nodes),
        "routed": source.routed,
        **asdict(cost(model)),
        "trunk": asdict(owners.trunk.cost) | {"nodes": owners.trunk.nodes},
        "branches": [
            {"name": branch.name, "classes": list(branch.indices), "nodes": branch.nodes, **asdict(branch.cost)}
            for branch in owners.branches
        ],
        "exits": None if card.exits is None else _exits(model, card),
        "preprocess": None if card.preprocess is None else card.preprocess.to_mapping(),
        "weights_licence": card.weights_licence,
        "provenance": dict(card.provenance),
    }
    if explain:
        facts["kept_whole"] = dict(owners.stopped)
    return facts


def _face(source: Any) -> dict[str, Any]:
    """Inputs and outputs of the file, whose rule of exits a source has taken out; and what that rule is."""
    from dataclasses import asdict, replace

    from ..exits import COARSE, EXIT, GRANULARITY

    card, exits = source.card, source.card.exits
    inputs = {name: list(shape) for name, shape in source.model.inputs.items()}
    beside: list[str] = []
    if exits is not None and source.driven:
        inputs |= {} if exits.frozen else {name: [len(values)] for name, values in exits.settings.items()}
        exits = replace(exits, driven=True)
        card = replace(card, exits=None, controls=card.settings).with_exits(exits)
        beside = [*([COARSE] if exits.categories else []), GRANULARITY, EXIT]
    return {
        "inputs": inputs,
        "outputs": [asdict(output) for output in card.outputs],
        "outputs_beside": beside,
        "deciding": None if exits is None else exits.to_mapping(),
    }


def _exits(model: Any, card: Any) -> list[dict[str, Any]]:
    """The exits of a model, each with what it costs to get there."""
    from dataclasses import asdict

    from ..surgery.exits import costs

    return [asdict(one) | asdict(spent) for one, spent in zip(card.exits.exits, costs(model, card), strict=True)]


def _bundle(path: str, explain: bool) -> dict[str, Any]:
    from .. import manifest
    from ..bundle import open_bundle

    bundle = open_bundle(path)
    facts = dict(manifest.read(bundle))
    facts["source"] = facts["source"] | {"kept_tensors": len(facts["source"]["kept_tensors"])}
    facts["source"].pop("taxonomy", None)  # long, and 'selection' says how many classes there were
    facts["preprocess"] = None if bundle.preprocess is None else bundle.preprocess.to_mapping()
    facts["golden"] = bundle.golden is not None
    if explain:
        facts["kept_whole"] = _model(path, None, True)["kept_whole"]
    return facts
