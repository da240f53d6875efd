"""The rule of early exits, ``exit_rule.decide``, as nodes of a graph: how sure an exit is, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ..card import Card
from ..exits import THRESHOLD, TOLERANCE, Exits
from ..graph import Constant, Model, Node, Tensor, Variable, fresh_name

Array = np.ndarray[Any, Any]

_FLOAT, _INT64 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64)
_AXES_AS_INPUT = 18  # opset from which on a reduction reads its axes
_NOTHING = -3e4  # e to the power of it is 0, and half precision has it


@dataclass
class Part:
    """Nodes and their initializers, to be put into some graph."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    fine: Tensor = field(default_factory=Variable)  # bool [], whether the answer is fine
    answers: Tensor | None = None  # bool [], whether there is one; None where there always is


class Rule:
    """Writes the decisions of a model's exits; names are new in the model."""

    def __init__(self, model: Model, card: Card, exits: Exits) -> None:
        self.model, self.card, self.exits = model, card, exits
        self.taken = {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}
        self.taken |= model.inputs.keys()
        self.semantic: Tensor | None = None
        self.size: Tensor | None = None

    def name(self, base: str) -> str:
        """A name that nothing in the model has."""
        return fresh_name(base, self.taken)

    def decided(self, at: int) -> Part:
        """Whether the exit at a position answers, and how finely; at the first also what all of them need."""
        part, one, last = Part(), self.exits.exits[at], at == len(self.exits.exits) - 1
        if at == 0:
            self._begin(part)
        fine, coarse = ((one.fine, len(self.card.classes)), (one.coarse, len(self.exits.categories)))
        if self.semantic is not None:
            part.fine = self.semantic
            if not last:
                both = [self._entropy(part, name, width, at) for name, width in (fine, coarse) if name is not None]
                chosen = self._node(part, "Where", f"@entropy{at + 1}", [part.fine, *both])
                part.answers = self._node(part, "Less", f"@sure{at + 1}", [chosen, self._setting(part, THRESHOLD, at)])
            return part
        if one.fine is None or one.coarse is None:
            part.fine = self._constant(part, f"@fine{at + 1}", np.array(one.fine is not None))
            if not last:
                name, width = fine if one.fine is not None else coarse
                read = [self._entropy(part, str(name), width, at), self._setting(part, THRESHOLD, at)]
                part.answers = self._node(part, "Less", f"@sure{at + 1}", read)
            return part
        own, other = self._entropy(part, one.fine, fine[1], at), self._entropy(part, one.coarse, coarse[1], at)
        favoured = self._node(part, "Sub", f"@favoured{at + 1}", [own, self._setting(part, TOLERANCE, 0)])
        finer = self._node(part, "Less", f"@finer{at + 1}", [favoured, other])
        if at == len(self.exits.thresholds):  # a last one without
            part.fine = finer
            return part
        limit = self._setting(part, THRESHOLD, at)
        sure = self._node(part, "Less", f"@sure{at + 1}", [own, limit])
        part.fine = self._node(part, "And", f"@fine{at + 1}", [sure, finer])
        if last:
            return part
        coarsely = self._node(part, "Less", f"@coarsely{at + 1}", [other, limit])
        if self.exits.strict_coarse:
            clearly = self._node(part, "Less", f"@clearly{at + 1}", [other, favoured])
            coarsely = self._node(part, "And", f"@strictly{at + 1}", [coarsely, clearly])
        part.answers = self._node(part, "Or", f"@answers{at + 1}", [part.fine, coarsely])
        return part

    def answer(self, at: int, fine: Tensor, names: Sequence[str]) -> Part:
        """What the exit answers, as tensors called ``names``: scores, coarse if there are categories, and so on."""
        part, one = Part(fine=fine), self.exits.exits[at]
        scores, *coarse, granularity, number = names
        if one.fine is not None:
            self._node(part, "Identity", scores, [Variable(one.fine)], known=True)
        else:
            self._spread(part, str(one.coarse), scores)
        for name in coarse:
            if one.coarse is not None:
                self._node(part, "Identity", name, [Variable(one.coarse)], known=True)
            else:
                self._gathered(part, str(one.fine), name)
        whole = self._node(part, "Cast", f"{granularity}.one", [fine], to=_INT64)
        assert self.size is not None
        self._node(part, "Expand", granularity, [whole, self.size], known=True)
        this = self._constant(part, f"{number}.one", np.array(at + 1, np.int64))
        self._node(part, "Expand", number, [this, self.size], known=True)
        return part

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _begin(self, part: Part) -> None:
        """How many images there are, and what a semantic branch says."""
        batch = self.model.inputs[self.card.input][0]
        if isinstance(batch, int):
            self.size = self._constant(part, "@batch", np.array([batch], np.int64))
        else:
            shape = self._node(part, "Shape", "@shape", [Variable(self.card.input)])
            first = self._constant(part, "@batch.axis", np.array([0], np.int64))
            self.size = self._node(part, "Gather", "@batch", [shape, first], axis=0)
        if self.exits.semantic is not None:
            vote = self._node(part, "ArgMax", "@vote", [Variable(self.exits.semantic)], axis=1, keepdims=0)
            share = self._node(
                part, "ReduceMean", "@share", [self._node(part, "Cast", "@votes", [vote], to=_FLOAT)], keepdims=0
            )
            half = self._constant(part, "@half", np.array(0.5, np.float32))
            self.semantic = self._node(part, "Not", "@fine", [self._node(part, "Less", "@minority", [share, half])])

    def _entropy(self, part: Part, logits: str, width: int, at: int) -> Tensor:
        """The mean over the batch of the entropy of a softmax, in nats; float32."""
        read: Tensor = Variable(logits)
        base = f"@{logits}.{at + 1}"
        if self.model.types.get(logits, _FLOAT) != _FLOAT:
            read = self._node(part, "Cast", f"{base}.single", [read], to=_FLOAT)
        logs = self._node(part, "LogSoftmax", f"{base}.log", [read], axis=1)
        each = self._node(part, "Mul", f"{base}.each", [self._node(part, "Exp", f"{base}.p", [logs]), logs])
        mean = self._node(part, "ReduceMean", f"{base}.mean", [each], keepdims=0)  # over images and labels
        labels = self._constant(part, f"{base}.labels", np.array(-width, np.float32))
        return self._node(part, "Mul", f"{base}.entropy", [mean, labels])

    def _setting(self, part: Part, name: str, at: int) -> Tensor:
        """A threshold or the tolerance, []."""
        if self.exits.frozen:
            return self._constant(part, f"@{name}{at + 1}", np.array(self.exits.settings[name][at], np.float32))
        place = self._constant(part, f"@{name}{at + 1}.at", np.array(at, np.int64))
        return self._node(part, "Gather", f"@{name}{at + 1}", [Variable(name), place], axis=0)

    def _spread(self, part: Part, coarse: str, name: str) -> None:
        """Scores of the classes where only the categories are known: each has the same share of its category."""
        of = np.array(self.exits.of, np.int64)
        logs = self._node(part, "LogSoftmax", f"{name}.log", [Variable(coarse)], axis=1)
        index = self._constant(part, f"{name}.of", of)
        category = self._node(part, "Gather", f"{name}.category", [logs, index], axis=1)
        shares = np.log(np.bincount(of)[of]).astype(self._dtype(coarse))
        self._node(part, "Sub", name, [category, self._constant(part, f"{name}.shares", shares)], known=True)

    def _gathered(self, part: Part, fine: str, name: str) -> None:
        """Log-probabilities of the categories where only the classes are known."""
        of = np.array(self.exits.of, np.int64)
        members = [np.flatnonzero(of == column) for column in range(len(self.exits.categories))]
        most = max(map(len, members))
        index = np.array([[*own, *([0] * (most - len(own)))] for own in members], np.int64)
        mask = np.array([[0.0] * len(own) + [_NOTHING] * (most - len(own)) for own in members])
        logs = self._node(part, "LogSoftmax", f"{name}.log", [Variable(fine)], axis=1)
        read = self._node(part, "Gather", f"{name}.own", [logs, self._constant(part, f"{name}.members", index)], axis=1)
        masked = self._node(
            part, "Add", f"{name}.masked", [read, self._constant(part, f"{name}.mask", mask.astype(self._dtype(fine)))]
        )
        if self.model.opset >= _AXES_AS_INPUT:
            axes = [masked, self._constant(part, f"{name}.axes", np.array([2], np.int64))]
            self._node(part, "ReduceLogSumExp", name, axes, known=True, keepdims=0)
        else:
            self._node(part, "ReduceLogSumExp", name, [masked], known=True, keepdims=0, axes=[2])

    def _dtype(self, name: str) -> np.dtype[Any]:
        found: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(self.model.types.get(name, _FLOAT))
        return found

    def _node(
        self, part: Part, op: str, base: str, inputs: Sequence[Tensor], *, known: bool = False, **attrs: Any
    ) -> Tensor:
        """Add a node of one output called ``base``, or where that is not ``known`` to be free, something like it."""
        made = Variable(base if known else self.name(base))
        part.nodes.append(Node(op, made.name, attrs, inputs, [made]))
        return made

    def _constant(self, part: Part, base: str, values: Array) -> Constant:
        made = Constant(self.name(base), values)
        part.constants[made.name] = made
        return made
