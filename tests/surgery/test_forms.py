"""Branched networks in the forms in which people write them: trees, several outputs, shared weights, odd heads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from laws import check, expected
from networks import Net, card, cut, feeds, run, weights

from expertc.card import Output


def tree(net: Net, form: str) -> str:
    """Two levels: three groups of 4, 4 and 2 inner channels, and a head of 2, 3 and 1 classes for each."""
    sizes, classes = (4, 4, 2), (2, 3, 1)
    wide = net.node("Tanh", net.conv(net.image(), 3, sum(sizes), name="stem"))
    edges = np.cumsum((0, *sizes))
    if form == "Split":
        parts = net.node("Split", wide, net.constant(list(sizes)), out=["fish", "whale", "dog"], axis=1)
    elif form == "Slice":
        parts = [
            net.node("Slice", wide, *(net.constant([int(value)]) for value in (a, b, 1))) for a, b in pairwise(edges)
        ]
    elif form == "Gather":
        parts = [net.node("Gather", wide, net.constant(list(range(a, b))), axis=1) for a, b in pairwise(edges)]
    else:  # channels of a group lie apart
        order = np.random.default_rng(1).permutation(10)
        parts = [net.node("Gather", wide, net.constant(order[a:b].tolist()), axis=1) for a, b in pairwise(edges)]
    heads = []
    for k, (part, size, count) in enumerate(zip(parts, sizes, classes, strict=True)):
        own = net.node("Sin", net.conv(part, size, size, name=f"inner{k}"))
        heads.append(net.head(own, size, count, name=f"leaf{k}"))
    return str(net.node("Concat", *heads, axis=1, out="scores"))


@pytest.mark.parametrize("form", ["Split", "Slice", "Gather", "Gather of scattered channels"])
@pytest.mark.parametrize(
    ("keep", "stem", "leaves"), [([0, 1], 4, {0}), ([2, 4], 4, {1}), ([0, 5], 6, {0, 2}), ([3], 4, {1})]
)
def test_a_nested_tree(form: str, keep: list[int], stem: int, leaves: set[int]) -> None:
    net = Net()
    net.result(tree(net, form), 6)
    expert = check(net, card(6), keep, exact=False)
    assert expert.shapes["stem.w"] == (stem, 3, 1, 1)
    assert {int(name[4]) for name in expert.shapes if name.startswith("leaf")} == leaves
    assert expert.stopped == []


def test_a_tree_of_three_levels() -> None:
    """Concat of Concats over Splits of Splits."""
    net = Net()
    stem = net.conv(net.image(), 3, 8, name="stem")
    left, right = net.node("Split", stem, out=["left", "right"], axis=1, num_outputs=2)
    heads = []
    for name, part in (("l", left), ("r", right)):
        inner = net.node("Tanh", net.conv(part, 4, 4, name=f"{name}.inner"))
        halves = net.node("Split", inner, out=[f"{name}0", f"{name}1"], axis=1, num_outputs=2)
        leaves = [net.head(half, 2, 2, name=f"{name}{k}.leaf") for k, half in enumerate(halves)]
        heads.append(net.node("Concat", *leaves, axis=1))
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 8)
    expert = check(net, card(8), [4, 7], exact=False)
    assert expert.shapes["stem.w"] == (4, 3, 1, 1)
    assert not [
        name for name in expert.shapes if name.startswith("l.") or name.startswith("l0") or name.startswith("l1")
    ]
    one = check(net, card(8), [2], exact=False)
    assert (one.shapes["l.inner.w"], one.operators.count("Concat"), one.operators.count("Split")) == (
        (2, 4, 1, 1),
        0,
        0,
    )


def test_branches_that_share_an_initializer() -> None:
    """One weight for three branches, cut differently for each of them."""
    net = Net()
    net.image()
    flat = net.node("Flatten", net.node("GlobalAveragePool", "image"))
    shared, heads = net.weight(3, 4, name="shared"), []
    for k, (first, last) in enumerate(((0, 2), (1, 4), (0, 4))):
        bent = net.node("Mul", flat, net.weight(3, name=f"own{k}"))
        product = net.node("MatMul", bent, shared)
        heads.append(net.node("Slice", product, *(net.constant([v]) for v in (first, last, 1))))
    net.result(net.node("Concat", *heads, axis=1, out="scores"), 9)
    one = check(net, card(9), [2, 3], exact=False)
    assert {name: shape for name, shape in one.shapes.items() if shape[:1] == (3,)} == {"shared": (3, 2), "own1": (3,)}
    two = check(net, card(9), [0, 4], exact=False)
    assert sorted(shape for name, shape in two.shapes.items() if name.startswith("shared")) == [(3, 1), (3, 1)]
    assert sum(name.startswith("own") for name in two.shapes) == 2


def test_a_module_used_by_two_branches() -> None:
    """The same convolution on two inputs: its rows are the union of what both need of it."""
    net = Net()
    w, b = net.weight(4, 3, 1, 1, name="w"), net.weight(4, name="b")
    net.image()
    first = net.node("Conv", "image", w, b, kernel_shape=[1, 1])
    second = net.node("Conv", net.node("Tanh", "image"), w, b, kernel_shape=[1, 1])
    flat = [net.node("Flatten", net.node("GlobalAveragePool", part)) for part in (first, second)]
    net.result(net.node("Concat", *flat, axis=1, out="scores"), 8)
    same = check(net, card(8), [1, 3, 5, 7])
    assert (same.shapes["w"], same.shapes["b"]) == ((2, 3, 1, 1), (2,))


def test_branch_outputs_that_are_also_graph_outputs() -> None:
    """Each branch's own scores are outputs too: they are not class scores of the card, and stay whole."""
    net = Net()
    net.image()
    parts = [net.head("image", 3, 3, name=f"h{k}") for k in range(2)]
    net.result(net.node("Concat", *parts, axis=1, out="scores"), 6)
    net.result(parts[0], 3)
    expert = check(net, card(6), [1, 4], alive=False)
    assert (expert.shapes["h0.w"], expert.shapes["h1.w"]) == ((3, 3), (1, 3))
    inputs = feeds(net.bytes())
    np.testing.assert_array_equal(run(expert.data, inputs)["h0"], run(net.bytes(), inputs)["h0"])


