"""How siblings of each operator become one node: from the row they form to the wide node, or to nothing.

Weights are laid one after the other along their output channels. What reads one tensor stays one dense layer; what
reads its own branch's channels becomes a grouped convolution, a group per branch, which computes each output from the
very same products as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph import Model, Node
from .form import Form
from .packs import Row

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wide:
    """One of the nodes that take the place of a row: its operator, attributes and inputs.

    An input is the name of a tensor, new values, "" for one left out, or None for what the node before it made.
    """

    op: str
    attrs: Mapping[str, Any]
    inputs: tuple[str | Array | None, ...]


Widened = tuple[Wide, ...]
"""The nodes that take a row's place, each but the first reading the one before; none if it stays as it is."""

_Rule = Callable[[Model, Row, Form], Widened]

_UNARY = frozenset(
    "Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Reciprocal Relu Selu Sigmoid "
    "Softplus Softsign Sqrt Tanh ThresholdedRelu".split()
)
_BINARY = ("Add", "Sub", "Mul", "Div")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")


def widen(model: Model, row: Row, form: Form) -> Widened:
    """The wide form of a row in this form of the expert."""
    node = model.nodes[row.nodes[0]]
    rule = _RULES.get(node.op) if node.domain in ("", "ai.onnx") else None
    named = [tensor.name for tensor in node.outputs if tensor.name]
    return () if rule is None or len(named) != 1 else rule(model, row, form)


# -- layers with weights -----------------------------------------------------------------------------------------------


def _conv(model: Model, row: Row, form: Form) -> Widened:
    node, group = _first(model, row), int(_first(model, row).attrs.get("group", 1))
    if any(not slot.constant for slot in row.slots[1:]):
        return ()
    inputs = [_beside(model, row, position, 0) for position in range(1, len(node.inputs))]
    shared = row.slots[0].shared
    if shared is not None:
        # Groups of one tensor would have to be dealt out anew.
        return (Wide("Conv", node.attrs, (shared, *inputs)),) if form.dense and group == 1 else ()
    pack = row.slots[0].pack
    if pack is None or not _own(model, row, form) or (group > 1 and row.children > 1):
        return ()
    shape = model.shapes[node.outputs[0].name]
    if form.batched and group == 1 and _is_pointwise(model, node) and all(isinstance(dim, int) for dim in shape[2:]):
        return _batched(model, row, inputs)
    groups = len(pack.members) * group
    return (Wide("Conv", {**node.attrs, "group": groups}, (pack.wide, *inputs)),)


def _is_pointwise(model: Model, node: Node) -> bool:
    plain = {"strides": 1, "dilations": 1, "pads": 0}
    kernel = model.shapes[node.inputs[1].name][2:]
    return set(kernel) == {1} and all(set(node.attrs.get(name, [value])) <= {value} for name, value in plain.items())


def _batched(model: Model, row: Row, inputs: list[Array]) -> Widened:
    """``[N, k Cin, H, W]`` as a product of ``[k, Cout, Cin]`` with ``[N, k, Cin, H W]``."""
    pack, node = row.packs()[0], _first(model, row)
    weight, k = inputs[0], len(pack.members)
    shape = model.shapes[node.outputs[0].name]
    out = [0, len(weight), *shape[2:]]
    split = Wide("Reshape", {}, (pack.wide, np.array([0, k, pack.width, -1], np.int64)))
    product = Wide("MatMul", {}, (weight.reshape(k, -1, weight.shape[1]), None))
    bias = [Wide("Add", {}, (None, inputs[1].reshape(k, -1, 1)))] if len(inputs) > 1 else []
    return (split, product, *bias, Wide("Reshape", {}, (None, np.array(out, np.int64))))


def _gemm(model: Model, row: Row, form: Form) -> Widened:
    node = _first(model, row)
    plain = not node.attrs.get("transA", 0) and node.attrs.get("alpha", 1.0) == node.attrs.get("beta", 1.0) == 1.0
    if not plain or any(not slot.constant for slot in row.slots[1:]):
        return ()
    turned = bool(node.attrs.get("transB", 0))
    weight = _beside(model, row, 1, 0 if turned else 1)
    biased = len(node.inputs) > 2 and bool(node.inputs[2].name)
    bias = [np.concatenate([_bias(model, at) for at in row.nodes])] if biased else []
    if row.slots[0].shared is not None:
        return (Wide("Gemm", node.attrs, (row.slots[0].shared, weight, *bias)),) if form.dense else ()
    return _grouped_product(model, row, form, weight if turned else weight.T, bias)


def _bias(model: Model, at: int) -> Array:
    """The bias of a Gemm as a vector of its outputs."""
    node = model.nodes[at]
    made = model.shapes[node.outputs[0].name][-1]
    values = np.asarray(model.value(node.inputs[2].name)).reshape(-1)
    return np.broadcast_to(values, (made if isinstance(made, int) else len(values),))


def _matmul(model: Model, row: Row, form: Form) -> Widened:
    node = _first(model, row)
    shapes = [model.shapes.get(tensor.name, ()) for tensor in node.inputs]
    if not row.slots[1].constant or len(shapes[0]) != 2 or len(shapes[1]) != 2:
        return ()
    weight = _beside(model, row, 1, 1)
    if row.slots[0].shared is not None:
        return (Wide("MatMul", node.attrs, (row.slots[0].shared, weight)),) if form.dense else ()
    return _grouped_product(model, row, form, weight.T, [])


