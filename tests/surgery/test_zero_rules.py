"""A dense head made of blocks: the rows of one block need its columns only, and the other branches fall away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from laws import ROUNDING
from networks import Array, Net, card, cut, feeds, operators, rows, run, weights

from expertc.graph import read_model
from expertc.surgery.owners import ownership
from expertc.surgery.rules.zeros import columns_of

SIZES = ((4, 2), (3, 3), (5, 2))  # features and classes of the branches
FEATURES, CLASSES = sum(k for k, _ in SIZES), sum(c for _, c in SIZES)


def block_diagonal(net: Net) -> Array:
    """``[CLASSES, FEATURES]``, zero outside the blocks."""
    made = np.zeros((CLASSES, FEATURES), np.float32)
    row = column = 0
    for features, classes in SIZES:
        values = net.random.random((classes, features)) + 0.5
        made[row : row + classes, column : column + features] = values
        row, column = row + classes, column + features
    return made


def fused(op: str = "Gemm", *, transposed: bool = True, weight: Array | None = None) -> Net:
    """Three branches of one convolution each, joined, then one dense head for all."""
    net = Net()
    x = net.image()
    branches = [net.node("Tanh", net.conv(x, 3, k, name=f"branch{i}")) for i, (k, _) in enumerate(SIZES)]
    joined = net.node("Flatten", net.node("GlobalAveragePool", net.node("Concat", *branches, axis=1)))
    values = block_diagonal(net) if weight is None else weight
    stored = net.constant(values if transposed else np.ascontiguousarray(values.T), "head")
    if op == "Gemm":
        scores = net.node("Gemm", joined, stored, net.weight(CLASSES, name="bias"), transB=int(transposed))
    else:
        scores = net.node("MatMul", joined, stored)
    net.result(scores, CLASSES, name="scores")
    return net


def check_zeros(net: Net, keep: Sequence[int], *by_way_of: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The law of exactness (within rounding: the sums are shorter) and of composition; returns the weights' shapes.

    What is removed may be any number, but not NaN: it is multiplied with zero in the full model.
    """
    data, labels = net.bytes(), card(CLASSES)
    expert, done = cut(data, labels, keep)
    inputs = feeds(data)
    full, got = run(data, inputs)["scores"], run(expert, inputs)["scores"]
    np.testing.assert_allclose(got, rows(full, keep), rtol=0, atol=ROUNDING * np.abs(full).max())
    held = weights(expert)
    for name, values in net.initializers.items():
        if name not in held and values.dtype.kind == "f":
            net.initializers[name] = values * np.float32(-3)
    changed = run(net.bytes(), inputs)["scores"]
    np.testing.assert_allclose(rows(changed, keep), got, rtol=0, atol=ROUNDING * np.abs(full).max())
    assert done.stopped == ()
    for larger in (keep, *by_way_of, range(CLASSES)):
        step, between = cut(data, labels, larger)
        assert cut(step, between.card, [list(larger).index(i) for i in keep])[0] == expert
    return {name: values.shape for name, values in held.items()}


@pytest.mark.parametrize(("op", "transposed"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_only_the_columns_of_the_block_stay(op: str, transposed: bool) -> None:
    shapes = check_zeros(fused(op, transposed=transposed), [2, 3], [1, 2, 3], [2, 3, 4])
    assert shapes["head"] == ((2, 3) if transposed else (3, 2))
    assert {name for name in shapes if name.startswith("branch")} == {"branch1.w", "branch1.b"}


def test_two_blocks() -> None:
    shapes = check_zeros(fused(), [1, 5], [0, 1, 5, 6], [1, 3, 5])
    assert shapes["head"] == (2, 9)
    assert "branch1.w" not in shapes
    data, _ = cut(fused().bytes(), card(CLASSES), [1, 5])
    assert "Gather" not in operators(data)
    assert "Slice" not in operators(data)


def test_a_weight_on_the_left() -> None:
    net = Net(batch=1)
    x = net.image()
    branches = [net.node("Tanh", net.conv(x, 3, k, name=f"branch{i}")) for i, (k, _) in enumerate(SIZES)]
    joined = net.node("GlobalAveragePool", net.node("Concat", *branches, axis=1))
    column = net.node("Reshape", joined, net.constant([FEATURES, 1]))
    product = net.node("MatMul", net.constant(block_diagonal(net), "head"), column)
    net.result(net.node("Reshape", product, net.constant([1, CLASSES])), CLASSES, name="scores")
    shapes = check_zeros(net, [5, 6])
    assert (shapes["head"], shapes["branch2.w"]) == ((2, 5), (5, 3, 1, 1))
    assert "branch0.w" not in shapes


def test_zeros_here_and_there() -> None:
    """A pruned weight: of each row some columns are zero; one that is zero in every wanted row goes."""
    values = np.ones((CLASSES, FEATURES), np.float32)
    values[[0, 2], 1] = values[2, 6] = 0
    values[0, 7] = -0.0
    shapes = check_zeros(fused(weight=values), [0, 2], [0, 2, 4])
    assert (shapes["head"], shapes["branch0.w"], shapes["branch1.w"]) == ((2, 11), (3, 3, 1, 1), (3, 3, 1, 1))
    assert check_zeros(fused(weight=values), [0])["head"] == (1, 10)
    assert check_zeros(fused(weight=values), [4, 5])["head"] == (2, 12)


def test_a_row_of_zeros_keeps_every_column() -> None:
    """It gives the bias, whatever it reads; but a product over nothing cannot be written."""
    values = block_diagonal(Net())
    values[2] = 0
    assert check_zeros(fused(weight=values), [2], [2, 3], [0, 2])["head"] == (1, 12)
    assert check_zeros(fused(weight=values), [2, 3], [1, 2, 3])["head"] == (2, 12)
    assert check_zeros(fused(weight=values), [3], [2, 3], [3, 4])["head"] == (1, 3)


def test_a_weight_that_is_wanted_whole_is_not_looked_at() -> None:
    """The trunk's weights: none of their values is read for this, and a dead column of them stays."""
    values = block_diagonal(Net())
    values[:, 3] = 0
    assert check_zeros(fused(weight=values), list(range(CLASSES)))["head"] == (7, 12)


def test_the_branches_are_found_by_their_zeros() -> None:
    """One sweep for all classes finds what a cut per class finds."""
    found = ownership(read_model(fused().bytes()), card(CLASSES))
    shared = {branch.indices: branch for branch in found.branches if len(branch.indices) > 1}
    assert set(shared) == {(0, 1), (2, 3, 4), (5, 6)}
    assert [shared[key].cost.parameters for key in sorted(shared)] == [k * (3 + 1) for k, _ in SIZES]


def test_rows_that_nobody_wants_are_not_read() -> None:
    weight = np.array([[1, 0, 0, 2], [9, 9, 9, 9], [0, 0, 3, 0]])
    found = columns_of(weight, np.array([True, False, True]))
    assert found is not None
    np.testing.assert_array_equal(found, [True, False, True, True])
    found = columns_of(weight, np.array([1, 0, 6], dtype=object))
    assert found is not None
    assert found.tolist() == [1, 0, 6, 1]
    assert columns_of(weight, np.array([1, 2, 4], dtype=object)).tolist() == [3, 2, 6, 3]  # type: ignore[union-attr]
    assert columns_of(weight, np.array([False, True, False])) is None


def test_neither_nan_nor_infinity_is_taken_for_zero() -> None:
    weight = np.array([[np.nan, np.inf, 0.0, -0.0]], np.float32)
    np.testing.assert_array_equal(columns_of(weight, np.array([True])), [True, True, False, False])
