"""Stages of a network as TensorRT plans, by the fakes, against the same stages in ONNX Runtime."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
from exiting import PLAIN, stages
from fake_cuda import FakeCuda
from planned import compiled, images

from expertc.backends.cpu import open_session
from expertc.backends.staged import StagedSession
from expertc.backends.tensorrt.session import open_plan
from expertc.exits import THRESHOLD


def test_a_stage_that_reads_several_tensors_as_a_plan(cuda: FakeCuda, trt: Any) -> None:
    """Batches of any size, in portions, filled up to the least that a plan takes."""
    graphs = stages("batch")
    made = [compiled(trt, graph) for graph in graphs]
    with (
        closing(open_plan(made[0])) as one, closing(open_plan(made[1], stage=True)) as two,
        closing(open_plan(made[2], stage=True)) as three,
    ):  # fmt: skip
        assert (three.input, three.carried, two.carried) == ("features1", ("features2",), ())
        plan = StagedSession([open_session(graphs[0]), two, three], PLAIN, ())
        host = StagedSession([open_session(graph, stage=True) for graph in graphs], PLAIN, ())
        for count in (1, 4, 3, 9, 9, 2):
            for exit_, limits in ((2, (0.0, 9.0)), (3, (0.0, 0.0))):
                x = images(count)
                found, wanted = (each.run(x, {THRESHOLD: limits}) for each in (plan, host))
                assert found["exit"].tolist() == [exit_] * count
                assert {name: values.dtype for name, values in found.items()} == {
                    name: values.dtype for name, values in wanted.items()
                }
                for name, values in wanted.items():
                    np.testing.assert_array_equal(found[name], values)
        assert one.carried == ()
