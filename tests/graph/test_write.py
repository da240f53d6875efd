"""Round trips: what is read is written again, everything but prose."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import Net, card, feeds, operators, run, weights
from onnx import TensorProto, helper, numpy_helper

from expertc.graph import captured, fresh_name, read_model, refreshed, to_bytes, with_batch, with_input
from expertc.surgery.prune import prune


def small(opset: int = 20, **options: int) -> Net:
    net = Net(opset, **options)
    hidden = net.node("Relu", net.norm(net.conv(net.image(), 3, 4, kernel=3), 4))
    net.result(net.head(hidden, 4, 5, name="scores"), 5)
    return net


@pytest.mark.parametrize("opset", [9, 13, 17, 20])
def test_a_round_trip_changes_no_number_and_no_name(opset: int) -> None:
    net = small(opset)
    full = net.model()
    data = full.SerializeToString()
    written = onnx.load_from_string(to_bytes(read_model(data)))
    onnx.checker.check_model(written, full_check=True)
    inputs = feeds(data)
    assert np.array_equal(run(written, inputs)["scores"], run(full, inputs)["scores"])
    assert [(n.op_type, n.name, list(n.input), list(n.output)) for n in written.graph.node] == [
        (n.op_type, n.name, list(n.input), list(n.output)) for n in full.graph.node
    ]
    assert [sorted(a.SerializeToString() for a in n.attribute) for n in written.graph.node] == [
        sorted(a.SerializeToString() for a in n.attribute) for n in full.graph.node
    ]
    assert {name: values.tobytes() for name, values in weights(written).items()} == {
        name: values.tobytes() for name, values in weights(full).items()
    }
    assert [v.SerializeToString() for v in (*written.graph.input, *written.graph.output)] == [
        v.SerializeToString() for v in (*full.graph.input, *full.graph.output)
    ]
    assert (written.ir_version, written.opset_import[0].version) == (full.ir_version, opset)


def test_reading_what_was_written_gives_the_same_bytes() -> None:
    once = to_bytes(read_model(small().bytes()))
    assert to_bytes(read_model(once)) == once


def test_metadata_of_model_and_nodes_and_the_producer_survive() -> None:
    proto = small().model()
    helper.set_model_props(proto, {"b": "2", "a": "with \n and ü"})
    proto.producer_name, proto.producer_version = "pytorch", "2.13"
    for number, node in enumerate(proto.graph.node):
        for key in ("z", "y"):
            entry = node.metadata_props.add()
            entry.key, entry.value = key, str(number)
    written = onnx.load_from_string(to_bytes(read_model(proto.SerializeToString())))
    assert {prop.key: prop.value for prop in written.metadata_props} == {"a": "with \n and ü", "b": "2"}
    assert (written.producer_name, written.producer_version) == ("pytorch", "2.13")
    assert [{e.key: e.value for e in node.metadata_props} for node in written.graph.node] == [
        {"z": str(number), "y": str(number)} for number in range(len(proto.graph.node))
    ]


def test_metadata_stays_with_its_node_where_constants_are_lifted() -> None:
    net = Net()
    scale = net.node("Constant", value_float=2.0)
    net.result(net.head(net.node("Mul", net.image(), scale), 3, 4, name="scores"), 4)
    proto = net.model()
    for node in proto.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = "op", node.op_type
    written = onnx.load_from_string(to_bytes(read_model(proto.SerializeToString())))
    assert [node.metadata_props[0].value for node in written.graph.node] == operators(written)


def test_paths_and_stack_traces_of_the_exporter_are_not_carried_on() -> None:
    net = Net()
    filled = net.node("ConstantOfShape", net.constant([4]), value=numpy_helper.from_array(np.ones(1, np.float32)))
    net.result(net.node("Add", net.head(net.image(), 3, 4), filled, out="scores"), 4)
    proto = net.model()
    proto.doc_string = proto.graph.doc_string = "made in /home/somebody"
    attributes = [attribute for node in proto.graph.node for attribute in node.attribute]
    inside = [attribute.t for attribute in attributes if attribute.HasField("t")]
    assert inside
    for part in (*proto.graph.node, *proto.graph.initializer, *attributes, *inside):
        part.doc_string = "File /home/somebody/train.py, line 3"
    assert b"/home/somebody" not in to_bytes(read_model(proto.SerializeToString()))


def test_attributes_of_every_kind_survive() -> None:
    net = Net()
    net.domains["acme"] = 1
    tensor = numpy_helper.from_array(np.arange(3, dtype=np.int64), "t")
    graph = helper.make_graph(
        [helper.make_node("Neg", ["image"], ["n"])],
        "g",
        [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, None)],
    )
    values = {
        "i": 3,
        "f": 0.1,
        "s": "text ü",
        "ints": [1, -2],
        "floats": [0.5, 1e-30],
        "strings": ["a", ""],
        "t": tensor,
        "g": graph,
    }
    net.node("Everything", net.image(), out="odd", domain="acme", **values)
    net.result(net.head("odd", 3, 4, name="scores"), 4)
    proto = net.model()
    written = onnx.load_from_string(to_bytes(read_model(proto.SerializeToString())))
    before, after = (
        {a.name: helper.get_attribute_value(a) for a in p.graph.node[0].attribute} for p in (proto, written)
    )
    assert before.keys() == after.keys()
    for name in before.keys() - {"t", "g"}:
        assert before[name] == after[name], name
    assert np.array_equal(numpy_helper.to_array(after["t"]), [0, 1, 2])
    assert [node.op_type for node in after["g"].node] == ["Neg"]
    assert [a.type for a in written.graph.node[0].attribute] == [a.type for a in proto.graph.node[0].attribute]


def test_weights_in_any_field_of_the_protobuf() -> None:
    """numpy writes raw bytes; hand-made models use float_data and its like."""
    proto = small().model()
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values.reshape(-1).tolist()))
    data = proto.SerializeToString()
    done = prune(read_model(data), card(5), [1, 3])
    inputs = feeds(data)
    assert np.array_equal(run(to_bytes(done.model), inputs)["scores"], run(data, inputs)["scores"][:, [1, 3]])


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "UINT8", "BOOL", "STRING", "COMPLEX64"])
def test_tensors_of_any_type_pass_untouched(kind: str) -> None:
    """An output that is an initializer of a type that is not computed with here."""
    net = small()
    proto = net.model()
    number = getattr(TensorProto, kind)
    values = [b"a", b"b"] if kind == "STRING" else [1j, 2] if kind == "COMPLEX64" else [1, 0]
    proto.graph.initializer.append(helper.make_tensor("odd", number, [2], values))
    proto.graph.output.append(helper.make_tensor_value_info("odd", number, [2]))
    done = prune(read_model(proto.SerializeToString()), card(5), [1, 3])
    written = onnx.load_from_string(to_bytes(done.model))
    kept = next(tensor for tensor in written.graph.initializer if tensor.name == "odd")
    assert kept.data_type == number
    source = next(tensor for tensor in proto.graph.initializer if tensor.name == "odd")
    assert np.array_equal(numpy_helper.to_array(kept), numpy_helper.to_array(source))


def test_refreshed_shapes_are_those_of_the_written_graph() -> None:
    model = read_model(small().bytes())
    assert refreshed(model).shapes == model.shapes
    assert refreshed(model).types == model.types


def test_a_symbolic_batch_can_be_fixed() -> None:
    net = small()
    net.metadata["kept"] = "yes"
    model = with_batch(read_model(net.bytes()), 1)
    assert model.inputs == {"image": (1, 3, 4, 4)}
    assert model.outputs == {"scores": (1, 5)}
    assert model.metadata == {"kept": "yes"}
    inputs = feeds(net.bytes(), batch=1)
    assert np.array_equal(run(to_bytes(model), inputs)["scores"], run(net.bytes(), inputs)["scores"])
    fixed = read_model(small(batch=3).bytes())
    assert with_batch(fixed, 1) is fixed


def test_inputs_outputs_producers_and_consumers() -> None:
    net = Net()
    a = net.node("Tanh", net.image(), out="a")
    b = net.node("Add", a, a, out="b")
    net.result(net.head(net.node("Add", a, b), 3, 4, name="scores"), 4)
    model = read_model(net.bytes())
    assert model.inputs == {"image": ("batch", 3, 4, 4)}
    assert (model.producers["a"], model.producers["b"]) == (0, 1)
    assert "image" not in model.producers
    assert model.consumers["a"] == [1, 2]
    assert set(model.constants) == {"scores.w", "scores.b"}
    assert model.value("a") is None


def test_names_that_are_taken_get_a_number() -> None:
    taken = {"a", "a.1"}
    assert [fresh_name("a", taken), fresh_name("a", taken), fresh_name("b", taken)] == ["a.2", "a.3", "b"]


def test_what_subgraphs_read_from_outside() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["inner", "far"], ["deep"])], "inner", [],
        [helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)],
    )  # fmt: skip
    branch = helper.make_graph(
        [
            helper.make_node("Neg", ["near"], ["inner"]),
            helper.make_node("If", ["flag"], ["out"], then_branch=inner, else_branch=inner),
        ],
        "branch", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    net = Net()
    near, far = net.node("Tanh", net.image(), out="near"), net.node("Neg", "image", out="far")
    net.constant(np.array(True), "flag")
    net.node("Add", near, far)
    net.result(net.node("If", "flag", then_branch=branch, else_branch=branch, out="scores"), 3, 4, 4)
    model = read_model(net.bytes())
    assert set(captured(model.nodes[-1])) == {"near", "far", "flag"}
    assert captured(model.nodes[0]) == []


def test_a_copied_constant_is_another_object_with_the_same_values() -> None:
    model = read_model(small().bytes())
    constant = model.constants["scores.w"]
    copy = constant.copy()
    assert copy is not constant
    assert np.array_equal(copy.values, constant.values)


def test_an_input_of_a_given_shape() -> None:
    """A symbol is the same number everywhere, a length without a name only where it stands."""
    net = Net()
    hidden = net.conv(net.image(3, "side", None), 3, 4)
    net.result(net.node("Relu", hidden, out="y"), 4, "side", None)
    net.inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", "side", None]))
    net.result(net.node("Neg", "other"), "side", None, name="z")
    model = read_model(net.model().SerializeToString())
    fixed = with_input(model, "image", (2, 3, 8, 5))
    assert fixed.inputs == {"image": (2, 3, 8, 5), "other": (2, 8, None)}
    assert fixed.outputs["y"] == (2, 4, 8, 5)
    assert with_input(fixed, "image", (2, 3, 8, 5)) is fixed
    values = {"image": np.ones((2, 3, 8, 5), np.float32), "other": np.ones((2, 8, 7), np.float32)}
    assert np.array_equal(run(to_bytes(fixed), values)["y"], run(net.model(), values)["y"])
