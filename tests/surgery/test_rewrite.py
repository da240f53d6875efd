"""What the expert's file looks like: names, metadata, order, and what of the full model must not be in it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from laws import check
from networks import Net, card, cut, feeds, operators, rows, run, weights
from onnx import TensorProto, helper

from expertc.card import CARD_KEY, Card, Output
from expertc.graph import read_model, to_bytes
from expertc.surgery.prune import prune


def branched(classes: int = 4) -> Net:
    """A trunk and a branch per class."""
    net = Net()
    trunk = net.node("Tanh", net.conv(net.image(), 3, 4, kernel=3, name="trunk"))
    heads = [
        net.head(net.node("Tanh", net.conv(trunk, 4, 2, name=f"b{c}")), 2, 1, name=f"h{c}") for c in range(classes)
    ]
    net.result(net.node("Concat", *heads, axis=1, out="scores"), classes)
    return net


def test_opset_ir_version_producer_and_names_are_the_sources() -> None:
    for opset, ir in ((13, 7), (17, 8), (20, 10)):
        net = branched()
        net.opset, net.ir = opset, ir
        full, expert = net.model(), onnx.load_from_string(cut(net.bytes(), card(4), [1, 2])[0])
        assert (expert.ir_version, expert.opset_import[0].version, expert.producer_name) == (ir, opset, "networks")
        assert expert.graph.name == full.graph.name
        assert {node.name for node in expert.graph.node} <= {node.name for node in full.graph.node}
        assert {node.name: node.op_type for node in expert.graph.node}.items() <= {
            node.name: node.op_type for node in full.graph.node
        }.items()


def test_kept_weights_are_the_full_models_bit_for_bit() -> None:
    net = branched()
    for name, values in weights(cut(net.bytes(), card(4), [0, 3])[0]).items():
        assert np.array_equal(values, net.initializers[name])


def test_nothing_that_was_removed_is_in_the_file() -> None:
    net = branched()
    net.metadata = {"note": "class-2 and class-1 were hard", CARD_KEY: "{}"}
    data, _ = cut(net.bytes(), card(4), [0, 3])
    for gone in (b"b1", b"h1", b"b2", b"h2", b"class-1", b"class-2", b"were hard"):
        assert gone not in data
    for name in ("b1.w", "b2.w", "h1.w"):
        assert net.initializers[name].tobytes() not in data


def test_what_exporters_note_down_is_not_in_the_file() -> None:
    """Stack traces and paths: of the model, the graph, nodes, weights, inputs and outputs."""
    proto = branched().model()
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = "File /home/somebody/train.py, line 3"
    for part in (graph, *graph.initializer, *graph.input, *graph.output):
        entry = part.metadata_props.add()
        entry.key, entry.value = "trace", "/home/somebody/model.py"
    assert b"/home/somebody" not in cut(proto, card(4), [0, 3])[0]


def test_removed_rows_are_not_in_the_file() -> None:
    net = Net()
    net.result(net.head(net.image(), 3, 4, name="scores"), 4)
    data, _ = cut(net.bytes(), card(4), [0, 3])
    for row in (1, 2):
        assert net.initializers["scores.w"][row].tobytes() not in data


def test_the_experts_card_names_the_kept_classes_and_where_they_come_from() -> None:
    data, done = cut(branched().bytes(), card(("a", "b", "c", "d")), [3, 1])
    read = Card.from_json(read_model(data).metadata[CARD_KEY])
    assert read == done.card
    assert (read.classes, read.selected_from) == (("b", "d"), 4)
    assert list(read_model(data).metadata) == [CARD_KEY]


def test_node_metadata_stays_with_its_node() -> None:
    proto = branched().model()
    for node in proto.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = "scope", node.name
    expert = onnx.load_from_string(cut(proto, card(4), [1, 3])[0])
    assert expert.graph.node
    assert all([(e.key, e.value) for e in node.metadata_props] == [("scope", node.name)] for node in expert.graph.node)


def test_the_model_that_is_cut_does_not_change() -> None:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    shared = net.weight(3, 4, name="shared")
    parts = [net.node("MatMul", net.node(op, x), shared) for op in ("Tanh", "Neg")]
    net.result(net.node("Concat", *parts, axis=1, out="scores"), 8)
    model = read_model(net.bytes())
    before = to_bytes(model)
    first = to_bytes(prune(model, card(8), [0, 5]).model)
    to_bytes(prune(model, card(8), [4, 5, 6, 7, 0]).model)  # one cut of the weight is the whole of it
    assert to_bytes(model) == before
    assert to_bytes(prune(model, card(8), [0, 5]).model) == first


def test_selecting_every_class_keeps_the_graph() -> None:
    net = branched()
    expert = check(net, card(4), [0, 1, 2, 3])
    assert expert.operators == operators(net.bytes())
    assert expert.shapes == {name: values.shape for name, values in net.initializers.items()}
    assert expert.cut.removed == 0


def test_dead_nodes_and_unread_weights_of_the_source_go_too() -> None:
    net = branched()
    net.node("Conv", "image", net.weight(7, 3, 1, 1, name="dead"), out="unread")
    expert = check(net, card(4), [0, 1, 2, 3])
    assert "dead" not in expert.shapes


def test_an_input_nobody_reads_any_more_stays_an_input() -> None:
    net = branched()
    gain = net.image(1, name="gain")
    scaled = net.node("Mul", "scores", gain, out="scaled")
    net.outputs.clear()
    net.result(net.node("Concat", "h0", scaled, axis=1, out="all"), 5)
    data, _ = cut(net.bytes(), card(5, Output("all")), [0])
    assert [value.name for value in onnx.load_from_string(data).graph.input] == ["image", "gain"]


def test_shapes_of_the_outputs_say_how_many_classes() -> None:
    for batch, shape in (("batch", ["batch", 2]), (3, [3, 2])):
        net = Net(batch=batch)
        net.result(net.head(net.image(), 3, 4, name="scores"), 4)
        value = onnx.load_from_string(cut(net.bytes(), card(4), [0, 2])[0]).graph.output[0]
        assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == shape


# -- names that get in the way -----------------------------------------------------------------------------------------


def test_an_initializer_that_is_called_like_a_cut_of_an_input() -> None:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    net.result(net.node("MatMul", x, net.weight(3, 4, name="image@cut-000000000000"), out="scores"), 4)
    check(net, card(4), [0, 3])


def test_initializers_that_are_called_like_cuts_of_each_other() -> None:
    net = Net()
    x = net.node("Flatten", net.node("GlobalAveragePool", net.image()))
    parts = [net.node("MatMul", x, net.weight(3, 2, name=name)) for name in ("w", "w@cut-1", "w@cut-2")]
    net.result(net.node("Concat", *parts, axis=1, out="scores"), 6)
    check(net, card(6), [1, 2, 5])


def test_tensors_that_are_called_like_a_selection() -> None:
    net = Net()
    logits = net.head(net.image(), 3, 5, name="h")
    other = net.node("Tanh", logits, out="h@1")
    whole = net.node("Softmax", other, axis=1, out="h@1.indices")
    net.result(net.node("Mul", net.node("Add", whole, logits), other, out="scores"), 5)
    check(net, card(5), [0, 2])


def test_a_tensor_that_is_called_like_a_constant_of_its_reader() -> None:
    net = Net(batch=2)
    pooled = net.node("GlobalAveragePool", net.conv(net.image(), 3, 5, name="c"), out="scores.1")
    net.result(net.node("Squeeze", pooled, out="scores"), 5)
    check(net, card(5), [0, 2])


def test_a_tensor_that_is_called_like_the_whole_of_an_output() -> None:
    net = Net()
    logits = net.head(net.image(), 3, 5, name="h")
    net.result(logits, 5)
    gate = net.node("ReduceSum", logits, net.constant([1]), keepdims=1, out="h@whole")
    net.result(net.node("Mul", logits, gate, out="gated"), 5)
    check(net, card(5, Output("h"), Output("gated")), [1, 4], composable=False)


def test_nodes_without_names() -> None:
    proto = branched().model()
    for node in proto.graph.node:
        node.name = ""
    check(proto.SerializeToString(), card(4), [0, 2])


# -- control flow ------------------------------------------------------------------------------------------------------


def conditional(net: Net, inner: str, weight: str) -> str:
    """``If(mean(image) > 0, inner * weight, inner + weight)``: both are read from outside the subgraphs."""
    branches = [
        helper.make_graph([helper.make_node(op, [inner, weight], [f"{op}_result"])], op, [],
                          [helper.make_tensor_value_info(f"{op}_result", TensorProto.FLOAT, None)])
        for op in ("Mul", "Add")
    ]  # fmt: skip
    condition = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    return str(net.node("If", condition, then_branch=branches[0], else_branch=branches[1], out="chosen"))


@pytest.mark.parametrize("made_by", ["Tanh", "Slice", "Gather", "Concat", "Split"])
def test_what_a_subgraph_reads_from_outside_stays_under_its_name(made_by: str) -> None:
    """Slice, Gather and the others may dissolve in the cut; not where a subgraph reads their output by name."""
    net = Net()
    wide = net.conv(net.image(), 3, 4, name="c")
    if made_by == "Slice":
        inner = net.node("Slice", wide, net.constant([1]), net.constant([3]), net.constant([1]), out="inner")
    elif made_by == "Gather":
        inner = net.node("Gather", wide, net.constant([0, 1]), axis=1, out="inner")
    elif made_by == "Concat":
        inner = net.node("Concat", net.conv("image", 3, 2, name="d"), axis=1, out="inner")
    elif made_by == "Split":
        inner, _ = net.node("Split", wide, out=["inner", "rest"], axis=1, num_outputs=2)
    else:
        inner = net.node("Tanh", net.conv("image", 3, 2, name="d"), out="inner")
    chosen = conditional(net, inner, net.weight(2, 1, 1, name="captured"))
    own = net.node("Concat", net.head(chosen, 2, 3, name="h"), net.head(wide, 4, 2, name="g"), axis=1, out="scores")
    net.result(own, 5)
    data = net.bytes()
    for keep in ([0, 2], [1, 4], [3, 4]):
        expert, _ = cut(data, card(5), keep)
        for seed in (0, 1, 2):
            inputs = feeds(data, seed=seed)
            assert np.array_equal(run(expert, inputs)["scores"], rows(run(data, inputs)["scores"], keep))
        assert ("If" in operators(expert)) == (keep != [3, 4])


def test_an_initializer_that_only_a_subgraph_reads() -> None:
    net = Net()
    net.image()
    chosen = conditional(net, "image", net.weight(3, 1, 1, name="captured"))
    net.result(net.head(chosen, 3, 4, name="scores"), 4)
    data = net.bytes()
    expert, _ = cut(data, card(4), [1, 2])
    inputs = feeds(data)
    assert np.array_equal(run(expert, inputs)["scores"], rows(run(data, inputs)["scores"], [1, 2]))


def test_an_operator_of_another_domain_is_opaque_and_keeps_its_domain() -> None:
    net = Net()
    net.domains["acme.vision"] = 3
    blurred = net.node("Relu", net.conv(net.image(), 3, 4, name="c"), domain="acme.vision", strength=0.5)
    net.result(net.node("ReduceMean", blurred, net.constant([2, 3]), keepdims=0, out="scores"), 4)
    net.outputs[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4]))
    data, _ = cut(net.model(), card(4), [1])
    expert = onnx.load_from_string(data)
    assert {(opset.domain, opset.version) for opset in expert.opset_import} == {("", 20), ("acme.vision", 3)}
    assert weights(expert)["c.w"].shape == (4, 3, 1, 1)
    node = expert.graph.node[1]
    assert (node.domain, node.attribute[0].name, node.attribute[0].f) == ("acme.vision", "strength", 0.5)


def test_half_precision_weights_stay_half_precision() -> None:
    net = Net()
    flat = net.node("Flatten", net.node("GlobalAveragePool", net.image(dtype=TensorProto.FLOAT16)))
    product = net.node("MatMul", flat, net.weight(3, 6, name="w", dtype=np.float16))
    net.result(
        net.node("Add", product, net.weight(6, name="b", dtype=np.float16), out="scores"), 6, dtype=TensorProto.FLOAT16
    )
    data = net.bytes()
    expert, _ = cut(data, card(6), [1, 2, 5])
    inputs = feeds(data)
    assert np.array_equal(run(expert, inputs)["scores"], rows(run(data, inputs)["scores"], [1, 2, 5]))
    assert {values.dtype for values in weights(expert).values()} == {np.dtype(np.float16)}


def test_bfloat16_weights_are_cut_without_a_detour() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    net = Net()
    net.image(6, dtype=TensorProto.BFLOAT16)
    net.result(
        net.node("Mul", "image", net.weight(6, name="w", dtype=ml_dtypes.bfloat16), out="scores"),
        6,
        dtype=TensorProto.BFLOAT16,
    )
    expert, _ = cut(net.model(), card(6), [1, 4])
    values = weights(expert)["w"]
    assert values.dtype == ml_dtypes.bfloat16
    assert np.array_equal(values, net.initializers["w"][[1, 4]])
