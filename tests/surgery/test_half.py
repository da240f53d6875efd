"""Half precision in the graph: judged by ONNX's schemas, its checker, ONNX Runtime and ONNX's reference evaluator.

The last one computes every operator in half precision, as a device does and ONNX Runtime's processor does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx
import pytest
from networks import Net, feeds, operators, reference, run, weights
from one_of_each import Case
from one_of_each_layout import ALL
from onnx import TensorProto, helper

from expertc.backends.cpu import open_session
from expertc.graph import read_model, to_bytes
from expertc.observe import exposed, observe
from expertc.surgery.half import Half, choose_islands, is_single, notes

CLOSE = 4e-3  # of the largest value: a few roundings of half precision, one after the other
session = partial(open_session, threads=1)


def lowered(data: bytes, ranges: Mapping[str, tuple[float, float]] | None = None) -> bytes:
    """In half precision, checked: strongly typed, no Cast there and back, the same face, nothing left to do."""
    model = read_model(data)
    islands = choose_islands(model, ranges)
    made, changed = Half(islands).run(model)
    result = to_bytes(made)
    proto = onnx.load_from_string(result)
    onnx.checker.check_model(proto, full_check=True)
    check_types(proto)
    casts = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Cast"}
    added = casts.keys() - {name for node in onnx.load_from_string(data).graph.node for name in node.output}
    assert not [name for name in added if casts[name] in added]
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*proto.graph.input, *proto.graph.output)] == [
        (tensor.name, model.types[tensor.name]) for tensor in (*model.graph.inputs, *model.graph.outputs)
    ]
    assert changed
    assert not is_single(made)
    assert Half(islands).run(made) == (made, False)
    assert to_bytes(Half(json.loads(json.dumps(islands))).run(read_model(data))[0]) == result
    return result


def check_types(proto: onnx.ModelProto) -> None:
    """Every type variable of every operator stands for one type, and one that its schema allows."""
    silent = any(node.op_type == "GroupNormalization" for node in proto.graph.node)  # ONNX infers nothing behind one
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=not silent).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    for node in proto.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset)
        bound: dict[str, str] = {}
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for at, name in enumerate(names):
                formal = formals[min(at, len(formals) - 1)]
                if name in kinds and formal.is_homogeneous:
                    written = f"tensor({onnx.TensorProto.DataType.Name(kinds[name]).lower()})"
                    assert bound.setdefault(formal.type_str, written) == written, (node.op_type, name)
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        for variable, kind in bound.items():
            assert kind in allowed.get(variable, [variable]), (node.op_type, kind)


def check_close(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], share: float = CLOSE) -> None:
    for name, values in other.items():
        assert one[name].dtype == values.dtype
        np.testing.assert_allclose(one[name], values, rtol=0, atol=share * float(np.abs(values).max()))


def strict(data: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor, each really in its own type."""
    with exposed(read_model(data), open_session=session) as (see, _):
        return dict(see(inputs["image"]))


SINGLE = [case for case in ALL if is_single(read_model(case.net().bytes()))]


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.op)
def test_every_operator_survives(case: Case) -> None:
    data = case.net().bytes()
    check_close(run(lowered(data), feeds(data)), run(data, feeds(data)))


@pytest.mark.parametrize("case", [case for case in ALL if case not in SINGLE], ids=lambda case: case.op)
def test_what_is_quantised_is_left_alone(case: Case) -> None:
    model = read_model(case.net().bytes())
    assert Half().run(model) == (model, False)


def plain(opset: int = 17) -> Net:
    net = Net(opset, seed=3)
    x = net.node("Relu", net.conv(net.image(), 3, 8, kernel=3, name="first"), out="relu")
    x = net.node("Add", net.conv(x, 8, 8, kernel=3, name="second"), x, out="joined")
    scores = net.head(net.node("Relu", x), 8, 5, name="fc")
    net.result(net.node("Softmax", scores, axis=1, out="likely"), 5)
    net.result(scores, 5)
    return net


