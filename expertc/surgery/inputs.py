"""What is left of the graph inputs: a control per class shrinks to the kept classes, everything else stays as it is.

The expert's input holds the values of its own classes, no more and no fewer, whoever reads them. Usually nothing else
is needed. Where more is (an operator that nobody can look into reads all of it, or groups had to be closed), what
belongs to the classes that are gone is a constant of the expert: the card's defaults. The expert then says what the
full model says with these; a cut of such an expert is right, but not the same bytes as a single cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..card import Card
from ..errors import UnsupportedError
from ..graph import Model, captured
from ..text import shown
from .demand import Demand, demand, full, join
from .site import Flow

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Held:
    """What the expert holds of a graph input that is cut on axis 0.

    Args:
        fed: the rows that it is fed.
        have: the rows that its nodes can read; those of ``fed`` are among them.
        defaults: every row of the full model's input, ``[classes, 1...]``, for those that are not fed.
    """

    fed: Demand
    have: Demand
    defaults: Array

    @property
    def missing(self) -> tuple[Array, Array] | None:
        """Rows that are not fed, and where each row of ``have`` is among the fed ones and these, one after the other.

        None if there are none.
        """
        size = len(self.defaults)
        fed, have = (np.flatnonzero(item.axis(0, size)) for item in (self.fed, self.have))
        gone = np.setdiff1d(have, fed)
        if not len(gone):
            return None
        order = np.concatenate([fed, gone])
        return self.defaults[gone], np.argsort(order, kind="stable").astype(np.int64)


def held_inputs(model: Model, card: Card, flow: Flow, indices: Sequence[int]) -> Mapping[str, Held]:
    """What an expert for ``indices`` holds of the controls that the card calls per class; the others stay whole.

    Raises ``UnsupportedError`` if such a control is read by its name from inside an operator.
    """
    found = {}
    size = len(card.classes)
    for control in card.controls:
        if not control.per_class:
            continue
        own = full(False, size)
        own[np.asarray(indices, dtype=np.int64)] = True
        fed = demand(True, {0: own}) or Demand(True)
        have = join((fed, flow.demands.get(control.name))) or fed
        defaults = default_values(model, control.name, control.default)
        found[control.name] = Held(fed, have, defaults)
        _refuse_captured(model, flow, control.name, whole=not fed.marks)
    return found


def default_values(model: Model, name: str, values: Sequence[float]) -> Array:
    """``values`` in the shape and element type of the graph input ``name``."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.types[name])
    shape = [len(values) if axis == 0 else dim for axis, dim in enumerate(model.inputs[name])]
    return np.array(values, dtype=dtype).reshape([dim if isinstance(dim, int) else 1 for dim in shape])


def _refuse_captured(model: Model, flow: Flow, name: str, *, whole: bool) -> None:
    """What a subgraph that is not looked into reads, it reads as a whole, by its name."""
    for node, answer in zip(model.nodes, flow.answers, strict=True):
        if answer is not None and not answer.inner and not whole and name in captured(node):
            raise UnsupportedError(
                f"The control {shown(name)} is read inside a {shown(node.op)}, so it cannot be cut.",
                "Read it outside, and hand it in.",
            )
