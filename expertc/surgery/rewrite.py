"""The forward sweep: write the expert. Nodes nobody needs are gone, weights are sliced, shapes follow.

Canonical form, so that cutting twice is cutting once, as bytes: nodes keep their order, initializers their names; one
that is needed in two different cuts becomes ``NAME@cut-HASH`` of its content; a selection inserted between nodes is
named after its tensor, and on the next cut dissolves into a smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph import Model, constant_copy, fresh_name, refreshed
from .demand import Demand, covers
from .site import Answer, Draft, Site
from .sweep import Flow, rule_at

CUT_MARK = "@cut-"
Array = np.ndarray[Any, Any]


def rewrite(model: Model, flow: Flow, outputs: Mapping[str, Demand], names: Sequence[str] | None = None) -> Model:
    """Write the part of ``model`` that ``flow`` needs.

    ``outputs`` says what each graph output shall hold, in order; ``names`` renames them (default: unchanged).
    """
    return _Writer(model, flow).write(outputs, list(outputs) if names is None else list(names))


class _Writer:
    def __init__(self, model: Model, flow: Flow) -> None:
        self.model, self.flow = model, flow
        self.nodes: list[gs.Node] = []
        self.node_metadata: dict[int, Mapping[str, str]] = {}
        self.tensors: dict[str, gs.Tensor] = {}  # old name -> new tensor, holding flow.kept
        self.selections: dict[tuple[str, int, bytes], gs.Variable] = {}
        self.constants: dict[tuple[str, tuple[tuple[int, bytes], ...]], gs.Constant] = {}
        self.taken = {t.name for node in model.nodes for t in (*node.inputs, *node.outputs)}
        self.inputs = [gs.Variable(t.name, t.dtype, t.shape) for t in model.graph.inputs]
        self.tensors.update((tensor.name, tensor) for tensor in self.inputs)

    def write(self, outputs: Mapping[str, Demand], names: list[str]) -> Model:
        for at, answer in enumerate(self.flow.answers):
            if answer is not None:
                self._write_node(at, answer)
        results = [self._output(old, want, new) for (old, want), new in zip(outputs.items(), names, strict=True)]
        self._name_constants()
        source = self.model.graph
        graph = gs.Graph(
            self.nodes, self.inputs, results, name=source.name, opset=source.opset, import_domains=source.import_domains
        )
        return refreshed(replace(self.model, graph=graph, node_metadata=self.node_metadata))

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _write_node(self, at: int, answer: Answer) -> None:
        node = self.model.nodes[at]
        site = Site(self.model, at, node)
        inputs = [
            gs.Variable.empty() if ask is None or not tensor.name else self._obtain(tensor.name, ask)
            for tensor, ask in zip(node.inputs, answer.asks, strict=True)
        ]
        names = [tensor.name if kept is not None else "" for tensor, kept in zip(node.outputs, answer.kept, strict=True)]
        draft = Draft(str(node.op), dict(node.attrs), inputs, names)
        if not answer.stopped:
            rule_at(site, self.flow.through).write(site, answer, draft)
        while draft.outputs and not draft.outputs[-1]:
            draft.outputs.pop()
        if draft.alias is not None:
            self.tensors[next(name for name in draft.outputs if name)] = draft.inputs[draft.alias]
            return
        for position, values in sorted(draft.constants.items()):
            given = node.inputs[position].name if position < len(node.inputs) else ""
            base = given if given in self.model.constants else f"{draft.outputs[0]}.{position}"
            while len(draft.inputs) <= position:
                draft.inputs.append(gs.Variable.empty())
            draft.inputs[position] = self._constant(base, values)
        made = [gs.Variable(name) for name in draft.outputs]
        self.tensors.update((tensor.name, tensor) for tensor in made if tensor.name)
        if at in self.model.node_metadata:
            self.node_metadata[len(self.nodes)] = self.model.node_metadata[at]
        self.nodes.append(gs.Node(draft.op, node.name, draft.attrs, draft.inputs, made, domain=node.domain))

    def _obtain(self, name: str, want: Demand) -> gs.Tensor:
        """The tensor ``name`` holding exactly ``want``: an initializer is sliced, anything else selected from."""
        constant = self.model.constants.get(name)
        if constant is not None:
            if not want.marks:
                return self.constants.setdefault((name, ()), constant_copy(constant))
            cut = tuple((axis, mark.tobytes()) for axis, mark in sorted(want.marks.items()))
            if (name, cut) not in self.constants:
                values = np.asarray(constant.values)
                for axis in want.marks:
                    values = np.take(values, want.indices(axis), axis=axis)
                self.constants[name, cut] = gs.Constant(name, np.ascontiguousarray(values))
            return self.constants[name, cut]
        have = self.flow.kept(self.model, name)
        if not covers(have, want):
            raise AssertionError(f"'{name}' keeps less than a consumer needs: a transfer rule is wrong")
        tensor = self.tensors[name]
        for axis in sorted(want.marks):
            whole = have.indices(axis)
            chosen = want.indices(axis)
            positions = chosen if whole is None else np.searchsorted(whole, chosen)
            size = len(want.marks[axis]) if whole is None else len(whole)
            if len(positions) != size:
                tensor = self._select(tensor, axis, positions, name)
        return tensor

    def _select(self, tensor: gs.Tensor, axis: int, positions: Array, name: str) -> gs.Variable:
        """Take ``positions`` of an axis: a Slice if they are contiguous, else a Gather; shared between consumers."""
        key = (tensor.name, axis, positions.tobytes())
        if key not in self.selections:
            made = gs.Variable(fresh_name(f"{name}@{axis}", self.taken))
            first, last = int(positions[0]), int(positions[-1])
            if last - first + 1 == len(positions):
                bounds = {"starts": [first], "ends": [last + 1], "axes": [axis]}
                if self.model.opset < 10:
                    node = gs.Node("Slice", made.name, dict(bounds), [tensor], [made])
                else:
                    inputs = [gs.Constant(f"{made.name}.{k}", np.array(v, dtype=np.int64)) for k, v in bounds.items()]
                    node = gs.Node("Slice", made.name, {}, [tensor, *inputs], [made])
            else:
                index = gs.Constant(f"{made.name}.indices", positions.astype(np.int64))
                node = gs.Node("Gather", made.name, {"axis": axis}, [tensor, index], [made])
            self.nodes.append(node)
            self.selections[key] = made
        return self.selections[key]

    # -- outputs -----------------------------------------------------------------------------------------------------

    def _output(self, old: str, want: Demand, new: str) -> gs.Tensor:
        """The graph output ``new``, holding ``want`` of the tensor ``old``."""
        tensor = self._obtain(old, want)
        declared = next((t for t in self.model.graph.outputs if t.name == new), None)
        other = self.tensors.get(new)
        if other is not None and other is not tensor and other.name == new:
            other.name = fresh_name(f"{new}@whole", self.taken)  # used inside, and more of it than the output shows
        if tensor.name != new:
            inner = tensor.inputs and tensor.name not in {t.name for t in self.inputs} and not tensor.outputs
            if inner:
                tensor.name = new
            else:
                result = gs.Variable(new)
                self.nodes.append(gs.Node("Identity", new, {}, [tensor], [result]))
                tensor = result
        shape = self.model.shapes.get(old)
        if shape is not None and isinstance(tensor, gs.Variable):
            tensor.shape = [want.size(axis, dim) for axis, dim in enumerate(shape)]
        if declared is not None and isinstance(tensor, gs.Variable):
            tensor.dtype = declared.dtype if old == new else np.float32
        return tensor

    # -- initializers ------------------------------------------------------------------------------------------------

    def _constant(self, base: str, values: Array) -> gs.Constant:
        key = (base, ((-1, values.tobytes()),))
        return self.constants.setdefault(key, gs.Constant(base, values))

    def _name_constants(self) -> None:
        """Give every initializer its own name back, and a marked one where several cuts of it are needed."""
        groups: dict[str, list[gs.Constant]] = {}
        for (name, _), constant in self.constants.items():
            groups.setdefault(name.partition(CUT_MARK)[0], []).append(constant)
        for base, members in groups.items():
            for constant in members:
                constant.name = base if len(members) == 1 else f"{base}{CUT_MARK}{_digest(np.asarray(constant.values))}"


def _digest(values: Array) -> str:
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:12]
