"""A linear layer with constant weights, and what a scale and a shift before or behind it do to them.

Every weight is seen as [groups, outputs, inputs, taps]. Products are made in double precision: the rounding of the new
weights is the only one that is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from ...graph import Constant, Shape, Tensor
from ...graph.tensors import Array
from .affine import affine
from .draft import Draft

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul at ``at``, which makes a tensor of ``shape``.

    ``bias`` is its own or, of a MatMul, what the Add at ``adder`` adds.
    """

    at: int
    op: str
    attrs: Mapping[str, Any]
    weight: Constant
    bias: Constant | None
    shape: Shape
    adder: int | None = None

    @property
    def takes_shift(self) -> bool:
        """Whether a constant in its input adds the same everywhere in its output: not so at padded borders."""
        if self.op == "Conv":
            return not any(self.attrs.get("pads", ())) and self.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return self.op == "Gemm" or (self.op == "MatMul" and self.adder is not None)

    # -- one number per output or input ------------------------------------------------------------------------------

    def per_output(self, values: Array) -> Array | None:
        """``values``, of the output's rank, as [groups, outputs], if the layer's outputs are all they tell apart."""
        if self.op == "MatMul":
            *batch, _, width = self.weight.shape
            if values.shape[-2] != 1 or prod(values.shape[: -len(self.weight.shape)]) != 1:
                return None
            values = values.reshape(values.shape[-len(self.weight.shape) :])
            if any(have not in (1, want) for have, want in zip(values.shape, (*batch, 1, width), strict=True)):
                return None
            values = np.broadcast_to(values, (*batch, 1, width))
            return np.reshape(values, self.sizes[:2])
        return self._vector(values, 1, self.sizes[1])

    def per_input(self, values: Array) -> Array | None:
        """``values``, of the input's rank, as [groups, inputs], if the layer's inputs are all they tell apart."""
        axis = 1
        if self.op == "MatMul":
            axis = values.ndim - 1
        elif self.op == "Gemm" and self.attrs.get("transA", 0):
            axis = 0
        return self._vector(values, axis, self.sizes[2], repeated=self.op == "MatMul")

    def _vector(self, values: Array, axis: int, each: int, *, repeated: bool = False) -> Array | None:
        if values.size != values.shape[axis]:
            return None
        groups = self.sizes[0]
        if repeated or values.size == 1:
            return np.broadcast_to(values.reshape(-1), (groups, each))
        return values.reshape(groups, each)

    # -- new weights -------------------------------------------------------------------------------------------------

    def scaled(self, factor: Array) -> Array | None:
        """The weight times ``factor``, [groups, outputs or 1, inputs or 1, 1]; None if its type does not hold that."""
        made = np.empty(self.weight.shape, self.weight.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            # Piece by piece: a copy of all weights in double precision would take their memory twice again.
            np.multiply(self._matrix, factor, out=self._seen(made), dtype=np.float64, casting="unsafe")
        return made if bool(np.isfinite(made).all()) else None

    def response(self, shift: Array) -> Array:
        """What comes out of the layer for the constant inputs ``shift``, [groups, inputs]; of the output's rank."""
        out: Array = np.einsum("goit,gi->go", self._matrix, shift, dtype=np.float64, casting="unsafe")
        if self.op == "MatMul":
            return np.reshape(out, (1,) * (len(self.shape) - len(self.weight.shape)) + self._bias_shape)
        return np.reshape(out, self._bias_shape) * float(self.attrs.get("alpha", 1.0))

    def new_bias(self, scale: Array, shift: Array) -> Array | None:
        """The bias times ``scale`` plus ``shift``, both of the output's rank; None if it would grow or overflow."""
        made = self._own_bias * scale + shift
        if made.size > max(self._own_bias.size, shift.size, prod(self._bias_shape)):
            return None
        if self.op in ("Conv", "ConvTranspose"):
            made = np.broadcast_to(made, self._bias_shape).reshape(-1)
        else:
            made = made.reshape(made.shape[next((i for i, dim in enumerate(made.shape) if dim != 1), made.ndim) :])
        with np.errstate(over="ignore"):
            made = made.astype(self.weight.dtype)
        return made if bool(np.isfinite(made).all()) else None

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        """The shape of one number per output, for a MatMul of the weight's rank, else of the output's."""
        if self.op == "MatMul":
            return (*self.weight.shape[:-2], 1, self.weight.shape[-1])
        groups, outputs, _ = self.sizes
        return (1, groups * outputs, *(1,) * (len(self.shape) - 2))

    @property
    def _own_bias(self) -> Array:
        if self.bias is None:
            return np.zeros((1,) * len(self.shape))
        values = self.bias.values.astype(np.float64)
        if self.op in ("Conv", "ConvTranspose"):
            return values.reshape(self._bias_shape)
        return values * float(self.attrs.get("beta", 1.0)) if self.op == "Gemm" else values

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many groups there are, and how many outputs and inputs each has."""
        groups, rows, columns, _ = self._view
        return (groups, rows, columns) if self._rows_are_outputs else (groups, columns, rows)

    @property
    def _rows_are_outputs(self) -> bool:
        return self.op == "Conv" or (self.op == "Gemm" and bool(self.attrs.get("transB", 0)))

    @property
    def _view(self) -> tuple[int, int, int, int]:
        """The weight's shape as [groups, rows, columns, taps]."""
        shape = self.weight.shape
        if self.op == "MatMul":
            return prod(shape[:-2]), shape[-2], shape[-1], 1
        groups = int(self.attrs.get("group", 1))
        return groups, shape[0] // groups, shape[1], prod(shape[2:])

    @property
    def _matrix(self) -> Array:
        return self._seen(self.weight.values)

    def _seen(self, weight: Array) -> Array:
        """A view of the weight as [groups, outputs, inputs, taps]."""
        view = weight.reshape(self._view)
        return view if self._rows_are_outputs else view.swapaxes(1, 2)


def layer_at(draft: Draft, at: int) -> Layer | None:
    """The node at ``at`` as a layer; a MatMul with the bias that only it is added to."""
    node, op = draft.node(at), draft.op(at)
    if op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else Tensor()
    shape, given = draft.shape(node.outputs[0]), draft.shape(node.inputs[0])
    if not isinstance(weight, Constant) or len(weight.shape) < 2 or weight.kind not in FLOATS:
        return None
    if shape is None or given is None or len(given) < 2 or (bias.name and not isinstance(bias, Constant)):
        return None
    layer = Layer(at, op, node.attrs, weight, bias if isinstance(bias, Constant) else None, shape)
    adder = draft.reader(at) if op == "MatMul" else None
    if adder is None or draft.op(adder) != "Add" or affine(draft, adder) is None:
        return layer
    added = next(tensor for tensor in draft.node(adder).inputs if isinstance(tensor, Constant))
    return Layer(at, op, node.attrs, weight, added, shape, adder)
