"""Numbers that a graph computes from its own shapes, folded to constants before any cut.

A channel count that is read from a tensor (``ReduceSum(x) / Shape(x)[1]``, targets of Reshape) must not change when the
tensor shrinks (RULES section 2). Sizes that are symbols are followed too: a target that is known up to symbols of its
own input is written with 0 and -1, so that inference, run again, knows what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
from onnx import numpy_helper

from .nodes import Shape
from .numbers import KEPT, RULES, Numbers, evaluate
from .shapes import SMALL
from .targets import TARGETS, outcome, spelled_out

_CONCERNED = frozenset({"Shape", "Size", *KEPT, *RULES, *TARGETS})


def fold_sizes(
    graph: onnx.GraphProto, shapes: Mapping[str, Shape], types: Mapping[str, int], learned: dict[str, Shape]
) -> bool:
    """Replace nodes whose result is a number computed from static dimensions by initializers, and spell out targets.

    In place; returns whether inference could know more now. ``learned`` is filled with the shapes that inference cannot
    tell, but a target that is known up to symbols does.
    """
    before = dict(learned)
    numbers: dict[str, Numbers] = {}
    given = {tensor.name: tensor for tensor in graph.initializer}
    symbols = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim}
    taken = cache(lambda: given.keys() | {name for node in graph.node for name in node.output})
    kept, changed = [], False
    for node in graph.node:
        if node.op_type not in _CONCERNED or node.domain:
            kept.append(node)
            continue
        name = node.output[0] if node.output else ""
        value = evaluate(node, numbers, given, shapes, types.get(name, onnx.TensorProto.UNDEFINED))
        shape = None if value is not None else outcome(node, numbers, given, shapes)
        # A symbol that inference invents means something else the next time.
        if shape is not None and shape != shapes.get(name) and all(isinstance(d, int) or d in symbols for d in shape):
            learned[name] = shape
        if value is None or len(node.output) != 1 or name not in types or value.size > SMALL:
            changed |= spelled_out(node, numbers, given, shapes, graph, taken)
            kept.append(node)
            continue
        numbers[name] = value
        if any(not isinstance(item, (int, np.integer)) for item in value.reshape(-1)):
            kept.append(node)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
            graph.initializer.append(numpy_helper.from_array(np.array(value.tolist(), dtype=dtype), name))
            changed = True
    if len(kept) != len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
    return changed or learned != before