def test_logits_and_probabilities_and_an_exit() -> None:
    """Three score outputs of one card: all are cut, the softmax through; the logits are an output and used inside."""
    net = Net()
    hidden = net.node("Tanh", net.conv(net.image(), 3, 4, name="stem"))
    net.result(net.head(hidden, 4, 6, name="early"), 6)
    deep = net.node("Tanh", net.conv(hidden, 4, 4, name="deep"))
    net.result(net.head(deep, 4, 6, name="logits"), 6)
    net.result(net.node("Softmax", "logits", axis=1, out="probabilities"), 6)
    outputs = (Output("early"), Output("logits"), Output("probabilities", "probabilities"))
    expert = check(net, card(6, *outputs), [1, 2, 5])
    assert {expert.shapes[name] for name in ("early.w", "logits.w")} == {(3, 4)}
    assert expert.cut.renormalised


def test_an_exit_whose_branch_only_some_classes_have() -> None:
    """A joint probability (parent times child) beside the logits of the parents."""
    net = Net()
    net.image()
    parents = net.node("Softmax", net.head("image", 3, 2, name="parents"), axis=1)
    leaves = []
    for k in range(2):
        own = net.node("Softmax", net.head("image", 3, 3, name=f"leaf{k}"), axis=1)
        share = net.node("Slice", parents, *(net.constant([v]) for v in (k, k + 1, 1)))
        leaves.append(net.node("Mul", own, share))
    net.result(net.node("Concat", *leaves, axis=1, out="scores"), 6)
    output = Output("scores", "joint")
    expert = check(net, card(6, output), [3, 5])
    assert {"leaf0.w", "leaf0.b"}.isdisjoint(expert.shapes)
    assert expert.shapes["leaf1.w"] == (3, 3)  # the softmax of the leaves needs its siblings
    assert expected(run(net.bytes())["scores"], output, [3, 5]).shape == run(expert.data)["scores"].shape


