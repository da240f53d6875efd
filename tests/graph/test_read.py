"""Reading: what is refused, in words, and what is understood although it is written strangely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import Net, feeds, run
from onnx import TensorProto, helper, numpy_helper

from expertc.errors import ExitCode, ModelError
from expertc.graph import read_model, to_bytes


def linear(**options: Any) -> Net:
    net = Net(**options)
    net.result(net.head(net.image(), 3, 4, name="scores"), 4)
    return net


def refused(source: str | Path | bytes, *words: str) -> ModelError:
    """The error that reading raises: one sentence what is wrong, one what to do, without control characters."""
    with pytest.raises(ModelError) as caught:
        read_model(source)
    error = caught.value
    assert error.exit_code == ExitCode.INVALID
    for text in (error.message, error.hint):
        assert text.endswith(".")
        assert not text.endswith("..")
        assert text.isprintable()
        assert len(text) < 500
    assert all(word in error.message for word in words), error.message
    return error


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path / "missing.onnx", "missing.onnx", "cannot be read")
    refused(tmp_path, "folder")
    refused(str(tmp_path / "a\0b"))
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "empty")
    refused("/dev/null")


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    for content in (
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"hello, world",
        b"PK\x03\x04" + bytes(60),
        bytes(1000),
        b"\x08\x0a",
    ):
        other.write_bytes(content)
        refused(other, "other.onnx")
        refused(content)
    refused(b"")


def test_a_name_from_a_stranger_reaches_no_terminal(tmp_path: Path) -> None:
    bad = tmp_path / "\x1b[31mred\u202egnp.onnx"
    bad.write_bytes(b"nothing")
    refused(bad, "red")
    refused(tmp_path / "\x1b]0;title\x07")


def test_a_model_that_is_one_is_read_from_path_string_and_bytes(tmp_path: Path) -> None:
    data = linear().bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert to_bytes(read_model(path)) == to_bytes(read_model(str(path))) == to_bytes(read_model(data))


@pytest.mark.parametrize("step", [7])
def test_a_truncated_file_is_refused_or_still_a_model(step: int) -> None:
    data = linear().bytes()
    read = 0
    for end in range(1, len(data), step):
        try:
            read_model(data[:end])
            read += 1
        except ModelError:
            pass
    assert read < 3  # cut off within the trailing fields, which are optional


# -- the graph ---------------------------------------------------------------------------------------------------------


def changed(change: Callable[[onnx.ModelProto], Any], **options: Any) -> bytes:
    proto = linear(**options).model()
    change(proto)
    return bytes(proto.SerializeToString())


def test_no_graph_no_nodes_no_outputs() -> None:
    refused(changed(lambda p: p.ClearField("graph")), "no graph")
    refused(changed(lambda p: p.graph.ClearField("node")), "no graph")
    refused(changed(lambda p: p.graph.ClearField("output")), "no outputs")


def test_no_opset_or_one_that_is_not_known() -> None:
    refused(changed(lambda p: p.ClearField("opset_import")), "operator set")
    for version in (0, -1, 999, 2**62):
        refused(changed(lambda p, v=version: setattr(p.opset_import[0], "version", v)), "opset")


def test_nodes_out_of_order_and_cycles_and_gaps() -> None:
    def swap(proto: onnx.ModelProto) -> None:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(proto.graph.node)]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)

    refused(changed(swap), "reads", "before")
    refused(changed(lambda p: p.graph.node[0].input.__setitem__(0, p.graph.node[1].output[0])), "before")
    refused(changed(lambda p: p.graph.node[0].input.__setitem__(0, "nowhere")), "nowhere")
    refused(changed(lambda p: setattr(p.graph.output[0], "name", "nowhere")), "nowhere", "no node makes")
    refused(changed(lambda p: setattr(p.graph.output[0], "name", "")))


def test_a_tensor_that_is_made_twice() -> None:
    refused(changed(lambda p: p.graph.node[1].output.__setitem__(0, p.graph.node[0].output[0])), "twice")
    refused(changed(lambda p: p.graph.node[0].output.__setitem__(0, "image")), "twice")
    refused(changed(lambda p: p.graph.node[0].output.__setitem__(0, "scores.w")), "twice")
    refused(changed(lambda p: p.graph.initializer.append(p.graph.initializer[0])))
    refused(changed(lambda p: p.graph.input.append(p.graph.input[0])))


def test_two_outputs_of_one_name() -> None:
    refused(changed(lambda p: p.graph.output.append(p.graph.output[0])))


def test_names_of_tensors_and_nodes_are_cleaned_in_errors() -> None:
    def hostile(proto: onnx.ModelProto) -> None:
        proto.graph.node[0].name = "\x1b[2J[/red]" + "x" * 5000
        proto.graph.node[0].input[0] = "\u202e\x07evil\n"

    refused(changed(hostile), "evil")


def attribute(node: onnx.NodeProto, kind: int, **fields: Any) -> None:
    made = node.attribute.add()
    made.name, made.type = "strange", kind
    for name, value in fields.items():
        field = getattr(made, name)
        field.extend(value) if isinstance(value, list) else field.CopyFrom(value)


@pytest.mark.parametrize("kind", ["GRAPHS", "TENSORS", "SPARSE_TENSOR", "TYPE_PROTO", "UNDEFINED"])
def test_attribute_kinds_that_would_be_dropped(kind: str) -> None:
    """A pass that does not know them would make another network of it."""
    net = linear()
    net.domains["acme"] = 1
    net.nodes[0].domain, net.nodes[0].op_type = "acme", "Custom"
    proto = net.model(check=False)
    attribute(proto.graph.node[0], getattr(onnx.AttributeProto, kind))
    refused(proto.SerializeToString())


def test_a_list_without_entries_is_an_attribute_too() -> None:
    net = Net(11)
    total = net.node("ReduceSum", net.head(net.image(), 3, 4, name="h"), keepdims=1)
    net.result(net.node("Add", "h", total, out="scores"), 4)
    proto = net.model()
    empty = proto.graph.node[-2].attribute.add()
    empty.name, empty.type = "axes", onnx.AttributeProto.INTS
    data = proto.SerializeToString()
    inputs = feeds(data)
    assert np.array_equal(run(to_bytes(read_model(data)), inputs)["scores"], run(data, inputs)["scores"])


def test_a_constant_of_every_kind_is_lifted() -> None:
    net = Net()
    kinds = {
        "value": numpy_helper.from_array(np.float32([2.0])), "value_float": 3.0, "value_floats": [1.0, 2.0, 3.0, 4.0],
    }  # fmt: skip
    scores = net.head(net.image(), 3, 4, name="h")
    for name, value in kinds.items():
        scores = net.node("Mul", scores, net.node("Constant", **{name: value}))
    axes = net.node("Constant", value_ints=[1])
    index = net.node("Constant", value_int=0)
    first = net.node("Gather", net.node("Unsqueeze", scores, axes), index, axis=1)
    net.result(net.node("Identity", first, out="scores"), 4)
    data = net.bytes()
    model = read_model(data)
    assert "Constant" not in {node.op for node in model.nodes}
    inputs = feeds(data)
    assert np.array_equal(run(to_bytes(model), inputs)["scores"], run(data, inputs)["scores"])


def test_constants_that_are_no_numbers() -> None:
    net = linear()
    net.node("Constant", value_string="text")
    refused(net.bytes(), "constant")


# -- what cannot be cut exactly ----------------------------------------------------------------------------------------


def inside_an_if(net: Net, inner: onnx.NodeProto) -> bytes:
    """The node in the first branch of an If at the end of ``net``."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    other = helper.make_node("Identity", ["image"], ["other"])
    declared = helper.make_tensor_value_info("other", TensorProto.FLOAT, None)
    net.node(
        "If", net.constant(np.array(True)), out="chosen",
        then_branch=helper.make_graph([inner], "then", [], [value]),
        else_branch=helper.make_graph([other], "else", [], [declared]),
    )  # fmt: skip
    return bytes(net.model(check=False).SerializeToString())


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_numbers(op: str) -> None:
    net = Net()
    net.result(net.head(net.node(op, net.image()), 3, 4, name="scores"), 4)
    refused(net.bytes(), "random")
    refused(inside_an_if(linear(), helper.make_node(op, ["image"], ["inner"])), "random")


