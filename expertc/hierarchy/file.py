"""A taxonomy as the file that ``Taxonomy.load`` reads."""

from __future__ import annotations

import yaml

from ..taxonomy import Taxonomy

WIDTH = 120  # characters of a line


def to_yaml(tree: Taxonomy, origin: str = "") -> str:
    """The YAML text, a line per node; ``origin`` becomes a comment at its top."""
    made = tree.to_mapping()
    content = {"name": made["name"], "levels": made["levels"], "classes": len(tree), "tree": made["tree"]}
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=None)
    return "".join(f"# {line}\n" for line in origin.splitlines()) + text
