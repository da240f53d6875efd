"""Operators that an older opset lacks, in terms of those it has: every node here means the same from opset 13 on.

Layer normalisation and Gelu are written as exporters wrote them before there was an operator, because engines know
those chains and fuse them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ...graph import Constant, Node, Tensor, Variable
from .scope import NotExactError, Scope, given


class _Chain:
    """Nodes in the making, which take over what is known of the one they stand for."""

    def __init__(self, node: Node, scope: Scope) -> None:
        self.node, self.scope = node, scope
        self.name = node.outputs[0].name
        self.nodes: list[Node] = []
        kind = scope.kind(node.inputs[0])
        if kind is None:
            raise NotExactError("the type of its input is not known")
        self.kind: int = kind

    def add(self, op: str, *inputs: Tensor, out: Tensor | None = None, **attributes: Any) -> Tensor:
        """Add a node; returns its output, a new tensor if none is given."""
        out = out or self.scope.variable(f"{self.name}.{op.lower()}")
        name = f"{self.node.name}/{op}.{len(self.nodes)}" if self.node.name else ""
        self.nodes.append(Node(op, name, attributes, inputs, [Variable(out.name)], like=_metadata(self.node)))
        return out

    def number(self, value: float, kind: int | None = None) -> Constant:
        """A scalar of ``kind``, the input's by default."""
        dtype = helper.tensor_dtype_to_np_dtype(self.kind if kind is None else kind)
        return self.scope.constant(f"{self.name}.number", np.array(value, dtype))

    def mean(self, x: Tensor, axes: list[int], out: Tensor | None = None) -> Tensor:
        """The mean over ``axes``, which stay, in the form of the opset that is asked for."""
        if self.scope.opset < 18:
            return self.add("ReduceMean", x, out=out, axes=axes, keepdims=1)
        return self.add("ReduceMean", x, self.scope.constant(f"{self.name}.axes", axes), out=out, keepdims=1)

    def cast(self, x: Tensor, have: int, want: int) -> Tensor:
        """``x`` in another type."""
        return x if have == want else self.add("Cast", x, to=want)

    def finish(self, op: str, *inputs: Tensor, **attributes: Any) -> list[Node]:
        """Add the node that makes the output; returns all."""
        self.add(op, *inputs, out=self.node.outputs[0], **attributes)
        return self.nodes


def _metadata(node: Node) -> Node:
    """A node with the same metadata, and none of the attributes."""
    bare = Node(node.op)
    bare.metadata = node.metadata
    return bare


def hard_swish(node: Node, scope: Scope) -> list[Node]:
    """14: x max(0, min(1, x / 6 + 1 / 2))."""
    chain = _Chain(node, scope)
    return chain.finish("Mul", node.inputs[0], chain.add("HardSigmoid", node.inputs[0], alpha=1 / 6, beta=0.5))


def mish(node: Node, scope: Scope) -> list[Node]:
    """18: x tanh(softplus(x))."""
    chain = _Chain(node, scope)
    return chain.finish("Mul", node.inputs[0], chain.add("Tanh", chain.add("Softplus", node.inputs[0])))


def swish(node: Node, scope: Scope) -> list[Node]:
    """24: x sigmoid(alpha x)."""
    chain, x = _Chain(node, scope), node.inputs[0]
    alpha = float(node.attrs.get("alpha", 1.0))
    return chain.finish("Mul", x, chain.add("Sigmoid", x if alpha == 1 else chain.add("Mul", x, chain.number(alpha))))


def cast_like(node: Node, scope: Scope) -> list[Node]:
    """15: to the type of another tensor."""
    kind = scope.kind(node.inputs[1])
    if kind is None:
        raise NotExactError("the type it casts to is not known")
    return _Chain(node, scope).finish("Cast", node.inputs[0], to=kind)


def gelu(node: Node, scope: Scope) -> list[Node]:
    """20: x / 2 (1 + erf(x / sqrt(2))), or with the hyperbolic tangent that is near it."""
    chain, x = _Chain(node, scope), node.inputs[0]
    if node.attrs.get("approximate", "none") == "tanh":
        cube = chain.add("Mul", chain.add("Pow", x, chain.number(3)), chain.number(0.044715))
        inner = chain.add("Mul", chain.add("Add", x, cube), chain.number(math.sqrt(2 / math.pi)))
        grown = chain.add("Tanh", inner)
    else:
        grown = chain.add("Erf", chain.add("Div", x, chain.number(math.sqrt(2))))
    both = chain.add("Mul", x, chain.add("Add", grown, chain.number(1)))
    return chain.finish("Mul", both, chain.number(0.5))


