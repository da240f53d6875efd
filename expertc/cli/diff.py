"""``expertc diff``."""

from __future__ import annotations

from typing import Any

import click

from . import options, show


@click.command(epilog="Example: expertc diff sharks-rays.expert fishes.expert")
@click.argument("first", metavar="BUNDLE")
@click.argument("second", metavar="BUNDLE")
@options.as_json
@options.everywhere
def command(first: str, second: str, as_json: bool) -> None:
    """Show how two bundles differ: source, classes, costs, weights, forms, versions."""
    from ..bundle import open_bundle

    a, b = open_bundle(first), open_bundle(second)
    found = _compare(a.manifest, b.manifest)
    if as_json:
        show.json_out(found)
        return
    rows = [(key, _text(pair[0]), _text(pair[1])) for key, pair in found["differences"].items()]
    if rows:
        show.table(("", first, second), rows)
    for name in ("only_first", "only_second", "both"):
        classes = found["classes"][name]
        show.line(
            f"classes {name.replace('_', ' in the ') if name != 'both' else 'in both'}: {', '.join(classes) or '-'}"
        )
    same, changed, ours, theirs = (found["weights"][key] for key in ("same", "changed", "only_first", "only_second"))
    show.line(
        f"weights: {same} tensors the same, {changed} cut differently, {ours} only in the first, "
        f"{theirs} only in the second"
    )
    if not rows:
        show.line("The bundles say the same about themselves.")


def _compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    left, right = _flat(a), _flat(b)
    keys = sorted(left.keys() | right.keys())
    ours, theirs = a["selection"]["classes"], b["selection"]["classes"]
    first, second = a["source"].get("kept_tensors", {}), b["source"].get("kept_tensors", {})
    shared = first.keys() & second.keys()
    same = sum(first[name] == second[name] for name in shared)
    return {
        "differences": {key: [left.get(key), right.get(key)] for key in keys if left.get(key) != right.get(key)},
        "classes": {
            "both": [name for name in ours if name in theirs],
            "only_first": [name for name in ours if name not in theirs],
            "only_second": [name for name in theirs if name not in ours],
        },
        "weights": {
            "same": same,
            "changed": len(shared) - same,
            "only_first": len(first) - len(shared),
            "only_second": len(second) - len(shared),
        },
    }


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """The parts of a manifest that a person would compare, one value per line."""
    costs = manifest["costs"]["expert"]
    return {
        "source": f"{manifest['source']['name']} {manifest['source']['sha256'][:12]}",
        "classes": len(manifest["selection"]["classes"]),
        "parameters": costs["cost"]["parameters"],
        "MACs": costs["cost"]["macs"],
        "file bytes": costs["file_bytes"],
        "target": manifest["target"],
        "precision": manifest["precision"],
        **{f"form: {key}": value for key, value in manifest["forms"].items()},
        **{f"version: {key}": value for key, value in manifest["versions"].items()},
        "verification": manifest["verification"]["verdict"],
    }


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return show.count(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
