"""Expressions of constants, evaluated with ONNX's own reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx

from ...graph import Constant, Node, volume
from ...graph.tensors import Array
from .draft import Draft

# Cheap rearrangements and arithmetic that exporters leave behind on constants.
FOLDABLE = tuple(
    "Add Cast Concat ConstantOfShape Div Expand Gather Identity Mul Neg Pow Range Reciprocal Reshape Shape Slice Sqrt "
    "Split Squeeze Sub Tile Transpose Unsqueeze".split()
)
SMALL = 2**16
"""Elements: a constant is not blown up beyond this, nor looked at for the sake of a guess."""


def evaluate(draft: Draft, at: int) -> bool:
    """A node whose inputs are all constant becomes its values."""
    node = draft.node(at)
    if any(t.name and not isinstance(t, Constant) for t in node.inputs):
        return False
    constants = [tensor for tensor in node.inputs if isinstance(tensor, Constant)]
    names = [tensor.name for tensor in node.outputs]
    shapes = [draft.shape(tensor) for tensor in node.outputs]
    largest = max([SMALL, *(volume(tensor.shape) for tensor in constants)])
    known = all(s is not None and all(isinstance(dim, int) for dim in s) and volume(s) <= largest for s in shapes)
    if not known or not draft.fixed.isdisjoint(names):
        return False
    draft.freeze(at, _run(node, {tensor.name: tensor.values for tensor in constants}, draft.model.opset))
    return True


def _run(node: Node, values: dict[str, Array], opset: int) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    proto = node.write()
    results = [f"result {position}" for position in range(len(node.outputs))]
    proto.output[:] = results
    given = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    graph = onnx.helper.make_graph([proto], "constant", given, [onnx.ValueInfoProto(name=result) for result in results])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, values)]