def test_a_plain_network_has_casts_at_its_borders_only() -> None:
    """Each of half the size; the scores are an output and are read by the softmax, and are cast once for both."""
    data = plain().bytes()
    result = lowered(data)
    assert operators(result).count("Cast") == 2
    assert {values.dtype for values in weights(result).values()} == {np.dtype(np.float16)}
    inputs = feeds(data, batch=8)
    found, wanted = reference(result, inputs), run(data, inputs)
    check_close(found, wanted, 1e-2)  # the scores are large, and a softmax takes their errors as they are
    assert (found["likely"].argmax(axis=1) == wanted["likely"].argmax(axis=1)).all()


def test_it_computes_what_torch_computes_in_half_precision() -> None:
    torch = pytest.importorskip("torch")
    net = Net(17, seed=4)
    net.result(net.head(net.node("Relu", net.conv(net.image(), 3, 8, kernel=3, name="c")), 8, 5, name="fc"), 5)
    data = net.bytes()
    w = {name: torch.from_numpy(np.array(values)).half() for name, values in net.initializers.items()}
    inputs = feeds(data, batch=4)
    x = torch.from_numpy(inputs["image"]).half()
    x = torch.relu(torch.nn.functional.conv2d(x, w["c.w"], w["c.b"], padding=1)).mean((2, 3))
    wanted = torch.nn.functional.linear(x, w["fc.w"], w["fc.b"]).float().numpy()
    check_close(reference(lowered(data), inputs), {"fc": wanted})


def test_nodes_may_have_the_names_of_tensors() -> None:
    """As exporters write them; ONNX Runtime takes no two nodes of one name."""
    proto = plain().model()
    for node in proto.graph.node:
        node.name = node.output[0]
    data = proto.SerializeToString()
    check_close(run(lowered(data), feeds(data)), run(data, feeds(data)), 1e-2)


def written_out_norm() -> Net:
    """A layer norm as exporters wrote it before ONNX had one; its squares overflow, its epsilon vanishes."""
    net = Net(17, seed=5)
    x = net.node("Flatten", net.image())
    x = net.node("Mul", net.node("MatMul", x, net.weight(48, 16)), net.constant(20.0), out="large")
    centred = net.node("Sub", x, net.node("ReduceMean", x, axes=[-1]), out="centred")
    variance = net.node("ReduceMean", net.node("Pow", centred, net.constant(2.0), out="square"), axes=[-1])
    deviation = net.node("Sqrt", net.node("Add", variance, net.constant(1e-12), out="more"))
    x = net.node(
        "Add", net.node("Mul", net.node("Div", centred, deviation, out="unit"), net.weight(16)), net.weight(16)
    )
    net.result(net.node("MatMul", x, net.weight(16, 5), out="scores"), 5)
    return net


def test_a_norm_that_is_written_out_is_single_from_its_squares_on() -> None:
    data = written_out_norm().bytes()
    islands = choose_islands(read_model(data))
    assert {"square", "more", "unit"} <= islands.keys()
    assert {"large", "centred", "scores"}.isdisjoint(islands)
    inputs = feeds(data, batch=8)
    assert strict(data, inputs)["square"].max() > 65504
    check_close(reference(lowered(data), inputs), run(data, inputs), 1e-2)


def test_what_was_seen_to_overflow_stays_single() -> None:
    """An activation reaches 1e5 and is then scaled down; by its weights nobody can tell."""
    net = Net(17, seed=6)
    x = net.node("Relu", net.node("Mul", net.conv(net.image(), 3, 8, name="c"), net.constant(3e4)), out="huge")
    net.result(net.head(net.conv(net.node("Mul", x, net.constant(1e-4), out="down"), 8, 8, name="d"), 8, 5), 5)
    data, inputs = net.bytes(), feeds(net.bytes(), batch=8)
    assert strict(data, inputs)["huge"].max() > 1e5
    blind = strict(lowered(data), inputs)
    assert not all(np.isfinite(values).all() for values in blind.values())
    ranges = {
        name: (found.low, found.high)
        for name, found in observe(read_model(data), [inputs["image"]], open_session=session).items()
    }
    islands = choose_islands(read_model(data), ranges)
    assert islands.keys() == {"mul_1", "huge", "down"}
    assert islands["huge"].startswith("values up to ")
    result = lowered(data, ranges)
    assert all(np.isfinite(values).all() for values in strict(result, inputs).values())
    check_close(reference(result, inputs), run(data, inputs))


