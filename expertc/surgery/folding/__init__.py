"""The rules of the fold pass: each looks back from one node, and says whether it has changed the draft.

As a rule looks only at what a node reads (and a MatMul at its bias), one visit of the nodes in order is nearly always
enough.
"""

from collections.abc import Callable, Mapping

from .constants import FOLDABLE, evaluate
from .draft import Draft
from .linear import absorb_after, absorb_before, merge
from .moves import RESHAPES, cast, idle, reshape, size, transpose

Rule = Callable[[Draft, int], bool]

# In the order in which they are tried.
_CONCERNED: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (idle, ("Add", "BatchNormalization", "Div", "Dropout", "Identity", "Mul", "Sub")),
    (size, ("Shape", "Size")),
    (cast, ("Cast",)),
    (evaluate, FOLDABLE),
    (transpose, ("Transpose",)),
    (reshape, RESHAPES),
    (absorb_after, ("Add", "BatchNormalization", "Div", "Mul", "Sub")),
    (absorb_before, ("Conv", "ConvTranspose", "Gemm", "MatMul")),
    (merge, ("Add", "Div", "Mul", "Sub")),
)

RULES: Mapping[str, tuple[Rule, ...]] = {
    op: tuple(rule for rule, ops in _CONCERNED if op in ops) for _, names in _CONCERNED for op in names
}
"""The rules of each operator."""

__all__ = ["RULES", "Draft", "Rule"]
