"""A whole build, as a person calls it, from models that only hurt when they run, or that no runtime takes.

Verification runs them first, in a process with limits; what comes of it is an error with its exit code, and nothing is
left at the output.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping

import numpy as np
import pytest
from hostile import Make, added
from onnx import TensorProto, helper, numpy_helper
from test_graph_attacks import CASES

MOST = 2**19
TYPED = {3, 4}  # an operator that this runtime does not know is no fault of the file


def wide(*, known: bool) -> Make:
    """The image is spread to three terabytes and taken together again; how wide, the weights say or the image does."""

    def make():
        sizes = np.array([1, 3, MOST, MOST])
        nodes = [] if known else [
            helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
            helper.make_node("Sub", ["top", "top"], ["none"]),
            helper.make_node("Cast", ["none"], ["zero"], to=TensorProto.INT64),
            helper.make_node("Add", ["zero", "far"], ["sizes"]),
        ]  # fmt: skip
        small = helper.make_node("ReduceMax", ["x", "space"], ["least"], keepdims=1)
        spread = helper.make_node("Expand", ["least", "far" if known else "sizes"], ["large"])
        proto = added(*nodes, small, spread, helper.make_node("Relu", ["large"], ["y"]))
        for name, values in (("far", sizes), ("space", np.array([2, 3]))):
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
        return proto

    return make


MODELS: Mapping[str, tuple[Make, set[int]]] = {
    "terabytes": (wide(known=True), {3}),
    "terabytes, if the image says so": (wide(known=False), {3}),
    **{name: (CASES[name][0], TYPED) for name in ("a custom domain", "two nodes of one name", "opset 99", "IR 99")},
}


@pytest.mark.parametrize("name", MODELS)
def test_it_ends_in_an_error_and_leaves_nothing(name: str, cli, tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(MODELS[name][0]().SerializeToString())
    output = tmp_path / "out.expert"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, out, err = cli("build", tmp_path / "model.onnx", "--classes", "#1,#3", "-o", output, "--measure", "0")
    assert out == ""
    assert "Traceback" not in err
    assert code in MODELS[name][1], err
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kilobytes