@pytest.mark.parametrize(
    ("scale", "why"), [(1e6, "weights up to 1e+06"), (1e-9, "weights of only 1e-09"), (1e-6, "weights of only 1e-06")]
)
def test_weights_that_do_not_fit_stay_single(scale: float, why: str) -> None:
    """Beyond the largest number; below the least; and so small that few digits are left."""
    net = Net(17, seed=7)
    x = net.node("Mul", net.conv(net.image(), 3, 4, name="c"), net.constant(1 / scale), out="there")
    net.result(net.head(net.node("Mul", x, net.constant(scale), out="back"), 4, 5), 5)
    data = net.bytes()
    islands = choose_islands(read_model(data))
    assert why in islands.values()
    check_close(run(lowered(data, {"there": (-10 / scale, 10 / scale)}), feeds(data)), run(data, feeds(data)))


def test_a_few_weights_that_vanish_beside_others_do_not_matter() -> None:
    net = plain()
    net.initializers["second.w"][0, 0] = 1e-12
    assert choose_islands(read_model(net.bytes())).keys() == {"likely"}


@pytest.mark.parametrize(
    ("side", "reach", "single"), [(7, None, False), (64, None, True), (64, 8.0, False), (64, 40.0, True)]
)
def test_a_pool_over_a_large_map_is_single_unless_its_values_were_seen_to_be_small(
    side: int, reach: float | None, single: bool
) -> None:
    net = Net(17)
    x = net.node("Relu", net.conv(net.image(3, side, side), 3, 4, name="c"), out="map")
    net.result(net.node("Flatten", net.node("GlobalAveragePool", x, out="mean"), out="scores"), 4)
    ranges = None if reach is None else {"map": (0.0, reach)}
    assert ("mean" in choose_islands(read_model(net.bytes()), ranges)) is single


def test_a_weight_that_both_read_is_there_twice_and_one_that_nobody_else_reads_once() -> None:
    net = Net(17, seed=8)
    shared = net.weight(4, name="w")
    x = net.node("Mul", net.node("Reshape", net.conv(net.image(), 3, 1, name="c"), net.constant([-1, 4, 4])), shared)
    normed = net.node("LayerNormalization", x, shared, shared, axis=-1)
    net.result(net.node("MatMul", net.node("Flatten", net.node("Add", normed, x)), net.weight(16, 5), out="scores"), 5)
    result = lowered(net.bytes())
    kinds = {name: values.dtype for name, values in weights(result).items() if name.startswith("w")}
    assert sorted(map(str, kinds.values())) == ["float16", "float16", "float32"]  # w twice, and the product's own
    check_close(run(result, feeds(net.bytes())), run(net.bytes(), feeds(net.bytes())))


def test_the_bytes_of_an_image_are_scaled_before_they_are_rounded() -> None:
    """The mean of a byte is 123.675, which half precision has as 123.6875: an error that all pixels would share."""
    net = Net(17, seed=9)
    x = net.node("Transpose", net.image(4, 4, 3, dtype=TensorProto.UINT8), perm=[0, 3, 1, 2])
    x = net.node("Sub", net.node("Cast", x, to=TensorProto.FLOAT), net.constant(123.675))
    net.result(net.head(net.conv(net.node("Mul", x, net.constant(0.017)), 3, 8, name="c"), 8, 5, name="scores"), 5)
    data = net.bytes()
    result = lowered(data)
    assert operators(result)[:6] == ["Transpose", "Cast", "Sub", "Mul", "Cast", "Conv"]
    inputs = {"image": np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)}
    check_close(run(result, inputs), run(data, inputs))


def test_sizes_that_are_computed_in_floating_point_stay_exact() -> None:
    """Half of 4099 rounds to 2050 in half precision, not to 2049; the map is resized to it."""
    net = Net(17, seed=10)
    net.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, "width"]))
    x = net.conv("image", 3, 2, name="c")
    wide = net.node("Slice", net.node("Shape", x), *map(net.constant, ([3], [4])))
    wide = net.node("Div", net.node("Cast", wide, to=TensorProto.FLOAT), net.constant(2.0), out="divided")
    wide = net.node("Cast", net.node("Floor", wide, out="floor"), to=TensorProto.INT64)
    sizes = net.node("Concat", net.node("Slice", net.node("Shape", x), *map(net.constant, ([0], [3]))), wide, axis=0)
    net.result(net.node("Resize", x, "", "", sizes, out="scores"), 2, 4, None)
    data, inputs = net.bytes(), {"image": np.ones((1, 3, 4, 4099), np.float32)}
    assert {"divided", "floor"} <= choose_islands(read_model(data)).keys()
    assert run(lowered(data), inputs)["scores"].shape == run(data, inputs)["scores"].shape == (1, 2, 4, 2049)