def test_training_mode() -> None:
    net = Net(14)
    x = net.image()
    vectors = [net.weight(3, positive=True) for _ in range(4)]
    normed, *_ = net.node("BatchNormalization", x, *vectors, out=["n", "mean", "var"], training_mode=1)
    net.result(net.head(normed, 3, 4, name="scores"), 4)
    refused(net.bytes(), "training mode")
    net = Net()
    active = net.node("Dropout", net.image(), net.constant(np.array(0.5, np.float32)), net.constant(np.array(True)))
    net.result(net.head(active, 3, 4, name="scores"), 4)
    refused(net.bytes(), "training mode")
    inner = helper.make_node("Dropout", ["image", "", "on"], ["inner"])
    net = linear()
    net.constant(np.array(True), "on")
    refused(inside_an_if(net, inner), "training mode")


def test_dropout_that_is_switched_off_is_read() -> None:
    for off in (np.array(False), None):
        net = Net()
        switch = [net.constant(np.array(0.5, np.float32))] + ([] if off is None else [net.constant(off)])
        net.result(net.head(net.node("Dropout", net.image(), *switch), 3, 4, name="scores"), 4)
        assert len(read_model(net.bytes()).nodes) == 4


def test_external_data_wherever_it_may_be() -> None:
    def outside(tensor: onnx.TensorProto, location: str = "weights.bin") -> onnx.TensorProto:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        return tensor

    refused(changed(lambda p: outside(p.graph.initializer[0])), "in memory")
    constant = helper.make_node("Constant", [], ["k"], value=outside(numpy_helper.from_array(np.zeros(4, np.float32))))
    refused(changed(lambda p: p.graph.node.insert(0, constant)), "another file")
    refused(
        inside_an_if(linear(), helper.make_node("Constant", [], ["inner"], value=constant.attribute[0].t)),
        "another file",
    )


