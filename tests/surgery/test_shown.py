"""What an output shows when others go: names, and softmaxes that were never over all classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from laws import check
from networks import Net, card, cut

from expertc.card import Card, Output
from expertc.graph import read_model
from expertc.surgery.outputs import class_softmax


def side_by_side(op: str, *, twice: bool) -> tuple[bytes, Card]:
    """Three classes behind an operator that mixes them, and two plain ones; ``twice``: two outputs read them."""
    net = Net()
    first, second = net.head(net.image(), 3, 3, name="a"), net.head("image", 3, 2, name="b")
    inputs = [net.constant(np.array(1))] if op == "CumSum" else []
    mixed = net.node(op, first, *inputs, **({} if inputs else {"axis": 1}))
    outputs = [Output("scores", "joint")]
    if twice:
        together = net.node("Concat", mixed, second, axis=1)
        net.result(net.node("Mul", together, net.weight(5), out="other"), 5)
        outputs.append(Output("other"))
    net.result(net.node("Concat", mixed, second, axis=1, out="scores"), 5)
    return net.bytes(), card(5, *outputs)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("op", ["CumSum", "Softmax"])
def test_the_same_bytes_whether_an_output_once_showed_a_tensor_whole_or_not(op: str, twice: bool) -> None:
    """The cut to the first three shows the mixing operator's own output; all ways to all selections."""
    data, whole = side_by_side(op, twice=twice)
    subsets = [chosen for size in range(1, 6) for chosen in itertools.combinations(range(5), size)]
    direct = {chosen: cut(data, whole, chosen) for chosen in subsets}
    for larger in ((0, 1, 2), (1, 2, 3), (0, 3, 4), (0, 1, 2, 3, 4)):
        step, done = direct[larger]
        for chosen in subsets:
            if set(chosen) <= set(larger):
                assert cut(step, done.card, [larger.index(c) for c in chosen])[0] == direct[chosen][0]


def test_a_softmax_over_some_classes_does_not_become_the_class_softmax() -> None:
    """Its probabilities are those of the full model, in a further cut as well: they are not conditioned."""
    data, whole = side_by_side("Softmax", twice=False)
    expert = check(data, whole, [0, 1, 2])
    assert (expert.operators[-1], expert.cut.renormalised) == ("Concat", False)
    assert class_softmax(read_model(expert.data), "scores", 1) is None
    assert check(expert.data, expert.cut.card, [1]).operators[-2:] == ["Softmax", "Slice"]
