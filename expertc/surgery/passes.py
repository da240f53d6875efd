"""What a pass is: ONNX in, ONNX out, a name, what it requires, what it ensures. A pipeline is a tuple of passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import ModelError
from ..graph import Model, Node
from ..text import shown

MALFORMED = (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError)
"""What a pass trips over that takes an operator's specification for granted where a stranger's node breaks it."""


def malformed(node: Node) -> ModelError:
    """The error for a node that made a pass raise one of ``MALFORMED``."""
    return ModelError(
        f"The {shown(node.op)} {shown(node.name)} is malformed: its attributes or inputs do not fit each other.",
        "Export the model again.",
    )


class Pass(Protocol):
    """A transformation of a model. ``run`` returns a new model and whether anything changed; the old one is intact."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""

    @property
    def requires(self) -> str:
        """What must hold before, in words."""

    @property
    def ensures(self) -> str:
        """What holds after, in words."""

    def run(self, model: Model) -> tuple[Model, bool]:
        """The transformed model, and whether it differs from the given one."""


def run_all(model: Model, pipeline: Sequence[Pass]) -> tuple[Model, tuple[str, ...]]:
    """Run the passes in order; returns the model and the names of those that changed something."""
    changed_by = []
    for step in pipeline:
        model, changed = step.run(model)
        if changed:
            changed_by.append(step.name)
    return model, tuple(changed_by)