def test_where_a_map_is_sampled_stays_exact() -> None:
    """A grid has a type of its own: on a wide map half precision would be off by half a pixel."""
    net = Net(17, seed=12)
    grid = net.constant(np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 4, 4, 2), "grid")
    net.result(net.node("GridSample", net.conv(net.image(3, 4, 1023), 3, 2, name="c"), grid, out="scores"), 2, 4, 4)
    net.batch = net.inputs[0].type.tensor_type.shape.dim[0].dim_value = net.outputs[0].type.tensor_type.shape.dim[
        0
    ].dim_value = 1
    data = net.bytes()
    result = lowered(data)
    assert {name: str(values.dtype) for name, values in weights(result).items()}["grid"] == "float32"
    check_close(run(result, feeds(data)), run(data, feeds(data)))


def test_light_nodes_between_two_islands_stay_with_them() -> None:
    """A Cast costs as much as they do: two norms with a scale and a transposition between them need one each way."""
    net = Net(17, seed=13)
    x = net.node("Reshape", net.conv(net.image(), 3, 4, name="c"), net.constant([-1, 4, 16]))
    x = net.node("LayerNormalization", x, net.weight(16), net.weight(16), axis=-1)
    x = net.node("Transpose", net.node("Mul", x, net.weight(16)), perm=[0, 2, 1])
    x = net.node("Flatten", net.node("LayerNormalization", x, net.weight(4), net.weight(4), axis=-1))
    net.result(net.node("MatMul", x, net.weight(64, 5), out="scores"), 5)
    result = lowered(net.bytes())
    assert operators(result) == [
        "Cast", "Conv", "Reshape", "Cast", "LayerNormalization", "Mul", "Transpose", "LayerNormalization", "Flatten",
        "Cast", "MatMul", "Cast",
    ]  # fmt: skip


def test_what_a_branch_reads_from_outside_is_there_in_single_precision() -> None:
    net = Net(17, seed=11)
    parts = net.node("Split", net.conv(net.image(), 3, 8, name="c"), out=["p0", "p0.half"], axis=1)
    inner = [
        helper.make_graph(
            [helper.make_node(op, [parts[0]], [f"inner {op}"])], op, [],
            [helper.make_tensor_value_info(f"inner {op}", TensorProto.FLOAT, None)],
        )
        for op in ("Relu", "Neg")
    ]  # fmt: skip
    bright = net.node("Greater", net.node("ReduceSum", parts[0], keepdims=0), net.constant(0.0))
    chosen = net.node("If", bright, then_branch=inner[0], else_branch=inner[1])
    net.result(net.head(net.node("Add", net.conv(chosen, 4, 4, name="d"), parts[1]), 4, 5, name="scores"), 5)
    data = net.bytes()
    check_close(run(lowered(data), feeds(data, seed=1)), run(data, feeds(data, seed=1)))


def test_islands_can_be_asked_for() -> None:
    model = read_model(plain().bytes())
    islands = choose_islands(model, keep={"second"})
    assert islands == {"second": "asked for", "likely": "a sum over many numbers"}
    kept = weights(to_bytes(Half(islands).run(model)[0]))
    assert (kept["second.w"].dtype, kept["first.w"].dtype) == (np.float32, np.float16)


def test_every_reason_is_told_once() -> None:
    islands = {**choose_islands(read_model(written_out_norm().bytes())), "\x1b[31mred": "asked for"}
    said = notes(islands)
    assert len(said) == len(
        set(islands.values()) - {"what it reads is in single precision", "divides by what is in single precision"}
    )
    assert "In single precision, twice: 'reducemean_3', a sum over many numbers." in said
    assert not any("\x1b" in sentence for sentence in said)
