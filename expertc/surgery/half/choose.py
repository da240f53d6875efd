"""Which nodes stay in single precision, by rule and by measured range, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np

from ...graph import Constant, Model, Node, Tensor
from ...text import clean_text, shown, times
from .forms import Form, float_positions, half_form, label

LARGEST = 65504.0
"""The largest number of half precision (IEEE 754, binary16)."""

HEADROOM = 0.25
"""Share of it that a tensor may reach on the images it was measured on: others may be four times as bright."""

UNMEASURED = 64.0
"""What the values that a pooling adds up are taken to reach if nobody measured them: normalised layers stay below."""

ROUNDING = 2.0**-10
"""Relative to the largest weight, how far rounding may move one: half precision's own grain. More is underflow."""

_SUMS = "a sum over many numbers"
_FUNCTIONS = "a function that leaves half precision's range or digits"
RULES: Mapping[str, str] = {
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization",
         "BatchNormalization", "MeanVarianceNormalization", "RMSNormalization", "LpNormalization", "LRN", "LpPool",
         "GlobalLpPool", "ReduceMean", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
         "ReduceLogSumExp", "ReduceSumSquare", "CumSum", "Det"), _SUMS
    ),
    **dict.fromkeys(
        ("Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Softplus", "Mish", "Sinh", "Cosh", "Tan", "Acos", "Asin"),
        _FUNCTIONS,
    ),
}  # fmt: skip
"""Operators that stay in single precision whatever they compute: what PyTorch's autocast computes in float32 (its
documentation, "CUDA Ops that can autocast to float32"), and the other norms and sums: a mean of squares overflows from
values of 256 on."""

HEAVY = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention"))
"""What half precision makes faster by itself; the rest only follows, for a Cast would cost as much as it saves."""

_FOLLOWS, _DIVIDES = "what it reads is in single precision", "divides by what is in single precision"
_POOLS = ("GlobalAveragePool", "AveragePool")

Array = np.ndarray[Any, Any]


def choose_islands(
    model: Model, ranges: Mapping[str, tuple[float, float]] | None = None, keep: Collection[str] = ()
) -> dict[str, str]:
    """Labels (first outputs) of the nodes that stay in single precision, in order, each with a clause that says why.

    Args:
        model: in single precision.
        ranges: the least and the greatest value of tensors as measured on images; with none, only weights and sizes of
            poolings say what overflows.
        keep: further labels.
    """
    return _Chooser(model, ranges or {}, frozenset(keep)).run()


def notes(islands: Mapping[str, str]) -> list[str]:
    """A sentence for every reason but that of nodes that only follow: for how many it holds, and the first of them."""
    labels: dict[str, list[str]] = {}
    for name, why in islands.items():
        labels.setdefault(why, []).append(name)
    return [
        f"In single precision, {times(len(names))}: {shown(names[0])}, {clean_text(why)}."
        for why, names in labels.items()
        if why not in (_FOLLOWS, _DIVIDES)
    ]


class _Chooser:
    def __init__(self, model: Model, ranges: Mapping[str, tuple[float, float]], keep: frozenset[str]) -> None:
        self.model, self.ranges, self.keep = model, ranges, keep
        self.single = set(model.inputs)  # floating-point tensors that are made in single precision
        self.weights: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in self.model.nodes:
            touched = float_positions(self.model, node.inputs) or float_positions(self.model, node.outputs)
            why = self._why(node) if touched or node.has_graphs else ""
            if why:
                found[label(node)] = why
                self.single |= {tensor.name for tensor in node.outputs}
        return found

    def _why(self, node: Node) -> str:
        """Why the node stays in single precision, "" if it does not."""
        if label(node) in self.keep:
            return "asked for"
        form = half_form(self.model, node)
        if isinstance(form, str):
            return form
        return RULES.get(node.op, "") or self._overflow(node) or self._weight(node, form) or self._following(node)

    def _overflow(self, node: Node) -> str:
        for tensor in (*node.inputs, *node.outputs):
            reach = self._reach(tensor)
            if reach is not None and reach > HEADROOM * LARGEST:
                return f"values up to {reach:.3g}"
        if node.op in _POOLS:
            reach, count = self._reach(node.inputs[0]), self._window(node)
            if count * (UNMEASURED if reach is None else reach) > LARGEST:
                return f"a sum over {count} numbers"
        return ""

    def _reach(self, tensor: Tensor) -> float | None:
        """The largest magnitude that was measured."""
        found = self.ranges.get(tensor.name)
        return None if found is None else max(abs(found[0]), abs(found[1]))

    def _window(self, node: Node) -> int:
        """How many numbers a pooling adds up; a side that is not known counts as one."""
        shape = node.attrs.get("kernel_shape") or self.model.shapes.get(node.inputs[0].name, ())[2:]
        return prod(dim for dim in shape if isinstance(dim, int))

    def _weight(self, node: Node, form: Form) -> str:
        for at in sorted(form.inputs):
            tensor = node.inputs[at]
            if isinstance(tensor, Constant):
                if tensor.name not in self.weights:
                    self.weights[tensor.name] = _misfit(np.asarray(tensor.values))
                if self.weights[tensor.name]:
                    return self.weights[tensor.name]
        return ""

    def _following(self, node: Node) -> str:
        """A light node stays in single precision where all that it computes from is; so does what divides by such."""
        if node.op in HEAVY:
            return ""
        floats = [node.inputs[at] for at in float_positions(self.model, node.inputs)]
        computed = [tensor.name for tensor in floats if not isinstance(tensor, Constant)]
        if computed and self.single.issuperset(computed):
            return _FOLLOWS
        divided = node.op == "Div" and node.inputs[1].name in self.single
        return _DIVIDES if divided else ""


def _misfit(values: Array) -> str:
    """What half precision does to weights, "" if it only rounds them; infinity may stay what it is."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    largest = float(np.abs(finite).max())
    with np.errstate(over="ignore", under="ignore"):
        rounded = finite.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        return f"weights up to {largest:.3g}"
    lost = float(np.abs(rounded - finite).max())
    return f"weights of only {largest:.3g}" if lost > ROUNDING * largest else ""
