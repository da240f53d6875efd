"""What TensorRT's ONNX parser makes of one node, release by release.

Besides the table of operators these are the restrictions that ``docs/operators.md`` of onnx-tensorrt gives, and what
running its releases 8.5 and 8.6 has shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..graph import Constant, Model, Node, Shape, Tensor
from ..targets import Release
from ..text import shown
from .finding import NOTE, REFUSAL, WARNING
from .operators import NEWEST_TABLE, type_name, types

Said = Iterator[tuple[str, str]]
"""Levels, and what is to be said of the node."""

TEN: Release = (10, 0)


@dataclass(frozen=True)
class Place:
    """A node in its model, and the release that is to read it."""

    model: Model
    node: Node
    release: Release

    @property
    def level(self) -> str:
        """Of a restriction that the last table knows: a newer release may have dropped it."""
        return REFUSAL if self.release[:2] <= NEWEST_TABLE else WARNING

    def given(self, position: int) -> Tensor | None:
        """An input, or None if it is left out."""
        found = self.node.inputs[position] if position < len(self.node.inputs) else None
        return found if found is not None and found.name else None

    def shape(self, position: int) -> Shape | None:
        """The shape of an input, if its rank is known."""
        found = self.given(position)
        return None if found is None else self.model.shapes.get(found.name)

    def kind(self, tensor: Tensor) -> int:
        """An ONNX element type, 0 if it is not known."""
        return tensor.kind if isinstance(tensor, Constant) else self.model.types.get(tensor.name, 0)


def check_node(place: Place) -> Said:
    """Everything that is to be said of a node."""
    unread = list(_unread(place))
    if unread:
        yield from unread
        return
    for rule in (_computed, _types, _wide, *_RULES.get(place.node.op, ())):
        yield from rule(place)


def _unread(place: Place) -> Said:
    node = place.node
    if node.domain not in ("", "ai.onnx"):
        yield REFUSAL, f"it is of the domain {shown(node.domain)}, which needs a plugin"
    elif types(node.op, place.release) is None:
        if place.level == REFUSAL:
            yield REFUSAL, f"TensorRT {'.'.join(map(str, place.release[:2]))} does not read this operator"
        else:
            yield WARNING, "TensorRT 10.1 does not read this operator, and of newer releases that is not known here"


# -- inputs that must be initializers ----------------------------------------------------------------------------------

_REDUCTIONS = tuple(f"Reduce{name}" for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split())
_ANY: Release = (0,)

# Position and name of the input, and the releases that want it: from, and before.
_CONSTANT: Mapping[str, tuple[tuple[int, str, Release, Release], ...]] = {
    "CumSum": ((1, "axis", _ANY, (99,)),),
    "InstanceNormalization": ((1, "scale", _ANY, (99,)), (2, "bias", _ANY, (99,))),
    "Pad": ((3, "axes", TEN, (99,)),),
    "Slice": ((3, "axes", _ANY, (99,)),),
    "Squeeze": ((1, "axes", _ANY, (99,)),),
    "TopK": ((1, "number", _ANY, (8, 6)),),
    "Unsqueeze": ((1, "axes", _ANY, (99,)),),
    **dict.fromkeys((*_REDUCTIONS, "ReduceSum"), ((1, "axes", TEN, (99,)),)),
}


def _computed(place: Place) -> Said:
    for position, name, since, before in _CONSTANT.get(place.node.op, ()):
        found = place.given(position)
        if found is not None and not isinstance(found, Constant) and since <= place.release < before:
            yield place.level, f"its {name} {'are' if name == 'axes' else 'is'} computed, and must be an initializer"


# -- types -------------------------------------------------------------------------------------------------------------

_SHAPES_FIRST = ("ConstantOfShape", "If", "Loop", "NonZero", "OneHot", "Range", "Scan", "Shape", "Size")
"""Operators whose first input is not what their types are said of."""

_CLAMPED = ("Slice",)  # for which more than 32 bits mean "to the end"


def _types(place: Place) -> Said:
    node = place.node
    allowed = types(node.op, place.release) or frozenset()
    of_data = [] if node.op in _SHAPES_FIRST else node.inputs[:1]
    for tensor in (*of_data, *(node.outputs if node.op == "Cast" else ())):
        kind = place.kind(tensor)
        if kind and type_name(kind, place.release) not in allowed:
            name = TensorProto.DataType.Name(kind).lower()
            yield WARNING, f"TensorRT's table does not give {name} as one of its types"
    if any(place.kind(tensor) == TensorProto.DOUBLE for tensor in node.outputs):
        yield WARNING, "it computes in double precision, and TensorRT in single"


def _wide(place: Place) -> Said:
    """Before 10.0 integers have 32 bits."""
    if place.release >= TEN:
        return
    for tensor in node_constants(place.node):
        if tensor.kind == TensorProto.INT64 and place.node.op not in _CLAMPED:
            values = tensor.values
            if values.size and (values.max() > 2**31 - 1 or values.min() < -(2**31)):
                yield WARNING, "it reads whole numbers of more than 32 bits, which TensorRT before 10.0 clamps"
    outputs = {tensor.name for tensor in place.model.graph.outputs}
    if any(tensor.name in outputs and place.kind(tensor) == TensorProto.INT64 for tensor in place.node.outputs):
        yield NOTE, "its output has 64 bits here, and 32 from TensorRT before 10.0"


def node_constants(node: Node) -> Iterator[Constant]:
    """The initializers that a node reads."""
    return (tensor for tensor in node.inputs if isinstance(tensor, Constant))


# -- operators ---------------------------------------------------------------------------------------------------------


def _axes_input(place: Place) -> Said:
    if place.release >= TEN:
        return
    if place.given(1) is not None:
        yield REFUSAL, "its axes are an input, which TensorRT before 10.0 ignores: it would reduce over all of them"
    elif place.node.attrs.get("noop_with_empty_axes", 0):
        yield REFUSAL, "it does nothing, and TensorRT before 10.0 would reduce over all axes"


def _reduction(place: Place) -> Said:
    how = place.node.attrs.get("reduction", "none")
    if how != "none" and place.release < TEN:
        yield REFUSAL, f"its reduction {shown(how)} is one that TensorRT before 10.0 ignores: it would overwrite"
    elif how != "none":
        yield place.level, f"its reduction {shown(how)} is not supported"


def _zero_point(place: Place) -> Said:
    found = place.given(2)
    if found is None:
        return
    if place.kind(found) == TensorProto.UINT8:
        yield REFUSAL, "its zero point is uint8, and TensorRT takes int8 only"
    elif isinstance(found, Constant) and found.kind == TensorProto.INT8 and found.values.any():
        yield REFUSAL, "its zero point is not 0, and TensorRT takes symmetric scales only"


def _picture(place: Place) -> Said:
    shape = place.shape(0)
    if shape is not None and len(shape) not in (4, 5):
        yield place.level, "it pools other than pictures and volumes"
    dilations = place.node.attrs.get("dilations") or ()
    if place.release >= TEN and any(dilation != 1 for dilation in dilations):
        yield place.level, "it has dilations"


def _only_first(place: Place) -> Said:
    if any(tensor.name for tensor in place.node.outputs[1:]):
        yield place.level, "only its first output is supported"


_RESIZE: Mapping[str, Sequence[object]] = {
    "coordinate_transformation_mode": (
        "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
    ),
    "mode": ("nearest", "linear"),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch",),
    "antialias": (0,),
}  # fmt: skip


def _resize(place: Place) -> Said:
    for name, allowed in _RESIZE.items():
        value = place.node.attrs.get(name)
        if value is not None and value not in allowed:
            yield place.level, f"its {name} {shown(value)} is not supported"


def _einsum(place: Place) -> Said:
    equation = str(place.node.attrs.get("equation", "")).replace(" ", "")
    if "." in equation:
        yield place.level, "its equation has an ellipsis"
    elif any(len(set(term)) < len(term) for term in equation.partition("->")[0].split(",")):
        yield place.level, "its equation takes a diagonal"


def _top(place: Place) -> Said:
    if place.release < (10, 1):
        return
    number = place.given(1)
    if not place.node.attrs.get("sorted", 1):
        yield place.level, "it is not sorted"
    if isinstance(number, Constant) and np.any(number.values >= 3840):
        yield place.level, "it asks for 3840 or more"


def _sampled(place: Place) -> Said:
    shape = place.shape(0)
    if shape is not None and len(shape) != 4:
        yield place.level, "it samples other than pictures"


def _control(place: Place) -> Said:
    yield NOTE, "TensorRT fuses nothing across it, and does not promise to run one branch only"


def _unchecked(place: Place) -> Said:
    yield NOTE, "TensorRT restricts it in ways that are not checked here"


_RULES: Mapping[str, tuple[Callable[[Place], Said], ...]] = {
    **dict.fromkeys(_REDUCTIONS, (_axes_input,)),
    "AveragePool": (_picture,),
    "DequantizeLinear": (_zero_point,),
    "Einsum": (_einsum,),
    "GridSample": (_sampled,),
    "If": (_control,),
    "LayerNormalization": (_only_first,),
    "Loop": (_control, _unchecked),
    "LpPool": (_picture,),
    "MaxPool": (_picture, _only_first),
    "QuantizeLinear": (_zero_point,),
    "Resize": (_resize,),
    "Scan": (_control,),
    "ScatterND": (_reduction,),
    "TopK": (_top,),
    **dict.fromkeys("DeformConv Dropout EyeLike GRU Hardmax LSTM OneHot RNN ReverseSequence".split(), (_unchecked,)),
}
