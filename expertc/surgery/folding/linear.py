"""Scales, shifts and batch norms go into the linear layer before or behind them, or into each other."""

from __future__ import annotations

import numpy as np

from ...graph import Constant, Tensor
from ...graph.tensors import Array
from .affine import Affine, affine
from .draft import Draft
from .layer import FLOATS, Layer, layer_at


def absorb_after(draft: Draft, at: int) -> bool:
    """A scale and shift of what only a layer has made: w' = s w and b' = s b + t."""
    found = affine(draft, at)
    before = None if found is None else draft.sole_maker(found.source)
    layer = None if before is None else _made_by(draft, before)
    if found is None or before is None or layer is None or layer.adder == at or not _of_one_kind(draft, layer):
        return False
    bare = layer.op == "MatMul" and layer.adder is None
    scale = layer.per_output(found.scale)
    if scale is None or (bare and not found.scales) or (layer.adder is None and layer.per_output(found.shift) is None):
        return False
    weight = layer.scaled(scale[:, :, None, None]) if found.scales else None
    bias = layer.new_bias(found.scale, found.shift) if layer.bias is not None or found.shifts else None
    if (weight is None and found.scales) or (bias is None and (layer.bias is not None or found.shifts)):
        return False
    name = draft.node(at).outputs[0].name
    _rewrite(draft, layer, draft.node(layer.at).inputs[0], weight, None if bare else bias, name)
    if bare and bias is not None:
        shift = draft.constant(f"{name}.bias", bias)
        draft.write(at, [draft.node(before).outputs[0], shift], op="Add", attrs={})
    else:
        draft.hand_over(at, before)
    return True


def absorb_before(draft: Draft, at: int) -> bool:
    """A scale and shift of what only a layer reads: w' = s w and b' = b + w t, where no padding hides a t."""
    layer = layer_at(draft, at)
    before = None if layer is None else draft.sole_maker(draft.node(at).inputs[0])
    found = None if before is None else affine(draft, before)
    if layer is None or found is None or not _of_one_kind(draft, layer):
        return False
    scale, shift = layer.per_input(found.scale), layer.per_input(found.shift)
    if scale is None or shift is None or (found.shifts and not (layer.takes_shift and found.balanced)):
        return False
    weight = layer.scaled(scale[:, None, :, None]) if found.scales else None
    bias = layer.new_bias(np.ones(()), layer.response(shift)) if found.shifts else None
    if (weight is None and found.scales) or (bias is None and found.shifts):
        return False
    _rewrite(draft, layer, found.source, weight, bias, draft.node(at).outputs[0].name)
    return True


def merge(draft: Draft, at: int) -> bool:
    """Two scales, or two shifts, in a row."""
    found = affine(draft, at)
    before = None if found is None else draft.sole_maker(found.source)
    first = None if before is None else affine(draft, before)
    if found is None or before is None or first is None or draft.kind(found.source) not in FLOATS:
        return False
    if draft.op(at) == "BatchNormalization" or draft.op(before) == "BatchNormalization":
        return False
    if not (found.shifts or first.shifts):
        op, values, sizes = "Mul", first.scale * found.scale, (first.scale.size, found.scale.size)
    elif not (found.scales or first.scales):
        op, values, sizes = "Add", first.shift + found.shift, (first.shift.size, found.shift.size)
    else:
        return False
    values = values.astype(_constant(draft, at).dtype)
    if values.size > max(sizes) or not bool(np.isfinite(values).all()):
        return False
    name = draft.node(at).outputs[0].name
    draft.write(at, [first.source, draft.constant(f"{name}.{op.lower()}", values)], op=op, attrs={})
    return True


def _made_by(draft: Draft, at: int) -> Layer | None:
    """The layer whose last node is at ``at``: itself, or the addition of its bias."""
    added: Affine | None = affine(draft, at) if draft.op(at) == "Add" else None
    if added is None:
        return layer_at(draft, at)
    maker = draft.sole_maker(added.source)
    layer = None if maker is None else layer_at(draft, maker)
    return layer if layer is not None and layer.adder == at else None


def _of_one_kind(draft: Draft, layer: Layer) -> bool:
    return draft.kind(draft.node(layer.at).outputs[0]) == layer.weight.kind


def _constant(draft: Draft, at: int) -> Constant:
    return next(tensor for tensor in draft.node(at).inputs if isinstance(tensor, Constant))


def _rewrite(draft: Draft, layer: Layer, source: Tensor, weight: Array | None, bias: Array | None, name: str) -> None:
    """Let a layer read ``source`` with another weight and bias; None leaves what it has."""
    weights = layer.weight if weight is None else draft.constant(f"{name}.weight", weight)
    biases = layer.bias if bias is None else draft.constant(f"{name}.bias", bias)
    if layer.adder is not None and biases is not None:
        draft.write(layer.adder, [draft.node(layer.at).outputs[0], biases])
    own = [biases] if biases is not None and layer.op != "MatMul" else []
    attrs = layer.attrs if bias is None else {key: value for key, value in layer.attrs.items() if key != "beta"}
    draft.write(layer.at, [source, weights, *own], attrs=attrs)