def layer_normalisation(node: Node, scope: Scope) -> list[Node]:
    """17: over the last axes, in single precision whatever the type of the input."""
    chain, axes = _Chain(node, scope), _last_axes(node, scope)
    kind = _stash(chain)
    means, inverses = (tensor if tensor.name else None for tensor in (*node.outputs[1:3], Tensor(), Tensor())[:2])
    x = chain.cast(node.inputs[0], chain.kind, kind)
    apart = chain.add("Sub", x, chain.mean(x, axes, means))
    variance = chain.mean(chain.add("Pow", apart, chain.number(2, kind)), axes)
    epsilon = chain.number(float(node.attrs.get("epsilon", 1e-5)), kind)
    deviation = chain.add("Sqrt", chain.add("Add", variance, epsilon))
    if inverses is not None:
        chain.add("Reciprocal", deviation, out=inverses)
    return _scaled(chain, chain.cast(chain.add("Div", apart, deviation), kind, chain.kind), given(node, 2))


def rms_normalisation(node: Node, scope: Scope) -> list[Node]:
    """23: as a layer normalisation, without its mean."""
    chain, axes = _Chain(node, scope), _last_axes(node, scope)
    kind = _stash(chain)
    x = chain.cast(node.inputs[0], chain.kind, kind)
    square = chain.mean(chain.add("Pow", x, chain.number(2, kind)), axes)
    epsilon = chain.number(float(node.attrs.get("epsilon", 1e-5)), kind)
    ratio = chain.add("Div", x, chain.add("Sqrt", chain.add("Add", square, epsilon)))
    return _scaled(chain, chain.cast(ratio, kind, chain.kind), None)


def group_normalisation(node: Node, scope: Scope) -> list[Node]:
    """21: instances of a picture whose channels are the groups; the operator of opset 18 was withdrawn."""
    chain, dims = _Chain(node, scope), scope.shape(node.inputs[0])
    groups = int(node.attrs["num_groups"])
    kind = _stash(chain)
    channels = None if dims is None else dims[1]
    if dims is None or not isinstance(channels, int):
        raise NotExactError("the shape of its input is not known")
    x, name = chain.cast(node.inputs[0], chain.kind, kind), chain.name
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    ones = scope.constant(f"{name}.ones", np.ones(groups, dtype))
    zeros = scope.constant(f"{name}.zeros", np.zeros(groups, dtype))
    rows = chain.add("Reshape", x, scope.constant(f"{name}.groups", [0, groups, -1]))
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    made = chain.add("InstanceNormalization", rows, ones, zeros, epsilon=epsilon)
    target = [0, channels, *(dim if isinstance(dim, int) else -1 for dim in dims[2:])]
    back = scope.constant(f"{name}.shape", target) if target.count(-1) < 2 else chain.add("Shape", x)
    made = chain.cast(chain.add("Reshape", made, back), kind, chain.kind)
    vectors = []
    for role, vector in zip(("scale", "bias"), node.inputs[1:3], strict=True):
        if not isinstance(vector, Constant):
            raise NotExactError(f"its {role} is computed")
        values = vector.values.reshape(channels, *(1,) * (len(dims) - 2))
        vectors.append(scope.constant(f"{name}.{role}", values))
    return chain.finish("Add", chain.add("Mul", made, vectors[0]), vectors[1])


def _stash(chain: _Chain) -> int:
    """The type to calculate in: the one that is said, or single precision, and never less than the input's."""
    double = chain.kind == TensorProto.DOUBLE
    return chain.kind if double else int(chain.node.attrs.get("stash_type", TensorProto.FLOAT))


def _last_axes(node: Node, scope: Scope) -> list[int]:
    axis = int(node.attrs.get("axis", -1))
    return list(range(axis, 0)) if axis < 0 else list(range(axis, scope.rank(node.inputs[0])))


def _scaled(chain: _Chain, x: Tensor, bias: Tensor | None) -> list[Node]:
    if bias is None:
        return chain.finish("Mul", x, chain.node.inputs[1])
    return chain.finish("Add", chain.add("Mul", x, chain.node.inputs[1]), bias)


COMPOSED: Mapping[str, Callable[[Node, Scope], list[Node]]] = {
    "CastLike": cast_like,
    "Gelu": gelu,
    "GroupNormalization": group_normalisation,
    "HardSwish": hard_swish,
    "LayerNormalization": layer_normalisation,
    "Mish": mish,
    "RMSNormalization": rms_normalisation,
    "Swish": swish,
}
