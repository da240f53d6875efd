"""YAML that strangers wrote: plain values, lists and mappings, nothing that builds, repeats or guesses."""

from __future__ import annotations

from typing import Any

import yaml

from .errors import ExpertcError
from .text import clean_text, shown


def parse_yaml(text: str, what: str, error: type[ExpertcError]) -> Any:
    """Return what a YAML text holds: plain values, lists and mappings with text keys.

    Anchors, aliases (a cycle, a bomb), tags (a type) and duplicate keys are refused: ``error`` names the line.
    """
    try:
        return _StrictLoader(text).get_single_data()
    except RecursionError as cause:
        raise error(f"{what} is nested too deeply.", "A few levels are enough.") from cause
    except (yaml.YAMLError, ValueError, OverflowError) as cause:
        mark = getattr(cause, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        problem = getattr(cause, "problem", None) or getattr(cause, "reason", None) or "a value makes no sense"
        raise error(f"{what} is not valid YAML{line}: {clean_text(problem)}.", "Correct it and try again.") from cause


class _StrictLoader(yaml.SafeLoader):
    """Keys stay what is written: ``no`` is not ``False``, ``010`` is not 8, ``<<`` merges nothing."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors, aliases and tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be text", key.start_mark)
            if key.value in found:
                raise yaml.constructor.ConstructorError(None, None, f"{shown(key.value)} stands twice", key.start_mark)
            # A class may be labelled "no" or "007".
            verbatim = key.value in ("name", "label", "synset") and isinstance(value, yaml.ScalarNode)
            found[key.value] = value.value if verbatim else self.construct_object(value, deep=deep)
        return found