@pytest.mark.parametrize("form", ["squeeze", "reshape", "transpose", "matrix on the left", "one by one"])
def test_heads_as_chains(form: str) -> None:
    """A linear head of six classes without a Gemm."""
    net = Net()
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 4, name="c"))
    if form == "one by one":  # a 1x1 convolution, then Squeeze
        flat = net.node("Squeeze", net.conv(pooled, 4, 6, name="k"), net.constant([2, 3]))
    elif form == "squeeze":
        flat = net.node("MatMul", net.node("Squeeze", pooled, net.constant([-1, -2])), net.weight(4, 6, name="k.w"))
    elif form == "reshape":
        tokens = net.node("Reshape", pooled, net.constant([-1, 1, 4]))
        flat = net.node("Reshape", net.node("MatMul", tokens, net.weight(4, 6, name="k.w")), net.constant([-1, 6]))
    elif form == "transpose":
        last = net.node("Transpose", pooled, perm=[0, 2, 3, 1])
        scores = net.node("Transpose", net.node("MatMul", last, net.weight(4, 6, name="k.w")), perm=[0, 3, 1, 2])
        flat = net.node("Flatten", scores)
    else:
        column = net.node("Squeeze", pooled, net.constant([3]))  # [N, 4, 1]
        flat = net.node("Squeeze", net.node("MatMul", net.weight(6, 4, name="k.w"), column), net.constant([2]))
    net.result(net.node("Sin", flat, out="scores"), 6)
    expert = check(net, card(6), [0, 1, 4], exact=False)
    assert 3 in expert.shapes["k.w"][:2]
    assert 6 not in expert.shapes["k.w"]
    assert expert.stopped == []


def test_batched_heads_put_side_by_side() -> None:
    """[k, N, in] x [k, in, out] by one MatMul, then Transpose and Reshape: what a fused bank of branches is."""
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.conv(net.image(), 3, 12, name="c")))
    banks = net.node("Transpose", net.node("Reshape", flat, net.constant([-1, 3, 4])), perm=[1, 0, 2])
    product = net.node("Add", net.node("MatMul", banks, net.weight(3, 4, 2, name="k")), net.weight(3, 1, 2, name="b"))
    net.result(
        net.node("Reshape", net.node("Transpose", product, perm=[1, 0, 2]), net.constant([-1, 6]), out="scores"), 6
    )
    expert = check(net, card(6), [2, 3, 4], exact=False, alive=False)
    assert (expert.shapes["k"], expert.shapes["b"], expert.shapes["c.w"]) == ((2, 4, 2), (2, 1, 2), (8, 3, 1, 1))
    expert = check(net, card(6), [1], exact=False)
    assert (expert.shapes["k"], expert.shapes["c.w"]) == ((1, 4, 1), (4, 3, 1, 1))


def test_a_grouped_convolution_with_a_channel_shuffle() -> None:
    """ShuffleNet's unit between two grouped convolutions."""
    net = Net()
    first = net.conv(net.conv(net.image(), 3, 6, name="stem"), 6, 6, group=3, name="first")
    parts = net.node("Reshape", net.node("Tanh", first), net.constant([-1, 3, 2, 4, 4]))
    shuffled = net.node("Reshape", net.node("Transpose", parts, perm=[0, 2, 1, 3, 4]), net.constant([-1, 6, 4, 4]))
    second = net.node("Sin", net.conv(shuffled, 6, 6, group=3, name="second"))
    net.result(net.node("Flatten", net.node("GlobalAveragePool", second), out="scores"), 6)
    expert = check(net, card(6), [0, 1], exact=False, alive=False)
    assert expert.shapes["second.w"] == (2, 2, 1, 1)
    assert expert.shapes["first.w"][0] == 2  # one channel of each of two groups
    assert expert.stopped == []


def test_names_of_what_is_dropped_are_not_in_the_file() -> None:
    net = Net()
    net.result(tree(net, "Split"), 6)
    data, _ = cut(net.bytes(), card(6), [0, 1])
    for gone in ("leaf1", "leaf2", "inner1", "inner2"):
        assert gone.encode() not in data
    assert not [name for name in weights(data) if "@cut" in name]
