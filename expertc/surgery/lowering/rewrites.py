"""The same operator in its older form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from ...graph import Constant, Node, Tensor
from .scope import NotExactError, Scope, changed, given

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip
_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
_LAST_BUT_ONE = -2  # DFT's axis, by default: the one before that of real and imaginary parts


def reduce(node: Node, scope: Scope) -> Node:
    """18: the axes are an input; none at all may mean that nothing is reduced."""
    listed = given(node, 1)
    axes = [] if listed is None else scope.whole(listed, "axes")
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        raise NotExactError("it reduces over no axis")
    made = changed(node, without=("noop_with_empty_axes",), inputs=node.inputs[:1])
    return changed(made, axes=axes) if axes else made


def split(node: Node, scope: Scope) -> Node:
    """18: a number of parts instead of their sizes, of which the last may be smaller."""
    parts = node.attrs.get("num_outputs")
    if parts is None:
        return node
    axis, dims = int(node.attrs.get("axis", 0)), scope.shape(node.inputs[0])
    dim = None if dims is None else dims[axis]
    if not isinstance(dim, int):
        raise NotExactError("the size of what it splits is not known")
    each = -(-dim // int(parts))
    sizes = [each] * (int(parts) - 1) + [dim - each * (int(parts) - 1)]
    if sizes[-1] < 0:
        raise NotExactError("it has more parts than there are rows")
    read = [node.inputs[0], scope.constant(f"{node.outputs[0].name}.split", sizes)]
    return changed(node, without=("num_outputs",), inputs=read)


def pad(node: Node, scope: Scope) -> Node:
    """18: only the axes that are listed are padded."""
    listed = given(node, 3)
    if listed is None:
        return changed(node, inputs=node.inputs[:3])
    rank, axes, pads = scope.rank(node.inputs[0]), scope.whole(listed, "axes"), scope.whole(node.inputs[1], "pads")
    whole = [0] * 2 * rank
    for position, axis in enumerate(axes):
        whole[axis % rank], whole[axis % rank + rank] = pads[position], pads[position + len(axes)]
    value = given(node, 2) or Tensor()
    return changed(node, inputs=[node.inputs[0], scope.constant(f"{node.outputs[0].name}.pads", whole), value])


def reshape(node: Node, scope: Scope) -> Node:
    """14: a 0 may mean an empty axis instead of the input's size."""
    if node.attrs.get("allowzero", 0) and 0 in scope.whole(node.inputs[1], "sizes"):
        raise NotExactError("it makes an empty axis")
    return changed(node, without=("allowzero",))


def shape(node: Node, scope: Scope) -> Node | list[Node]:
    """15: only some of the axes."""
    start, end = int(node.attrs.get("start", 0)), node.attrs.get("end")
    plain = changed(node, without=("start", "end"))
    if start == 0 and end is None:
        return plain
    name = node.outputs[0].name
    plain.outputs[:] = [scope.variable(f"{name}.whole")]
    stop = np.iinfo(np.int64).max if end is None else int(end)
    bounds = [scope.constant(f"{name}.{what}", [value]) for what, value in (("from", start), ("to", stop))]
    cut = Node("Slice", f"{node.name}/Slice", {}, [plain.outputs[0], *bounds], node.outputs, like=node)
    return [plain, cut]


def resize(node: Node, scope: Scope) -> Node | list[Node]:
    """18: antialiasing, only the axes that are listed, and policies that keep the aspect ratio."""
    if node.attrs.get("antialias", 0):
        raise NotExactError("it smooths what it makes smaller (antialias)")
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotExactError("it keeps the aspect ratio")
    axes = node.attrs.get("axes")
    plain = changed(node, without=("antialias", "axes", "keep_aspect_ratio_policy"))
    if axes is None:
        return plain
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NotExactError("it crops along some of the axes")
    source, scales, rank = node.inputs[0], given(node, 2), scope.rank(node.inputs[0])
    listed = [axis % rank for axis in axes]
    if scales is None:
        sizes = dict(zip(listed, scope.whole(node.inputs[3], "sizes"), strict=True))
        nodes = _sizes(node, sizes, scope)
        return [*nodes, changed(plain, inputs=[source, Tensor(), Tensor(), nodes[-1].outputs[0]])]
    if not isinstance(scales, Constant):
        raise NotExactError("its scales are computed")
    factors = np.ones(rank, np.float32)
    factors[listed] = scales.values
    return changed(plain, inputs=[source, Tensor(), scope.constant(f"{node.outputs[0].name}.scales", factors)])


def _sizes(node: Node, wanted: Mapping[int, int], scope: Scope) -> list[Node]:
    """Nodes that end in the shape of a node's input with other sizes along some axes."""
    source, name = node.inputs[0], node.outputs[0].name
    shape, sizes = scope.variable(f"{name}.shape"), scope.variable(f"{name}.sizes")
    nodes = [Node("Shape", f"{node.name}/Shape", {}, [source], [shape])]
    parts: list[Tensor] = []
    for axis in range(scope.rank(source)):
        if axis in wanted:
            parts.append(scope.constant(f"{name}.size", [wanted[axis]]))
            continue
        parts.append(scope.variable(f"{name}.kept"))
        place = scope.constant(f"{name}.axis", [axis])
        nodes.append(Node("Gather", f"{node.name}/Gather.{axis}", {"axis": 0}, [shape, place], [parts[-1]]))
    return [*nodes, Node("Concat", f"{node.name}/Concat", {"axis": 0}, parts, [sizes])]


def grid_sample(node: Node, scope: Scope) -> Node:
    """20: volumes, and other names for the ways to interpolate."""
    mode = _MODES.get(str(node.attrs.get("mode", "linear")))
    if scope.rank(node.inputs[0]) != 4 or mode is None:
        raise NotExactError("it samples other than pictures")
    return changed(node, mode=mode)


def dft(node: Node, scope: Scope) -> Node:
    """20: the axis is an input."""
    listed = given(node, 2)
    axis = _LAST_BUT_ONE if listed is None else scope.whole(listed, "axes")[0]
    return changed(node, inputs=node.inputs[:2], axis=axis % scope.rank(node.inputs[0]))


def quantise(node: Node, scope: Scope) -> Node:
    """21: blocks, and the type without a zero point, which was uint8."""
    kind = int(node.attrs.get("output_dtype", 0))
    if node.attrs.get("block_size", 0):
        raise NotExactError("it quantises in blocks")
    if given(node, 2) is None and kind not in (TensorProto.UNDEFINED, TensorProto.UINT8):
        raise NotExactError("its type is given without a zero point")
    return changed(node, without=("block_size", "output_dtype"))


def dequantise(node: Node, scope: Scope) -> Node:
    """23: the type may be another than that of the scale."""
    kind = int(node.attrs.get("output_dtype", 0))
    if kind not in (TensorProto.UNDEFINED, scope.kind(node.inputs[1])):
        raise NotExactError("its type is not that of its scale")
    return changed(node, without=("output_dtype",))
