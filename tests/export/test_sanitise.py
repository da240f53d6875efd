from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from expertc.errors import ModelError
from expertc.graph.sanitise import face, require_symbolic_batch, sanitise


def tensor(name: str, values: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=dtype), name)


def dirty() -> onnx.ModelProto:
    """``y = reshape(conv(x)) + (a if any else b)`` with everything an exporter leaves behind."""
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["flat", constant], [f"{name}_out"], name=f"/home/me/{name}.py")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
            doc_string="File /home/me/branch.py",
        )
        for name, constant in (("then", "one"), ("otherwise", "another_one"))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "exporter_zeros"], ["c0"], name="c0", doc_string="File /home/me/net.py"),
        helper.make_node("Conv", ["c0", "w", "own_zeros"], ["c1"], name="c1"),
        helper.make_node("Reshape", ["c1", "shape_1"], ["r"], name="r"),
        helper.make_node("Reshape", ["r", "shape_2"], ["flat"], name="flat"),
        helper.make_node("If", ["condition"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    initializers = [
        tensor("w", np.eye(2).reshape(2, 2, 1, 1)),
        tensor("exporter_zeros", [0, 0]),
        tensor("own_zeros", [0, 0]),
        tensor("shape_1", [-1, 8], np.int64),
        tensor("shape_2", [-1, 8], np.int64),
        tensor("one", 1),
        tensor("another_one", 1),
        tensor("condition", True, np.bool_),
        tensor("unread", [1, 2, 3]),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        initializers,
        doc_string="graph of /home/me",
        value_info=[
            helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 8]),
            helper.make_tensor_value_info("gone", TensorProto.FLOAT, ["n", 8]),
        ],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)], producer_name="torch")
    model.doc_string = "/home/me"
    model.metadata_props.add(key="secret", value="/home/me")
    graph_of = model.graph
    graph_of.metadata_props.add(key="signature", value="/home/me")
    for holder in (*graph_of.node, *graph_of.input, *graph_of.value_info, *graph_of.initializer):
        holder.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/net.py")
        holder.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'branch']")
    branches_of = [attribute.g for attribute in graph_of.node[-1].attribute]
    for branch in branches_of:
        branch.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/net.py")
        branch.node[0].name = ""
    return model


@pytest.fixture
def clean() -> onnx.ModelProto:
    model = dirty()
    sanitise(model, parameters=["w", "own_zeros"], metadata={"b": "2", "a": "1"})
    return model


def test_it_computes_the_same_bits(clean: onnx.ModelProto) -> None:
    onnx.checker.check_model(clean, full_check=True)
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 2)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for model in (dirty(), clean)
    )
    np.testing.assert_array_equal(before[0], after[0])


def test_metadata_is_an_allow_list(clean: onnx.ModelProto) -> None:
    assert b"/home/me" in dirty().SerializeToString()
    assert b"/home/me" not in clean.SerializeToString()
    assert [(entry.key, entry.value) for entry in clean.metadata_props] == [("a", "1"), ("b", "2")]
    for node in clean.graph.node:
        assert [entry.key for entry in node.metadata_props] == ["pkg.torch.onnx.name_scopes"]
    assert not clean.graph.input[0].metadata_props
    assert not clean.graph.value_info[0].metadata_props
    assert clean.producer_name == "torch"


def test_the_exporters_zeros_go_and_the_networks_stay(clean: onnx.ModelProto) -> None:
    assert [list(node.input) for node in clean.graph.node[:2]] == [["x", "w"], ["c0", "w", "own_zeros"]]


def test_equal_constants_become_one_also_inside_subgraphs(clean: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in clean.graph.initializer]
    assert names == ["w", "own_zeros", "shape_1", "one", "condition"]
    inner = [attribute.g.node[0].input[1] for attribute in clean.graph.node[-1].attribute]
    assert inner == ["one", "one"]


def test_equal_weights_stay_two() -> None:
    model = dirty()
    model.graph.initializer.append(tensor("derived", np.eye(2).reshape(2, 2, 1, 1)))  # folded by the exporter
    model.graph.node[1].input[1] = "derived"
    sanitise(model, parameters=["w"], metadata={})
    assert [node.input[1] for node in model.graph.node[:2]] == ["w", "derived"]


def test_value_info_of_tensors_that_are_gone_goes(clean: onnx.ModelProto) -> None:
    assert [value.name for value in clean.graph.value_info] == ["r"]


def test_cleaning_twice_changes_nothing(clean: onnx.ModelProto) -> None:
    before = clean.SerializeToString(deterministic=True)
    sanitise(clean, parameters=["w", "own_zeros"], metadata={"a": "1", "b": "2"})
    assert clean.SerializeToString(deterministic=True) == before


def model_with(inputs: list[object], outputs: list[object]) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", inputs), ("y", outputs))
    ]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(graph)


def test_the_face_of_a_graph() -> None:
    assert face(model_with(["n", 3, None], ["n", 0])) == ({"x": ("n", 3, None)}, {"y": ("n", 0)})
    assert require_symbolic_batch(model_with(["n", 3], ["n", 3])) == "n"


@pytest.mark.parametrize(
    ("inputs", "outputs", "named"),
    [([2, 3], ["n", 3], "'x'"), (["n", 3], [2, 3], "'y'"), ([None, 3], ["n", 3], "'x'"), ([], ["n"], "'x'"),
     (["n", 3], ["m", 3], "m, n")],
)  # fmt: skip
def test_a_frozen_batch_is_noticed(inputs: list[object], outputs: list[object], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        require_symbolic_batch(model_with(inputs, outputs))
