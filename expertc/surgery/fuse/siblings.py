"""Siblings: nodes that do the same with other weights, found by structure.

Two nodes are siblings if the same operator with the same attributes reads siblings (or the same tensor), through
weights of the same shapes, and the same is done with what they make. That is decided by colours: a node's colour is
what it is and the colours of what it reads, then also the colours of those that read it, and so on until no colour
divides any more (colour refinement).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from onnx import TensorProto

from ...graph import Constant, Model, Node, Tensor, captured, volume
from .packs import divided

ROUNDS = 8  # of refinement; trees of any depth need one for each level at which they differ
# Of these a single value is a weight too: the bias of a head of one class, the scale of a branch.
_WEIGHTED = ("Conv", "Gemm", "MatMul", "BatchNormalization", "Add", "Div", "Mul", "PRelu", "Sub")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class _Palette:
    """Small numbers for whatever is equal."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def siblings(model: Model) -> list[tuple[int, ...]]:
    """The positions of nodes that are siblings, two or more each; those that are read come before their readers."""
    palette = _Palette()
    own: list[int] = [palette.number(_looks(model, node)) for node in model.nodes]
    colours, count = own, 0
    depths, uses = _depths(model), _uses(model)
    for _ in range(ROUNDS):
        colours = _downwards(model, own, palette)
        own = _upwards(model, colours, uses, palette)
        if len(set(own)) == count:
            break
        count = len(set(own))
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for at, colour in enumerate(own):
        found[depths[at], colour].append(at)
    return [tuple(nodes) for _, nodes in sorted(found.items()) if len(nodes) > 1]


def _looks(model: Model, node: Node) -> Hashable:
    """What a node is by itself: a subgraph, or what one reads, is like nothing else."""
    if node.has_graphs:
        return ("alone", node.outputs[0].name)
    attributes = tuple(sorted((name, _value(value)) for name, value in node.attrs.items()))
    constants = tuple(_constant(tensor, weighted=node.op in _WEIGHTED) for tensor in node.inputs)
    made = tuple((_sizes(model, t.name), model.types.get(t.name)) if t.name else None for t in node.outputs)
    return (node.op, node.domain, attributes, constants, made)


def _sizes(model: Model, name: str) -> Hashable:
    """The shape in numbers; where there is none, siblings have the same, by whatever name inference has given it."""
    shape = model.shapes.get(name)
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


def _value(value: object) -> Hashable:
    if isinstance(value, Constant):
        return (value.kind, value.shape, bytes(value.stored()))
    return (type(value).__name__, tuple(value) if isinstance(value, list) else value)


def _constant(tensor: Tensor, *, weighted: bool) -> Hashable:
    """Of weights, in which branches may differ, the shape; of sizes, axes and scalars the value; None if computed."""
    if not isinstance(tensor, Constant):
        return None
    if tensor.kind in _FLOATS and (weighted or volume(tensor.shape) > 1):
        return (tensor.kind, tensor.shape)
    return (tensor.kind, tensor.shape, bytes(tensor.stored()))


def _downwards(model: Model, own: Sequence[int], palette: _Palette) -> list[int]:
    """The colours together with those of what each node reads."""
    made: dict[str, Hashable] = {name: ("input", name) for name in model.inputs}
    colours = []
    for at, node in enumerate(model.nodes):
        read = tuple(made.get(t.name) if not isinstance(t, Constant) else None for t in node.inputs)
        colours.append(palette.number(("down", own[at], read)))
        equal = divided(model, node) is not None  # parts of one tensor are siblings, whichever they are
        made.update((t.name, (colours[-1], equal or place)) for place, t in enumerate(node.outputs) if t.name)
    return colours


_Use = tuple[int, tuple[int, ...]]  # a node, and which of its inputs a tensor is


def _uses(model: Model) -> list[list[tuple[list[_Use], bool, bool]]]:
    """For each output of each node who reads it, whether it is the graph's, and whether a subgraph reads it."""
    held = {name for node in model.nodes for name in captured(node)}
    outputs = set(model.outputs)
    uses = {name: [(at, _place(model.nodes[at], name)) for at in readers] for name, readers in model.consumers.items()}
    return [[(uses.get(t.name, []), t.name in outputs, t.name in held) for t in node.outputs] for node in model.nodes]


def _upwards(
    model: Model, colours: Sequence[int], uses: Sequence[list[tuple[list[_Use], bool, bool]]], palette: _Palette
) -> list[int]:
    """The colours together with those of what reads each node's outputs, and which of its inputs that is.

    In a concatenation the input does not matter: branches meet there, each at its own.
    """
    found = [0] * len(model.nodes)
    for at in range(len(model.nodes) - 1, -1, -1):
        readers = tuple(
            [(tuple(sorted([(found[node], place) for node, place in read])), *faces) for read, *faces in uses[at]]
        )
        found[at] = palette.number(("up", colours[at], readers))
    return found


def _place(node: Node, name: str) -> tuple[int, ...]:
    return () if node.op == "Concat" else tuple(i for i, tensor in enumerate(node.inputs) if tensor.name == name)


def _depths(model: Model) -> list[int]:
    """How many nodes lie before each, on the longest way."""
    made: dict[str, int] = {}
    depths = []
    for node in model.nodes:
        names = [tensor.name for tensor in node.inputs] + captured(node)
        depth = max((made.get(name, -1) for name in names), default=-1) + 1
        depths.append(depth)
        made.update((tensor.name, depth) for tensor in node.outputs)
    return depths