def _grouped_product(model: Model, row: Row, form: Form, weight: Array, bias: list[Array]) -> Widened:
    """``[N, k C]`` through k products ``[out, C]`` of its own each, as a convolution of one pixel in k groups."""
    pack = row.slots[0].pack
    if pack is None or not _own(model, row, form):
        return ()
    k, width = len(pack.members), pack.width
    kernels = weight.reshape(len(weight), width, 1, 1)
    return (
        Wide("Reshape", {}, (pack.wide, np.array([0, k * width, 1, 1], np.int64))),
        Wide("Conv", {"group": k, "kernel_shape": [1, 1]}, (None, kernels, *bias)),
        Wide("Reshape", {}, (None, np.array([0, len(weight)], np.int64))),
    )


def _own(model: Model, row: Row, form: Form) -> bool:
    """Whether layers that read their own branch become one: everywhere, or only behind the pooling."""
    return form.grouped or (form.heads and is_pooled(model, row))


def is_pooled(model: Model, row: Row) -> bool:
    """Whether nothing but channels is left of what the row reads."""
    shape = model.shapes.get(_first(model, row).inputs[0].name, ())
    return len(shape) == 2 or (len(shape) > 2 and all(dim == 1 for dim in shape[2:]))


# -- what works channel by channel -------------------------------------------------------------------------------------


def _unary(model: Model, row: Row, form: Form) -> Widened:
    node, pack = _first(model, row), row.slots[0].pack
    if pack is None or row.children > 1 or any(not slot.constant for slot in row.slots[1:]):
        return ()
    # What is no weight is the same for all: they would be no siblings else.
    rest = [np.asarray(model.value(t.name)) if t.name else "" for t in node.inputs[1:]]
    if any(isinstance(values, np.ndarray) and values.size > 1 for values in rest):
        return ()
    return (Wide(node.op, node.attrs, (pack.wide, *rest)),)


def _binary(model: Model, row: Row, form: Form) -> Widened:
    node, packs = _first(model, row), row.packs()
    if not packs or row.children > 1:
        return ()
    width = packs[0].width
    rank = len(model.shapes[node.outputs[0].name])
    inputs: list[str | Array | None] = []
    for position, slot in enumerate(row.slots):
        shape = model.shapes.get(node.inputs[position].name, ())
        if slot.pack is not None:
            if slot.pack.width != width or len(shape) != rank:
                return ()
            inputs.append(slot.pack.wide)
        elif slot.shared is not None:
            if len(shape) > rank or (len(shape) > rank - 2 and shape[1 - rank] != 1):
                return ()  # it has channels of its own, which would have to be repeated
            inputs.append(slot.shared)
        else:
            values = _channels(model, row, position, rank, width)
            if values is None:
                return ()
            inputs.append(values)
    return (Wide(node.op, node.attrs, tuple(inputs)),)


def _channels(model: Model, row: Row, position: int, rank: int, width: int) -> Array | None:
    """Constants of all branches for the wide tensor: one value, or a value per channel."""
    each = [np.asarray(model.value(model.nodes[at].inputs[position].name)) for at in row.nodes]
    if each[0].size == 1:
        return each[0]
    aligned: list[Array] = [v.reshape((1,) * (rank - v.ndim) + v.shape) for v in each if v.ndim <= rank]
    if len(aligned) < len(each) or rank < 2 or aligned[0].shape[0] != 1 or aligned[0].shape[1] not in (1, width):
        return None
    return np.concatenate([np.broadcast_to(v, (1, width, *v.shape[2:])) for v in aligned], axis=1)


def _pool(model: Model, row: Row, form: Form) -> Widened:
    node, pack = _first(model, row), row.slots[0].pack
    return (Wide(node.op, node.attrs, (pack.wide,)),) if pack is not None and row.children == 1 else ()


def _reduction(model: Model, row: Row, form: Form) -> Widened:
    node, pack = _first(model, row), row.slots[0].pack
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and row.slots[1].constant and node.inputs[1].name:
        axes = np.asarray(model.value(node.inputs[1].name)).tolist()
    rank = len(model.shapes.get(node.inputs[0].name, ()))
    if pack is None or row.children > 1 or not axes or {axis % rank for axis in axes} & {0, 1}:
        return ()
    rest = (np.array(axes, np.int64),) if len(node.inputs) > 1 else ()
    return (Wide(node.op, node.attrs, (pack.wide, *rest)),)


def _batch_norm(model: Model, row: Row, form: Form) -> Widened:
    node, pack = _first(model, row), row.slots[0].pack
    if pack is None or row.children > 1 or any(not slot.constant for slot in row.slots[1:]):
        return ()
    return (Wide(node.op, node.attrs, (pack.wide, *(_beside(model, row, position, 0) for position in range(1, 5)))),)


# -- what moves --------------------------------------------------------------------------------------------------------


def _flatten(model: Model, row: Row, form: Form) -> Widened:
    """``[N, C, ...]`` to ``[N, C ...]``: branch by branch before and after."""
    node, pack = _first(model, row), row.slots[0].pack
    if pack is None or row.children > 1 or any(not slot.constant for slot in row.slots[1:]):
        return ()
    before = model.shapes.get(node.inputs[0].name, ())
    after = model.shapes[node.outputs[0].name]
    same = len(before) > 1 and len(after) > 1 and before[0] == after[0]
    if not same or not all(isinstance(dim, int) for dim in (*before[1:], *after[1:])):
        return ()
    wide = [after[1] * len(pack.members), *after[2:]]  # type: ignore[operator]
    return (Wide("Reshape", {}, (pack.wide, np.array([0, *wide], np.int64))),)


_RULES: Mapping[str, _Rule] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _flatten),
}


def _first(model: Model, row: Row) -> Node:
    return model.nodes[row.nodes[0]]


def _beside(model: Model, row: Row, position: int, axis: int) -> Array:
    """The constants of all nodes at an input, one after the other along an axis."""
    return np.concatenate([np.asarray(model.value(model.nodes[at].inputs[position].name)) for at in row.nodes], axis)
