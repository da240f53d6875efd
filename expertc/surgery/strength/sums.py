"""Sums over all but the last axes of a large tensor, written as products with a row of ones.

ONNX Runtime's kernels sum such a tensor column by column, which reads every cache line as often as it has columns; its
matrix product reads it once. What that gains a whole network stands in ``benchmarks/results/latency.md``: NHL on
ConvNeXt V2, cut against folded.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ...graph import Constant, Node
from .place import STANDARD, Place, last

FEWEST = 2**14
"""Elements that are summed in all: of fewer, any kernel is done before it has begun."""

_SQUARED = ("ReduceL2", "ReduceSumSquare")
_SUMS = (*_SQUARED, "ReduceMean", "ReduceSum")


def as_product(place: Place, node: Node) -> list[Node] | None:
    """What stands for ``node``, a sum over neighbouring axes with some behind them; None if it is none."""
    if node.domain not in STANDARD or node.op not in _SUMS or not place.is_single(node.inputs[0]):
        return None
    shape, axes = place.shape(node.inputs[0]), _axes(node)
    if shape is None or not axes:
        return None
    axes = sorted({axis % len(shape) for axis in axes})
    first, behind = axes[0], axes[-1] + 1
    summed, kept = shape[first:behind], shape[behind:]
    if axes != list(range(first, behind)) or not all(isinstance(dim, int) and dim > 0 for dim in (*summed, *kept)):
        return None
    count, channels = prod(map(int, summed)), prod(map(int, kept))  # type: ignore[arg-type]
    if channels < 2 or count < 2 or count * channels < FEWEST or any(dim == 0 for dim in shape[:first]):
        return None
    made, values = [], node.inputs[0]
    if len(axes) > 1 or len(kept) > 1:
        rows = place.constant(node, "rows", np.array([*(0,) * first, count, channels], np.int64))
        made.append(place.emit(node, "Reshape", "flat", [values, rows]))
        values = made[-1].outputs[0]
    if node.op in _SQUARED:  # not Pow, which takes as long as the sum did
        made.append(place.emit(node, "Mul", "squares", [values, values]))
        values = made[-1].outputs[0]
    weight = 1 / count if node.op == "ReduceMean" else 1
    ones = place.constant(node, "ones", np.full((1, count), weight, np.float32))
    made.append(place.emit(node, "MatMul", "sum", [ones, values]))
    if node.op == "ReduceL2":
        made.append(place.emit(node, "Sqrt", "norm", [made[-1].outputs[0]]))
    left = [*(1,) * len(axes)] if node.attrs.get("keepdims", 1) else []
    if len(left) != 1 or len(kept) > 1:
        sizes = place.constant(node, "shape", np.array([*(0,) * first, *left, *kept], np.int64))
        made.append(place.emit(node, "Reshape", "whole", [made[-1].outputs[0], sizes]))
    return [*made[:-1], last(node, made[-1])]


def _axes(node: Node) -> list[int] | None:
    if len(node.inputs) > 1 and node.inputs[1].name:
        given = node.inputs[1]
        return [int(axis) for axis in given.values.reshape(-1)] if isinstance(given, Constant) else None
    return list(node.attrs["axes"]) if "axes" in node.attrs else None