def test_sparse_weights() -> None:
    values = numpy_helper.from_array(np.float32([1.0]), "sparse")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([0])), [4])
    refused(changed(lambda p: p.graph.sparse_initializer.append(sparse)), "sparse")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "raw_data", t.raw_data[:-1]),
        lambda t: setattr(t, "raw_data", t.raw_data + b"\0"),
        lambda t: setattr(t, "raw_data", b""),
        lambda t: t.dims.__setitem__(0, 5),
        lambda t: t.dims.__setitem__(0, -4),
        lambda t: t.dims.extend([2**40, 2**40]),
        lambda t: setattr(t, "data_type", 0),
        lambda t: setattr(t, "data_type", 99),
        lambda t: setattr(t, "data_type", TensorProto.DOUBLE),
        lambda t: setattr(t, "data_type", TensorProto.STRING),
    ],
)
def test_weights_whose_data_does_not_fit_their_shape(change: Callable[[onnx.TensorProto], Any]) -> None:
    refused(changed(lambda p: change(p.graph.initializer[0])), "weights")


def test_an_input_without_a_shape() -> None:
    refused(changed(lambda p: p.graph.input[0].type.tensor_type.ClearField("shape")), "image")


def test_functions_of_the_model_are_inlined() -> None:
    def call(proto: onnx.ModelProto) -> None:
        body = [helper.make_node("Tanh", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
        proto.functions.append(
            helper.make_function("local", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 20)])
        )
        proto.opset_import.append(helper.make_opsetid("local", 1))
        proto.graph.node.insert(0, helper.make_node("Twice", ["image"], ["turned"], domain="local"))
        proto.graph.node[1].input[0] = "turned"

    data = changed(call)
    model = read_model(data)
    assert [node.op for node in model.nodes][:2] == ["Tanh", "Neg"]
    inputs = feeds(data)
    assert np.array_equal(run(to_bytes(model), inputs)["scores"], run(data, inputs)["scores"])


def test_a_function_that_calls_itself() -> None:
    def call(proto: onnx.ModelProto) -> None:
        body = [helper.make_node("Again", ["a"], ["b"], domain="local")]
        proto.functions.append(
            helper.make_function("local", "Again", ["a"], ["b"], body, [helper.make_opsetid("local", 1)])
        )
        proto.opset_import.append(helper.make_opsetid("local", 1))
        proto.graph.node.insert(0, helper.make_node("Again", ["image"], ["turned"], domain="local"))
        proto.graph.node[1].input[0] = "turned"

    try:
        model = read_model(changed(call))
    except ModelError:
        return
    assert "Again" in {node.op for node in model.nodes}  # left alone, it is an operator nobody knows


# -- what is only written strangely ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["opset", "nodes", "both"])
def test_the_standard_domain_by_its_long_name(where: str) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        if where != "nodes":
            proto.opset_import[0].domain = "ai.onnx"
        if where != "opset":
            for node in proto.graph.node:
                node.domain = "ai.onnx"

    data = changed(rename)
    written = to_bytes(read_model(data))
    proto = onnx.load_from_string(written)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert run(written)["scores"].shape == (2, 4)


def test_an_old_model_lists_its_initializers_as_inputs() -> None:
    def as_inputs(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        proto.ir_version = 3

    data = changed(as_inputs, opset=9)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    model = read_model(data)
    assert list(model.inputs) == ["image"]
    written = to_bytes(model)
    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
    inputs = feeds(data)
    assert np.array_equal(run(written, inputs)["scores"], run(data, inputs)["scores"])


def test_stale_shapes_in_the_file_are_not_believed() -> None:
    """Tools that change a graph leave shapes behind; runtimes infer them anew, and so do we."""
    net = Net()
    logits = net.head(net.image(), 3, 4, name="h")
    net.result(net.node("Mul", logits, net.weight(4, name="k"), out="scores"), 4)
    proto = net.model()
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 1]))
    assert read_model(proto.SerializeToString()).shapes["h"] == ("batch", 4)


def test_an_unknown_operator_of_another_domain_is_no_reason_to_refuse() -> None:
    net = linear()
    net.domains["acme"] = 2
    net.nodes[0].domain = "acme"
    assert read_model(net.model().SerializeToString()).nodes[0].domain == "acme"


def test_an_unknown_operator_of_the_standard_domain_is_refused() -> None:
    refused(changed(lambda p: setattr(p.graph.node[0], "op_type", "Teleport")), "Teleport")


@pytest.mark.parametrize(
    ("attribute_name", "value"), [("transB", "yes"), ("transB", 1.5), ("transB", [1]), ("alpha", 1), ("alpha", "x")]
)
def test_attributes_of_a_wrong_type_are_refused(attribute_name: str, value: Any) -> None:
    def change(proto: onnx.ModelProto) -> None:
        node = proto.graph.node[-1]
        rest = [a for a in node.attribute if a.name != attribute_name]
        del node.attribute[:]
        node.attribute.extend([*rest, helper.make_attribute(attribute_name, value)])

    refused(changed(change))
