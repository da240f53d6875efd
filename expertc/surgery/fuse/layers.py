"""Layers with weights, side by side.

Weights are laid one after the other along their output channels. What reads one tensor stays one dense layer; what
reads its own branch's channels becomes a grouped convolution, a group per branch, which computes each output from the
very same products as before.
"""

from __future__ import annotations

import numpy as np

from ...graph import Model, Node, volume
from .form import Form
from .packs import Array, Row, Wide, Widened, has_only_channels


def conv(model: Model, row: Row, form: Form) -> Widened:
    """Side by side on one tensor, or group by group on a pack, or batched there if pointwise."""
    node = model.nodes[row.nodes[0]]
    group = int(node.attrs.get("group", 1))
    if any(not slot.constant for slot in row.slots[1:]):
        return ()
    inputs = [_beside(model, row, position, 0) for position in (1, 2) if _has(node, position)]
    shared, pack = row.slots[0].shared, row.main
    if shared is not None:
        # Groups of one tensor would have to be dealt out anew.
        return (Wide("Conv", node.attrs, (shared, *inputs)),) if form.dense and group == 1 else ()
    if pack is None or not _own(model, row, form) or (group > 1 and row.children > 1):
        return ()
    made = model.shapes[node.outputs[0].name]
    if form.batched and group == 1 and _is_pointwise(model, node) and all(isinstance(dim, int) for dim in made[2:]):
        return _batched(model, row, inputs)
    return (Wide("Conv", {**node.attrs, "group": len(pack.members) * group}, (pack.wide, *inputs)),)


def _is_pointwise(model: Model, node: Node) -> bool:
    plain = {"strides": 1, "dilations": 1, "pads": 0}
    kernel = model.shapes[node.inputs[1].name][2:]
    return set(kernel) == {1} and all(set(node.attrs.get(name, [value])) <= {value} for name, value in plain.items())


def _batched(model: Model, row: Row, inputs: list[Array]) -> Widened:
    """``[N, k Cin, H, W]`` as a product of ``[k, Cout, Cin]`` with ``[N, k, Cin, H W]``."""
    pack, node = row.main, model.nodes[row.nodes[0]]
    assert pack is not None
    weight, k = inputs[0], len(pack.members)
    out = [0, len(weight), *model.shapes[node.outputs[0].name][2:]]
    split = Wide("Reshape", {}, (pack.wide, np.array([0, k, pack.width, -1], np.int64)))
    product = Wide("MatMul", {}, (weight.reshape(k, -1, weight.shape[1]), None))
    bias = [Wide("Add", {}, (None, inputs[1].reshape(k, -1, 1)))] if len(inputs) > 1 else []
    return (split, product, *bias, Wide("Reshape", {}, (None, np.array(out, np.int64))))


def gemm(model: Model, row: Row, form: Form) -> Widened:
    """A product with all outputs, or one per group."""
    node = model.nodes[row.nodes[0]]
    attrs = node.attrs
    plain = not attrs.get("transA", 0) and attrs.get("alpha", 1.0) == attrs.get("beta", 1.0) == 1.0
    if not plain or any(not slot.constant for slot in row.slots[1:]):
        return ()
    width, bias = volume(model.shapes[node.outputs[0].name][1:]), []
    if _has(node, 2):
        each = [np.asarray(model.value(model.nodes[at].inputs[2].name)) for at in row.nodes]
        if each[0].size not in (1, width):
            return ()  # a bias per row
        bias = [np.concatenate([np.broadcast_to(values.reshape(-1), (width,)) for values in each])]
    turned = bool(attrs.get("transB", 0))
    weight = _beside(model, row, 1, 0 if turned else 1)
    if row.slots[0].shared is not None:
        return (Wide("Gemm", attrs, (row.slots[0].shared, weight, *bias)),) if form.dense else ()
    return _grouped_product(model, row, form, weight if turned else weight.T, bias)


def matmul(model: Model, row: Row, form: Form) -> Widened:
    """As ``gemm``, for matrices only."""
    node = model.nodes[row.nodes[0]]
    if not row.slots[1].constant or any(len(model.shapes.get(tensor.name, ())) != 2 for tensor in node.inputs):
        return ()
    weight = _beside(model, row, 1, 1)
    if row.slots[0].shared is not None:
        return (Wide("MatMul", node.attrs, (row.slots[0].shared, weight)),) if form.dense else ()
    return _grouped_product(model, row, form, weight.T, [])


def _grouped_product(model: Model, row: Row, form: Form, weight: Array, bias: list[Array]) -> Widened:
    """``[N, k C]`` through k products ``[out, C]`` of its own each, as a convolution of one pixel in k groups."""
    pack = row.main
    if pack is None or not _own(model, row, form):
        return ()
    k, width = len(pack.members), pack.width
    return (
        Wide("Reshape", {}, (pack.wide, np.array([0, k * width, 1, 1], np.int64))),
        Wide("Conv", {"group": k, "kernel_shape": [1, 1]}, (None, weight.reshape(len(weight), width, 1, 1), *bias)),
        Wide("Reshape", {}, (None, np.array([0, len(weight)], np.int64))),
    )


def batch_norm(model: Model, row: Row, form: Form) -> Widened:
    """One over all channels."""
    pack = row.main
    if pack is None or row.children > 1 or any(not slot.constant for slot in row.slots[1:]):
        return ()
    vectors = (_beside(model, row, position, 0) for position in range(1, 5))
    return (Wide("BatchNormalization", model.nodes[row.nodes[0]].attrs, (pack.wide, *vectors)),)


def _own(model: Model, row: Row, form: Form) -> bool:
    """Whether layers that read their own branch become one: everywhere, or only behind the pooling."""
    read = model.nodes[row.nodes[0]].inputs[0].name
    return form.grouped or (form.heads and has_only_channels(model, read))


def _has(node: Node, position: int) -> bool:
    return position < len(node.inputs) and bool(node.inputs[position].name)


def _beside(model: Model, row: Row, position: int, axis: int) -> Array:
    """The constants of all nodes at an input, one after the other along an axis."""
    return np.concatenate([np.asarray(model.value(model.nodes[at].inputs[position].name)) for at in row.nodes], axis)
