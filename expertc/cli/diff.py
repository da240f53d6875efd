"""``expertc diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, show


@click.command(epilog=options.example("expertc diff sharks-rays.expert fishes.expert"))
@click.argument("first", metavar="BUNDLE")
@click.argument("second", metavar="BUNDLE")
@options.as_json
@options.everywhere
def command(first: str, second: str, as_json: bool) -> None:
    """Show how two bundles differ: source, classes, costs, weights, forms, versions."""
    from .. import manifest
    from ..bundle import open_bundle

    found = _compare(*(manifest.read(open_bundle(path)) for path in (first, second)))
    if as_json:
        show.json_out(found)
        return
    rows = [(key, _text(pair[0]), _text(pair[1])) for key, pair in found["differences"].items()]
    if rows:
        names = [Path(path).resolve().name for path in (first, second)]
        show.table(("", *(names if names[0] != names[1] else ("first", "second"))), rows)
    else:
        show.line("The bundles say the same about themselves.")
    classes, weights = found["classes"], found["weights"]
    show.line()
    show.facts({
        "classes in both": ", ".join(classes["both"]) or "none",
        "only in the first": ", ".join(classes["only_first"]) or "none",
        "only in the second": ", ".join(classes["only_second"]) or "none",
        "weights": f"{weights['same']:,} tensors the same, {weights['changed']:,} cut differently,\n"
        f"{weights['only_first']:,} only in the first, {weights['only_second']:,} only in the second",
    })  # fmt: skip


def _compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    left, right = _flat(a), _flat(b)
    keys = list(dict.fromkeys([*left, *right]))
    ours, theirs = a["selection"]["classes"], b["selection"]["classes"]
    first, second = a["source"]["kept_tensors"], b["source"]["kept_tensors"]
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
    expert = manifest["costs"]["expert"]
    return {
        "source": f"{manifest['source']['name']} {manifest['source']['sha256'][:12]}",
        "classes": len(manifest["selection"]["classes"]),
        "branches": expert["branches"],
        "parameters": expert["cost"]["parameters"],
        "MACs per image": expert["cost"]["macs"],
        "file bytes": expert["file_bytes"],
        "target": manifest["target"],
        "precision": manifest["precision"],
        **{f"form: {key}": value for key, value in manifest["forms"].items()},
        **{f"version: {key}": value for key, value in manifest["versions"].items()},
        "verification": manifest["verification"]["verdict"],
        "none of these below": f"{reject['score']} {reject['threshold']:.6g}"
        if (reject := manifest.get("reject"))
        else "-",
        **{
            item["name"]: ", ".join(f"{value:g}" for value in item["default"])
            for item in manifest.get("controls", ())
            if not item["per_class"]
        },
    }


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return show.count(value)
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else "-" if value is None else str(value)
