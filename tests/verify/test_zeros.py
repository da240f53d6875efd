"""A dense head made of blocks: an expert may leave out columns that are zero in all of its rows, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from branched import Case, case
from networks import Net, card
from onnx import load_from_string, numpy_helper


def fused(op: str) -> Case:
    """Two branches of four features and two classes each under one head; cut to the second."""
    net = Net()
    x = net.image(3, 8, 8)
    branches = [net.node("Tanh", net.conv(x, 3, 4, name=f"branch{i}")) for i in range(2)]
    joined = net.node("Flatten", net.node("GlobalAveragePool", net.node("Concat", *branches, axis=1)))
    head = np.zeros((4, 8), np.float32)
    head[:2, :4], head[2:, 4:] = net.random.random((2, 2, 4)) + 0.5
    if op == "Gemm":
        scores = net.node("Gemm", joined, net.constant(head, "head"), transB=1)
    else:
        scores = net.node("MatMul", joined, net.constant(np.ascontiguousarray(head.T), "head"))
    net.result(scores, 4, name="scores")
    return case(net.bytes(), card(4), (2, 3))


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_zeros_may_go(op: str, level: str) -> None:
    given = fused(op)
    assert "branch0.w" not in {tensor.name for tensor in load_from_string(given.cut).graph.initializer}
    assert given.climb(level).verdict == "verified"


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_a_column_that_is_not_zero_may_not(op: str, level: str) -> None:
    given = fused(op)
    proto = load_from_string(given.full)
    head = next(tensor for tensor in proto.graph.initializer if tensor.name == "head")
    values = numpy_helper.to_array(head).copy()
    values[(2, 0) if op == "Gemm" else (0, 2)] = 0.25
    head.CopyFrom(numpy_helper.from_array(values, "head"))
    failed = replace(given, full=proto.SerializeToString()).climb(level)
    assert failed.verdict == "failed"
    assert failed.steps[-1].name == "raw scores"
