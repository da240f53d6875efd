"""fold: batch norms into the convolutions before them, constant expressions, and what changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from ..graph import Constant, Graph, Model, Node, Tensor, Variable, captured, fresh_name, refreshed, volume

Array = np.ndarray[Any, Any]

# Cheap rearrangements and arithmetic that exporters leave behind on constants.
_FOLDABLE = frozenset(
    "Add Cast Concat ConstantOfShape Div Expand Gather Identity Mul Neg Pow Range Reciprocal Reshape Shape Slice Sqrt "
    "Split Squeeze Sub Tile Transpose Unsqueeze".split()
)
_SMALL = 2**16  # elements; folding must not blow a larger constant up


@dataclass(frozen=True)
class Fold:
    """The fold pass; results agree with the unfolded graph within rounding."""

    name: str = "fold"
    requires: str = "inference mode, shapes inferred"
    ensures: str = "no batch norm behind a convolution of its own, no identity, no node with constant inputs only"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Fold until nothing changes (once, in practice: nodes are visited in order)."""
        folder = _Folder(model)
        folded = folder.run()
        return (refreshed(folded), True) if folder.changes else (model, False)


class _Folder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.changes = 0
        self.inputs = [Variable(t.name, t.kind, t.shape) for t in model.graph.inputs]
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in self.inputs}
        self.nodes: list[Node] = []
        self.outputs = {t.name for t in model.graph.outputs}
        self.pinned = {name for node in model.nodes for name in captured(node)}  # read by name from a subgraph
        self.taken = {t.name for node in model.nodes for t in (*node.inputs, *node.outputs)}
        self.merged = dict(self._batch_norms())  # position of a Conv -> position of its batch norm
        self.absorbed = set(self.merged.values())

    def run(self) -> Model:
        for at, node in enumerate(self.model.nodes):
            if at in self.absorbed or self._vanishes(node) or self._folds(node):
                self.changes += 1
            elif at in self.merged:
                self._write_merged(at)
            else:
                self._copy(at, node.inputs)
        graph, source = self.model.graph, [self._tensor(t) for t in self.model.graph.outputs]
        for tensor, old in zip(source, graph.outputs, strict=True):
            if isinstance(tensor, Variable) and isinstance(old, Variable):
                tensor.kind, tensor.shape = old.kind, old.shape
        written = Graph(self.nodes, self.inputs, source, graph.name, graph.opsets)
        return replace(self.model, graph=written)

    # -- what folds --------------------------------------------------------------------------------------------------

    def _batch_norms(self) -> list[tuple[int, int]]:
        found = []
        for at, node in enumerate(self.model.nodes):
            before = self.model.producers.get(node.inputs[0].name) if node.inputs else None
            if node.op != "BatchNormalization" or before is None or node.attrs.get("training_mode", 0):
                continue
            conv = self.model.nodes[before]
            own = len(self.model.consumers[conv.outputs[0].name]) == 1 and conv.outputs[0].name not in self.outputs
            vectors = [*node.inputs[1:5], *conv.inputs[1:]]
            constant = all(isinstance(t, Constant) or not t.name for t in vectors)
            if conv.op == "Conv" and own and constant and conv.outputs[0].name not in self.pinned:
                found.append((before, at))
        return found

    def _vanishes(self, node: Node) -> bool:
        """Identity, inference-time Dropout, a Cast to the type that is already there, and a product with ones."""
        if not node.inputs or node.outputs[0].name in self.outputs | self.pinned:
            return False
        same = node.op == "Cast" and self.model.types.get(node.inputs[0].name) == _onnx_type(node.attrs.get("to"))
        plain = node.op == "Identity" or (node.op == "Dropout" and len([t for t in node.outputs if t.name]) == 1)
        position = 0 if same or plain else self._factor_of_ones(node)
        if position is not None:
            self.tensors[node.outputs[0].name] = self._tensor(node.inputs[position])
        return position is not None

    def _factor_of_ones(self, node: Node) -> int | None:
        """Which input a Mul gives back because the other is ones (a gain that was embedded), if that is so."""
        shapes = self.model.shapes
        if node.op != "Mul" or node.domain not in (None, "", "ai.onnx"):
            return None
        for position, tensor in enumerate(node.inputs):
            ones, shape = self._tensor(node.inputs[1 - position]), shapes.get(tensor.name)
            whole = shape is not None and None not in shape and shape == shapes.get(node.outputs[0].name)
            if isinstance(ones, Constant) and whole and bool((ones.values == 1).all()):
                return position
        return None

    def _folds(self, node: Node) -> bool:
        """Evaluate a node whose inputs are all constant, with ONNX's own reference evaluator."""
        if node.op not in _FOLDABLE or node.domain not in (None, "", "ai.onnx"):
            return False
        names = [tensor.name for tensor in node.outputs]
        shapes = [self.model.shapes.get(name) for name in names]
        inputs = [self._tensor(tensor) for tensor in node.inputs if tensor.name]
        constants = [tensor for tensor in inputs if isinstance(tensor, Constant)]
        largest = max([_SMALL, *(volume(tensor.shape) for tensor in constants)])
        known = all(s is not None and all(isinstance(dim, int) for dim in s) and volume(s) <= largest for s in shapes)
        if len(constants) < len(inputs) or not known or not self.outputs.isdisjoint(names) or self.pinned & set(names):
            return False
        values = _evaluate(node, [constant.values for constant in constants], self.model.opset)
        self.tensors |= {name: Constant(name, value) for name, value in zip(names, values, strict=True)}
        return True

    def _write_merged(self, at: int) -> None:
        """Conv with the batch norm behind it: w' = w s and b' = (b - mean) s + beta, with s = gamma / sqrt(var + eps).

        Computed in double precision; the convolution's rounding is the only one that is added.
        """
        conv, norm = self.model.nodes[at], self.model.nodes[self.merged[at]]
        gamma, beta, mean, variance = (_values(t).astype(np.float64) for t in norm.inputs[1:5])
        weight = _values(conv.inputs[1])
        bias = _values(conv.inputs[2]).astype(np.float64) if len(conv.inputs) > 2 and conv.inputs[2].name else 0.0
        scale = gamma / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
        folded = np.empty_like(weight)
        rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
        # In double precision piece by piece: a copy of all weights in it would take their memory twice again.
        np.multiply(weight, rows, out=folded, dtype=np.float64, casting="same_kind")
        name = norm.outputs[0].name
        made = {"weight": folded, "bias": ((bias - mean) * scale + beta).astype(weight.dtype)}
        constants = [Constant(fresh_name(f"{name}.{role}", self.taken), values) for role, values in made.items()]
        self.tensors.update((constant.name, constant) for constant in constants)
        self._copy(at, [conv.inputs[0], *constants], outputs=[name])

    # -- writing -----------------------------------------------------------------------------------------------------

    def _copy(self, at: int, inputs: Sequence[Tensor], outputs: list[str] | None = None) -> None:
        node = self.model.nodes[at]
        made = [Variable(name) for name in (outputs or [tensor.name for tensor in node.outputs])]
        self.tensors.update((tensor.name, tensor) for tensor in made if tensor.name)
        read = [self._tensor(tensor) for tensor in inputs]
        self.nodes.append(Node(node.op, node.name, node.attrs, read, made, node.domain, like=node))

    def _tensor(self, tensor: Tensor) -> Tensor:
        if not tensor.name:
            return Tensor()
        if tensor.name not in self.tensors and isinstance(tensor, Constant):
            self.tensors[tensor.name] = tensor.copy()
        return self.tensors[tensor.name]


def _values(tensor: Tensor) -> Array:
    if not isinstance(tensor, Constant):
        raise TypeError(f"'{tensor.name}' is no initializer")
    return tensor.values


def _onnx_type(value: Any) -> int | None:
    return int(value) if isinstance(value, int) else None


def _evaluate(node: Node, values: list[Array], opset: int) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    names = [tensor.name for tensor in node.inputs if tensor.name]
    proto = node.write()
    results = [f"result {position}" for position in range(len(node.outputs))]
    proto.output[:] = results
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
         for n, v in zip(names, values, strict=True)],
        [onnx.ValueInfoProto(name=result) for result in results],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(zip(names, values, strict=True)))]
