"""The transfer rules, one per operator, by family.

A rule asks the inputs of a node (weights included) for what its wanted outputs need, and says what it will keep. An
operator without a rule, or of another domain, is opaque: it needs everything. So a missing rule costs size, never
correctness.
"""

from __future__ import annotations

from ...graph import Node
from ..site import Rule, opaque
from . import blocks, control, einsum, elementwise, layout, linear, normalise, pad, pieces, quantise, scatter, sizes

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **linear.RULES,
    **einsum.RULES,
    **quantise.RULES,
    **normalise.RULES,
    **layout.RULES,
    **pieces.RULES,
    **sizes.RULES,
    **pad.RULES,
    **blocks.RULES,
    **scatter.RULES,
    **control.RULES,
}

OPAQUE = Rule(opaque)


def rule_of(node: Node) -> Rule:
    """The rule of a node."""
    return RULES.get(node.op, OPAQUE) if node.domain in (None, "", "ai.onnx") else OPAQUE
