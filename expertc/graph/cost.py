"""What a graph costs: parameters by role, multiply-accumulates, bytes of weights.

Parameters are trainable values, counted where an operator reads them as weight or bias, once per consumer; running
statistics of a batch norm are not trained and not counted. MACs are *core*: convolutions and matrix products, nothing
else, for a batch of one (PAPERS, section 0).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import TensorProto

from .branch import branch_model
from .equation import letters
from .model import Model
from .nodes import Constant, Node, Shape, subgraphs
from .routing import choice
from .shapes import volume
from .write import with_batch

# Positions of the inputs that are trained, per operator.
_ROLES: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "Add": (0, 1),
    "Mul": (0, 1),
    "QuantizeLinear": (0,),  # a layer's weights, on their way through integers
    "DequantizeLinear": (0,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
}


@dataclass(frozen=True)
class Cost:
    """Parameters, core MACs per image, and bytes of all initializers."""

    parameters: int
    macs: int
    weight_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs, self.weight_bytes + other.weight_bytes)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.parameters - other.parameters, self.macs - other.macs, self.weight_bytes - other.weight_bytes)


def cost(model: Model) -> Cost:
    """The cost of a whole model, subgraphs included: all weights, and the MACs of the costliest way of an image.

    That is one of the two branches of an ``If``, and of the branches below a router one. A loop's body counts once:
    nobody knows how often it will run.
    """
    return _count(for_one_image(model))


def _count(model: Model) -> Cost:
    parameters = sum(volume(constant.shape) for node in model.nodes for _, constant in trained(node))
    total = sum(macs(model, node) for node in model.nodes)
    size = sum(constant.nbytes for constant in model.constants.values())
    inner = [(node, inside(model, node)) for node in model.nodes if node.has_graphs]
    return Cost(
        parameters + sum(each.parameters for _, each in inner),
        total + _longest_way(model, [(node, each.macs) for node, each in inner]),
        size + sum(each.weight_bytes for _, each in inner),
    )


def _longest_way(model: Model, inner: Sequence[tuple[Node, int]]) -> int:
    """The MACs in subgraphs that one image can cost at most: of the columns of a router's choice just one is hot."""
    total = 0
    columns: dict[int, Counter[int]] = defaultdict(Counter)
    for node, spent in inner:
        decided = choice(model, node) if node.op == "If" else None
        if decided is None or decided.column is None or _otherwise(model, node):
            total += spent
        else:
            columns[decided.at][decided.column] += spent
    return total + sum(max(each.values()) for each in columns.values())


def _otherwise(model: Model, node: Node) -> int:
    """The MACs of an If whose condition is false."""
    return _count(branch_model(model, node.attrs["else_branch"])).macs


def inside(model: Model, node: Node) -> Cost:
    """The cost of a node's subgraphs; bytes are of the weights that the graph around them does not have."""
    branches = [branch_model(model, graph) for graph in subgraphs(node)]
    found = [_count(branch) for branch in branches]
    shared = (t.nbytes for branch in branches for t in branch.constants.values() if t.name in model.constants)
    return Cost(
        sum(each.parameters for each in found),
        max((each.macs for each in found), default=0),
        sum(each.weight_bytes for each in found) - sum(shared),
    )


def for_one_image(model: Model) -> Model:
    """The model with shapes for a batch of one, where a symbolic batch hides the size of a matrix product."""
    batch = {shape[0] for shape in model.inputs.values() if shape and not isinstance(shape[0], int)}
    hidden = any(
        dim is None or (isinstance(dim, str) and dim not in batch)
        for node in model.nodes
        if node.op in _COUNTERS
        for dim in model.shapes.get(node.outputs[0].name, (None,))
    )
    return with_batch(model, 1) if hidden else model


def trained(node: Node) -> Iterable[tuple[int, Constant]]:
    """The inputs of a node that are trained values, with their positions.

    A scalar of Add or Mul is arithmetic of the exporter, not a parameter.
    """
    for position in range(len(node.inputs)) if node.op == "Einsum" else _ROLES.get(node.op, ()):
        tensor = node.inputs[position] if position < len(node.inputs) else None
        if isinstance(tensor, Constant) and (node.op not in ("Add", "Mul") or _is_vector(tensor)):
            yield position, tensor


_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _is_vector(constant: Constant) -> bool:
    return volume(constant.shape) > 1 and constant.kind in _FLOATS


def macs(model: Model, node: Node) -> int:
    """Multiply-accumulates of one node for a batch of one; 0 for anything but convolutions and matrix products."""
    if node.op == "ConvTranspose":  # every input element meets every weight of its channel once
        x, weight = (model.shapes.get(node.inputs[i].name, ()) for i in (0, 1))
        return volume(x) * volume(weight[1:])
    counter = _COUNTERS.get(node.op)
    return 0 if counter is None else volume(model.shapes.get(node.outputs[0].name, ())) * counter(model, node)


def _conv_inner(model: Model, node: Node) -> int:
    weight = model.shapes.get(node.inputs[3 if node.op == "QLinearConv" else 1].name, ())
    return volume(weight[1:])


def _gemm_inner(model: Model, node: Node) -> int:
    a, b = (model.shapes.get(node.inputs[i].name, ()) for i in (0, 1))
    inner = _size(a, 0 if node.attrs.get("transA", 0) else 1), _size(b, 1 if node.attrs.get("transB", 0) else 0)
    return max(inner)  # one of them may be unknown


def _matmul_inner(model: Model, node: Node) -> int:
    a, b = (model.shapes.get(node.inputs[i].name, ()) for i in (0, 3 if node.op == "QLinearMatMul" else 1))
    return max(_size(a, -1), _size(b, -2 if len(b) > 1 else -1))  # one of them may be unknown


def _einsum_inner(model: Model, node: Node) -> int:
    shapes = [model.shapes.get(tensor.name) for tensor in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return 1
    try:
        terms, result = letters(str(node.attrs.get("equation", "")), [len(shape) for shape in known])
    except ValueError:  # malformed: whoever cuts or runs it refuses it
        return 1
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, known, strict=True):
        for letter, dim in zip(term, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), dim if isinstance(dim, int) else 1)
    return prod(size for letter, size in sizes.items() if letter not in result)


def _size(shape: Shape, axis: int) -> int:
    dim = shape[axis] if -len(shape) <= axis < len(shape) else 1
    return dim if isinstance(dim, int) else 1


_COUNTERS: Mapping[str, Callable[[Model, Node], int]] = {
    "Conv": _conv_inner,
    "ConvInteger": _conv_inner,
    "QLinearConv": _conv_inner,
    "Gemm": _gemm_inner,
    "MatMul": _matmul_inner,
    "MatMulInteger": _matmul_inner,
    "QLinearMatMul": _matmul_inner,
    "Einsum": _einsum_inner,
}
