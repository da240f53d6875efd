"""What of a node can be in half precision, as its ONNX schema has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import TensorProto

from ...graph import Constant, Model, Node, Tensor

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)

_LOWER = ("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT4")
_QUANTISED = ("Quantize", "Dequantize", "DynamicQuantize", "QLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class Form:
    """A node in half precision: positions of the inputs and outputs that are; everything else keeps its type."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def is_single(model: Model) -> bool:
    """Whether a model computes in single precision (or integers) throughout: nobody has lowered it yet."""
    lower = any(TensorProto.DataType.Name(kind).startswith(_LOWER) for kind in set(model.types.values()))
    return not lower and not any(node.op.startswith(_QUANTISED) for node in model.nodes)


def label(node: Node) -> str:
    """What a node is called: its first output, because no two nodes make the same tensor, but names may repeat."""
    return next(tensor.name for tensor in node.outputs if tensor.name)


def float_positions(model: Model, tensors: Sequence[Tensor]) -> list[int]:
    """Which of a node's inputs or outputs are in single precision."""
    return [at for at, tensor in enumerate(tensors) if _kind(model, tensor) == FLOAT]


def half_form(model: Model, node: Node) -> Form | str:
    """How the node can be in half precision, or a clause that says why it cannot."""
    if node.domain:
        return "an operator of another domain"
    if node.has_graphs:
        return "a branch or loop, which is left as it is"
    if any(tensor.name and _kind(model, tensor) is None for tensor in (*node.inputs, *node.outputs)):
        return "of a type that is not known"
    read, made = float_positions(model, node.inputs), float_positions(model, node.outputs)
    faces = _faces(node.op, model.opset)
    if faces is None:
        return "not an operator of this opset"
    inputs, outputs = (
        [side[min(at, len(side) - 1)] for at in found] for side, found in zip(faces, (read, made), strict=True)
    )
    if not all(half for _, half in outputs):
        return "only defined in single precision"
    variables = {variable for variable, _ in outputs}
    if variables - {variable for variable, _ in inputs}:
        return "of a type that an attribute names"
    # What has a type of its own (the sampling grid, the scales of a Resize) keeps it.
    taken = [
        at for at, (variable, half) in zip(read, inputs, strict=True) if half and (variable in variables or not made)
    ]
    return Form(frozenset(taken), frozenset(made)) if taken else "only defined in single precision"


def _kind(model: Model, tensor: Tensor) -> int | None:
    return tensor.kind if isinstance(tensor, Constant) else model.types.get(tensor.name)


@cache
def _faces(op: str, opset: int) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]] | None:
    """Inputs and outputs of an operator: the name of the type, and whether that can be half precision."""
    try:
        schema = onnx.defs.get_schema(op, opset)
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: "tensor(float16)" in c.allowed_type_strs for c in schema.type_constraints}
    inputs, outputs = (
        [(formal.type_str, allowed.get(formal.type_str, False)) for formal in side]
        for side in (schema.inputs, schema.outputs)
    )
    return inputs, outputs
