"""The laws for networks that ONNX Runtime has no kernels for: judged by ONNX's own reference evaluator alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from laws import Expert, expected
from networks import Net, cut, feeds, operators, reference, weights

from expertc.card import Card


def check_judged(net: Net, card: Card, keep: Sequence[int], *, rounding: float = 0.0) -> Expert:
    """Cut; the rows are the full model's (to ``rounding`` of the largest), the types too, by way of others as well."""
    data = net.bytes()
    expert, done = cut(data, card, keep)
    inputs = feeds(data)
    before, after = reference(data, inputs), reference(expert, inputs)
    for output in card.outputs:
        wanted, got = expected(before[output.name], output, keep), after[output.name]
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        wanted, got = (np.asarray(values, dtype=np.float64) for values in (wanted, got))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=rounding * np.abs(wanted).max())
    others = [i for i in range(len(card.classes)) if i not in keep]
    step, larger = cut(data, card, sorted((*keep, others[0])))
    again, _ = cut(step, larger.card, [sorted((*keep, others[0])).index(i) for i in keep])
    assert again == expert == cut(expert, done.card, range(len(keep)))[0]
    return Expert(expert, done, {name: values.shape for name, values in weights(expert).items()}, operators(expert))
