"""How siblings of each operator become one node: from the row they form to the wide node, or to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...graph import Model
from .channels import binary, expand, pool, reduction, reshape, unary
from .form import Form
from .layers import batch_norm, conv, gemm, matmul
from .packs import Row, Widened

_UNARY = (
    "Abs Cast Ceil Celu Clip Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Reciprocal "
    "Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Tanh ThresholdedRelu"
).split()
_BINARY = ("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
_MOVES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")

HEADS = ("Conv", "Gemm", "MatMul", *_MOVES)
"""What a head begins with, behind the pooling."""

_RULES: Mapping[str, Callable[[Model, Row, Form], Widened]] = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_norm,
    "Expand": expand,
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_POOLS, pool),
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(_MOVES, reshape),
}
_ADAPTING = (*_BINARY, *_MOVES)  # take vectors, and the binary ones packs in another order


def widen(model: Model, row: Row, form: Form) -> Widened:
    """The wide form of a row in this form of the expert."""
    node = model.nodes[row.nodes[0]]
    rule = _RULES.get(node.op) if node.domain in ("", "ai.onnx") else None
    made = model.shapes.get(node.outputs[0].name, ())
    if rule is None or any(tensor.name for tensor in node.outputs[1:]) or len(made) < 2 or not isinstance(made[1], int):
        return ()
    straight = all(slot.order is None and (slot.pack is None or slot.pack.axis == 1) for slot in row.slots)
    return rule(model, row, form) if straight or node.op in _ADAPTING else ()
