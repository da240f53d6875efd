"""A node read as ``y = x * scale + shift`` with constant scale and shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...graph import Constant, Node, Shape, Tensor, volume
from ...graph.tensors import Array
from .constants import SMALL
from .draft import Draft

WIDEST_RATIO = 8.0
"""A mean may be this many deviations from zero where it is to be subtracted behind a sum of products instead of before
it: beyond, the sum cancels, and float32 has lost more than three bits."""


@dataclass(frozen=True)
class Affine:
    """``source * scale + shift``; both are float64 of the rank of ``source``, each axis 1 or as long as its.

    ``balanced`` is False where the shift is known to be far larger than what varies.
    """

    source: Tensor
    scale: Array
    shift: Array
    balanced: bool = True

    @property
    def scales(self) -> bool:
        """Whether anything is multiplied by another number than 1."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether anything but 0 is added."""
        return bool((self.shift != 0).any())

    def along(self, axis: int) -> tuple[Array, Array] | None:
        """Scale and shift as vectors along one axis, if they do not differ along another."""
        if any(a.shape[other] != 1 for a in (self.scale, self.shift) for other in range(a.ndim) if other != axis):
            return None
        return self.scale.reshape(-1), self.shift.reshape(-1)


def affine(draft: Draft, at: int) -> Affine | None:
    """The node at ``at`` as scale and shift, if it is one whose output has its input's shape."""
    node, op = draft.node(at), draft.op(at)
    if op == "BatchNormalization":
        return _batch_norm(draft, node)
    if op not in ("Add", "Div", "Mul", "Sub"):
        return None
    constants = [isinstance(tensor, Constant) for tensor in node.inputs]
    if constants.count(True) != 1 or (op == "Div" and constants[0]):
        return None
    source, constant = node.inputs[constants.index(False)], node.inputs[constants.index(True)]
    shape = draft.shape(source)
    if not isinstance(constant, Constant) or shape is None or volume(constant.shape) > SMALL:
        return None
    if not _fits(constant.shape, shape):
        return None
    values = constant.values.astype(np.float64).reshape((1,) * (len(shape) - constant.values.ndim) + constant.shape)
    one, none = np.ones((1,) * len(shape)), np.zeros((1,) * len(shape))
    if op == "Mul":
        return Affine(source, values, none)
    if op == "Div":
        return Affine(source, 1 / values, none) if bool(values.all()) else None
    if op == "Add":
        return Affine(source, one, values)
    return Affine(source, -one, values) if constants[0] else Affine(source, one, -values)


def _batch_norm(draft: Draft, node: Node) -> Affine | None:
    """Inference form: gamma (x - mean) / sqrt(var + eps) + beta."""
    vectors = [tensor for tensor in node.inputs[1:5] if isinstance(tensor, Constant) and len(tensor.shape) == 1]
    shape = draft.shape(node.inputs[0])
    if len(vectors) < 4 or shape is None or len(shape) < 2:
        return None
    if node.attrs.get("training_mode", 0) or any(tensor.name for tensor in node.outputs[1:]):
        return None
    gamma, beta, mean, variance = (vector.values.astype(np.float64) for vector in vectors)
    with np.errstate(divide="ignore", invalid="ignore"):  # a variance below zero: nothing is folded that is not finite
        deviation = np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        scale = gamma / deviation
    rank = (1, -1, *(1,) * (len(shape) - 2))
    balanced = bool((np.abs(mean) <= WIDEST_RATIO * deviation).all())
    return Affine(node.inputs[0], scale.reshape(rank), (beta - mean * scale).reshape(rank), balanced)


def _fits(shape: tuple[int, ...], to: Shape) -> bool:
    """Whether broadcasting a constant to a tensor leaves the tensor's shape as it is."""
    if len(shape) > len(to):
        return False
    return all(one in (1, have) for one, have in zip(reversed(shape), reversed(to), strict=False))
