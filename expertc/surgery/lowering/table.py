"""Every change of an operator's definition since opset 13 that has been reviewed, and when it does not matter.

What is not here is refused. Read against ONNX's changelog up to opset 25.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...graph import Node
from ...text import shown
from . import rewrites
from .scope import NotExactError, Scope, changed

Change = Callable[[Node, Scope], "Node | list[Node]"]
"""Makes a node of one definition of its operator one of the definition before, or several that are old enough."""

_LAYOUT = (
    "Cast CastLike Constant ConstantOfShape Flatten Identity If Loop Pad Reshape Scan Shape Size Squeeze Transpose "
    "Unsqueeze"
)

# More types, and nothing else: whether the node uses one of them is checked against the older schema.
_TYPES: Mapping[int, str] = {
    14: "Add CumSum Div Identity Mul Relu Sub",
    15: "BatchNormalization Pow",
    16: "GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan Where",
    19: "Constant DequantizeLinear Equal Identity If Loop Reshape Scan Shape Size",
    20: "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin",
    21: f"{_LAYOUT} QLinearMatMul",
    22: "Acos Acosh Asin Asinh Atan Atanh AveragePool Conv ConvTranspose Cos Cosh DeformConv Det Dropout Elu EyeLike "
    "GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish InstanceNormalization LSTM "
    "LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool Mish NegativeLogLikelihoodLoss RNN RoiAlign Round Selu Sin "
    "Sinh Softplus Softsign Tan ThresholdedRelu",
    23: _LAYOUT,
    24: f"{_LAYOUT} DequantizeLinear QuantizeLinear SplitToSequence TopK",
    25: f"{_LAYOUT} DequantizeLinear QuantizeLinear",
}


def _same(node: Node, scope: Scope) -> Node:
    return node


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _ones(value: Any) -> bool:
    return all(dim == 1 for dim in value)


def _any(value: Any) -> bool:
    return True


def _without(*, instead: Any = None, **allowed: Callable[[Any], bool]) -> Change:
    """New attributes, which go if their value says what held before there were any; else the node is refused.

    One that is not given has ONNX's default, which is ``instead`` where that is another than what held before.
    """

    def change(node: Node, scope: Scope) -> Node:
        for name, holds in allowed.items():
            value = node.attrs.get(name, instead)
            if value is not None and not holds(value):
                raise NotExactError(f"its '{name}' is {shown(str(value))}")
        return changed(node, without=tuple(allowed))

    return change


def _only(**allowed: Callable[[Any], bool]) -> Change:
    """New values of an attribute."""

    def change(node: Node, scope: Scope) -> Node:
        for name, holds in allowed.items():
            if name in node.attrs and not holds(node.attrs[name]):
                raise NotExactError(f"its '{name}' is {shown(str(node.attrs[name]))}")
        return node

    return change


CHANGES: Mapping[tuple[str, int], Change] = {
    **{(op, version): _same for version, ops in _TYPES.items() for op in ops.split()},
    ("AveragePool", 19): _without(dilations=_ones),
    ("BatchNormalization", 14): _without(training_mode=_is(0)),
    ("Cast", 19): _without(saturate=_any),  # of float8 only
    ("Cast", 24): _without(round_mode=_any),  # of float8e8m0 only
    ("CastLike", 19): _without(saturate=_any),
    ("CastLike", 24): _without(round_mode=_any),
    ("DFT", 20): rewrites.dft,
    ("DequantizeLinear", 21): _without(block_size=_is(0)),
    ("DequantizeLinear", 23): rewrites.dequantise,
    ("GRU", 14): _without(layout=_is(0)),
    ("GridSample", 20): rewrites.grid_sample,
    ("LSTM", 14): _without(layout=_is(0)),
    ("LpPool", 18): _without(ceil_mode=_is(0), dilations=_ones),
    ("Pad", 18): rewrites.pad,
    ("Pad", 19): _only(mode=_is("constant", "edge", "reflect")),
    ("QuantizeLinear", 19): _without(saturate=_any),
    ("QuantizeLinear", 21): rewrites.quantise,
    ("QuantizeLinear", 23): _without(precision=_is(0)),
    ("RNN", 14): _without(layout=_is(0)),
    **{(op, 18): rewrites.reduce for op in rewrites.REDUCTIONS},
    ("Reshape", 14): rewrites.reshape,
    ("Resize", 18): rewrites.resize,
    ("Resize", 19): _only(coordinate_transformation_mode=lambda value: value != "half_pixel_symmetric"),
    ("RoiAlign", 16): _without(coordinate_transformation_mode=_is("output_half_pixel"), instead="half_pixel"),
    ("ScatterElements", 16): _without(reduction=_is("none")),
    ("ScatterElements", 18): _only(reduction=_is("none", "add", "mul")),
    ("ScatterND", 16): _without(reduction=_is("none")),
    ("ScatterND", 18): _only(reduction=_is("none", "add", "mul")),
    ("Shape", 15): rewrites.shape,
    ("Split", 18): rewrites.split,
}
