"""lower: the same numbers in an older opset's words, judged by ONNX's checker and ONNX Runtime, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import pytest
from networks import Array, Net, feeds, operators, reference, run
from onnx import TensorProto, defs, helper

from expertc.errors import ModelError, UnsupportedError
from expertc.graph import read_model, to_bytes
from expertc.surgery.lower import Lower
from expertc.surgery.lowering.composed import COMPOSED
from expertc.surgery.lowering.table import CHANGES

NEAR = 2e-6  # of the largest magnitude, where a kernel of ONNX Runtime becomes a chain of others
SHAPE = (6, 5, 8)

Build = Callable[[Net, str], str]


def one(op: str, *constants: Any, out: int = 0, **attributes: Any) -> Build:
    """A node that reads x and initializers; the constant "" is an input that is left out."""

    def build(net: Net, x: str) -> str:
        names = [value if isinstance(value, str) else net.constant(value) for value in constants]
        if out:
            return str(net.node(op, x, *names, out=[net.fresh("part") for _ in range(out)], **attributes)[-1])
        return str(net.node(op, x, *names, **attributes))

    return build


def network(build: Build, opset: int, *, dtype: int = TensorProto.FLOAT) -> Net:
    net = Net(opset)
    x = net.image(*SHAPE)
    y = build(net, x)
    net.node("Identity", y, out="y")
    net.outputs.insert(0, helper.make_tensor_value_info("y", dtype, None))
    # A file that passes the checker says its outputs' ranks; of a few operators ONNX infers none.
    for value in onnx.shape_inference.infer_shapes(net.model(check=False)).graph.output:
        inferred = value.type.tensor_type
        dims = [None] * (len(inferred.shape.dim) if inferred.HasField("shape") else 4)
        net.outputs.append(helper.make_tensor_value_info(value.name, inferred.elem_type, dims))
        net.outputs.pop(0)
    return net


def lowered(net: Net, opset: int, *, exact: bool = True, engine: Callable[..., dict[str, Array]] = run) -> bytes:
    """The lowered file, valid in that opset and with the same outputs."""
    data = net.bytes()
    model = read_model(data)
    before = to_bytes(model)
    after, changed = Lower(opset).run(model)
    result = to_bytes(after)
    proto = onnx.load_from_string(result)
    onnx.checker.check_model(proto, full_check=True)
    assert changed
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
    assert proto.ir_version <= helper.OP_SET_ID_VERSION_MAP[("ai.onnx", opset)]
    assert to_bytes(model) == before
    assert Lower(opset).run(after) == (after, False)
    assert to_bytes(Lower(opset).run(read_model(data))[0]) == result
    inputs = feeds(data)
    wanted, got = engine(data, inputs), engine(result, inputs)
    for name, values in wanted.items():
        assert got[name].dtype == values.dtype
        if exact:
            np.testing.assert_array_equal(got[name], values)
        else:
            within = (NEAR if values.dtype != np.float16 else 2e-3) * np.abs(values.astype(np.float64)).max()
            np.testing.assert_allclose(got[name], values, rtol=0, atol=within)
    return result


REDUCTIONS = [
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare",
]  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
def test_axes_of_reductions_become_attributes(op: str) -> None:
    for build in (one(op, [1, -1], keepdims=0), one(op, [2]), one(op), one(op, keepdims=0)):
        assert operators(lowered(network(build, 18), 17)) == [op, "Identity"]


def quantised(net: Net, x: str) -> str:
    face = (net.constant(0.1), net.constant(np.array(3, np.uint8)))
    whole = net.node("QuantizeLinear", x, *face, output_dtype=TensorProto.UINT8, saturate=1)
    return str(net.node("DequantizeLinear", whole, *face, block_size=0))


CASES: dict[str, tuple[int, int, Build]] = {
    "split": (18, 13, one("Split", num_outputs=3, axis=3, out=3)),
    "split by sizes": (18, 17, one("Split", [1, 5], axis=1, out=2)),
    "pad axes": (18, 17, one("Pad", [1, 2, 0, 3], 0.5, [3, -2])),
    "pad edge": (21, 13, one("Pad", [0, 0, 1, 1] * 2, mode="edge")),
    "reshape": (20, 13, one("Reshape", [0, -1], allowzero=0)),
    "reshape allowzero": (20, 13, one("Reshape", [2, 240], allowzero=1)),
    "resize scales": (18, 17, one("Resize", "", np.array([2, 1.5], "f"), axes=[2, 3], mode="linear")),
    "resize sizes, batch and all": (19, 13, one("Resize", "", "", [3, 7], axes=[0, 2], mode="nearest")),
    "resize sizes": (19, 13, one("Resize", "", "", [9, 7], axes=[-1, 2], mode="nearest")),
    "relu": (14, 13, one("Relu")),
    "hard swish": (22, 13, one("HardSwish")),
    "cast": (24, 13, one("Cast", to=TensorProto.FLOAT)),
    "softmax": (20, 13, one("Softmax", axis=1)),
    "clip": (20, 13, one("Clip", -0.5, 0.5)),
    "squeeze": (24, 13, one("Unsqueeze", [1])),
    "transpose": (24, 13, one("Transpose", perm=[0, 2, 3, 1])),
    "scatter": (18, 16, one("ScatterND", np.array([[1]]), np.ones((1, *SHAPE), "f"), reduction="add")),
    "scatter none": (18, 13, one("ScatterND", np.array([[1]]), np.ones((1, *SHAPE), "f"), reduction="none")),
    "where": (16, 13, lambda net, x: net.node("Where", net.node("Greater", x, net.constant(0.0)), x, x)),
    "pow": (15, 13, one("Pow", 2.0)),
    "dft": (20, 17, lambda net, x: net.node("DFT", net.node("Unsqueeze", x, net.constant([4])), "", net.constant(3))),
    "cast like": (22, 13, lambda net, x: net.node("CastLike", net.constant([1, 2]), x)),
    "quantise": (21, 13, quantised),
    "batch norm": (20, 13, lambda net, x: net.norm(x, 6)),
    "grid": (20, 17, lambda net, x: net.node(
        "GridSample", x, net.constant(net.random.uniform(-1, 1, (2, 3, 4, 2)).astype("f")), mode="linear")),
    "grid by default": (22, 16, lambda net, x: net.node(
        "GridSample", x, net.constant(net.random.uniform(-1, 1, (2, 3, 4, 2)).astype("f")))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rewritten_bit_for_bit(case: str) -> None:
    source, target, build = CASES[case]
    lowered(network(build, source), target)


@pytest.mark.parametrize(("start", "end"), [(1, None), (-2, None), (0, 2), (1, -1), (-9, 9), (3, 1)])
def test_a_part_of_a_shape(start: int, end: int | None) -> None:
    """The batch is a symbol, so the numbers are not known before."""
    bounds = {"start": start} | ({} if end is None else {"end": end})
    net = network(one("Shape", **bounds), 20, dtype=TensorProto.INT64)
    inputs = feeds(net.bytes(), batch=5)
    after, _ = Lower(14).run(read_model(net.bytes()))
    np.testing.assert_array_equal(run(to_bytes(after), inputs)["y"], run(net.bytes(), inputs)["y"])


NORMS: dict[str, tuple[int, Build]] = {
    "layer": (17, one("LayerNormalization", np.linspace(1, 2, 8, dtype="f"), np.ones(8, "f"), epsilon=1e-3)),
    "layer, two axes": (17, one("LayerNormalization", np.linspace(1, 2, 40, dtype="f").reshape(5, 8), axis=2)),
    "gelu": (20, one("Gelu")),
    "gelu tanh": (20, one("Gelu", approximate="tanh")),
    "group": (21, one("GroupNormalization", np.arange(6, dtype="f"), np.ones(6, "f"), num_groups=2)),
    "average pool, by another kernel": (22, one("AveragePool", kernel_shape=[2, 2], dilations=[1, 1])),
    "mish": (18, one("Mish")),
}


@pytest.mark.parametrize("case", NORMS)
def test_what_there_was_no_operator_for(case: str) -> None:
    source, build = NORMS[case]
    for target in (13, 16, *([18, 20] if source > 20 else [])):
        result = lowered(network(build, source), target, exact=False)
        assert not set(operators(result)) & set(COMPOSED)


@pytest.mark.parametrize(("op", "opset"), [("RMSNormalization", 23), ("Swish", 24)])
def test_operators_newer_than_most_runtimes(op: str, opset: int) -> None:
    constants = [np.linspace(1, 2, 8, dtype="f")] if op == "RMSNormalization" else []
    for target in (17, 20):
        lowered(network(one(op, *constants), opset), target, exact=False, engine=reference)


def test_a_layer_normalisation_of_halves_with_all_its_outputs() -> None:
    def build(net: Net, x: str) -> str:
        half = net.node("Cast", x, to=TensorProto.FLOAT16)
        vectors = net.weight(8, name="scale", dtype=np.float16), net.weight(8, name="bias", dtype=np.float16)
        y, mean, inverse = net.node("LayerNormalization", half, *vectors, out=["n", "mean", "inverse"])
        net.outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (mean, inverse)]
        return str(net.node("Cast", y, to=TensorProto.FLOAT))

    result = lowered_within(network(build, 17), 15, 2e-3)
    assert "Reciprocal" in operators(result)


def lowered_within(net: Net, opset: int, within: float) -> bytes:
    data = net.bytes()
    result = to_bytes(Lower(opset).run(read_model(data))[0])
    onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
    wanted, got = reference(data, feeds(data)), reference(result, feeds(data))
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=within * np.abs(values).max())
    return result


def test_nodes_of_subgraphs_are_lowered_too() -> None:
    net = Net(18)
    x = net.image(*SHAPE)
    axes = net.constant([1], "axes")
    branches = [
        helper.make_graph(
            [helper.make_node(op, [x, axes], [f"{op}1"], keepdims=0)],
            op, [], [helper.make_tensor_value_info(f"{op}1", TensorProto.FLOAT, None)],
        )
        for op in ("ReduceMax", "ReduceMin")
    ]  # fmt: skip
    condition = net.node("Greater", net.node("ReduceMean", x, keepdims=0), net.constant(0.0))
    net.result(net.node("If", condition, then_branch=branches[0], else_branch=branches[1], out="y"), 5, 8)
    lowered(net, 13)


REFUSED: dict[str, tuple[int, int, Build, str]] = {
    "axes that are computed": (
        18, 17, lambda net, x: net.node("ReduceMean", x, net.node("Cast", net.node("ReduceMax", x, keepdims=0), to=7)),
        "its axes are computed"),
    "no axes": (18, 17, one("ReduceMean", noop_with_empty_axes=1), "reduces over no axis"),
    "wrap": (19, 18, one("Pad", [0, 0, 1, 1] * 2, mode="wrap"), "its 'mode' is 'wrap'"),
    "antialias": (18, 17, one("Resize", "", np.array([1, 1, .5, .5], "f"), mode="linear", antialias=1), "antialias"),
    "dilations": (19, 18, one("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), "its 'dilations'"),
    "scatter": (18, 17, one("ScatterND", np.array([[1]]), np.ones((1, *SHAPE), "f"), reduction="max"), "'reduction'"),
    "grid": (16, 15, one("GridSample", np.zeros((2, 3, 4, 2), "f")), "no such operator"),
    "new": (14, 13, one("Trilu"), "no such operator"),
    "types": (14, 13, lambda net, x: net.node("Cast", net.node("Add", *[net.node("Cast", x, to=2)] * 2), to=1),
              "does not take uint8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_said_is_refused(case: str) -> None:
    source, target, build, reason = REFUSED[case]
    model = read_model(network(build, source).bytes())
    with pytest.raises(UnsupportedError, match=reason) as caught:
        Lower(target).run(model)
    assert f"opset {source} cannot be written for opset {target}" in caught.value.message
    assert any(f"The {node.op} '{node.name}'" in caught.value.message for node in model.nodes)


def test_an_opset_that_is_too_old_or_old_enough() -> None:
    model = read_model(network(one("Relu"), 17).bytes())
    assert Lower(20).run(model) == Lower(999).run(model) == (model, False)
    with pytest.raises(UnsupportedError, match="13"):
        Lower(12).run(model)
    net = network(one("Relu"), 17)
    net.ir = 10
    after, changed = Lower(17).run(read_model(net.bytes()))
    assert (after.ir_version, changed) == (8, True)


def test_a_malformed_node_is_named() -> None:
    net = network(one("Split", num_outputs=0, axis=1, out=1), 18)
    with pytest.raises(ModelError):
        Lower(17).run(read_model(net.model(check=False).SerializeToString()))


def test_every_change_is_in_the_table_or_refused_on_purpose() -> None:
    """Against ONNX's own history, so that a new opset is a decision and not an accident."""
    on_purpose = {
        "Attention", "Bernoulli", "Multinomial", "OptionalGetElement", "OptionalHasElement", "RandomNormal",
        "RandomNormalLike", "RandomUniform", "RandomUniformLike", "GroupNormalization",
    }  # fmt: skip
    history: dict[str, set[int]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, set()).add(schema.since_version)
    changes = {
        (op, version) for op, versions in history.items() for version in sorted(versions)[1:] if 13 < version <= 25
    }
    assert {key for key in changes - set(CHANGES) if key[0] not in on_purpose} == set()
    assert set(CHANGES) <= changes
    assert COMPOSED.keys() <= history.keys()


@pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")
def test_a_network_of_timm() -> None:
    """ConvNeXt has what most others have and more: layer norms in both layouts, Gelu, means over axes."""
    import torch

    from expertc.export import export_plain
    from expertc.zoo._timm import import_timm

    torch.manual_seed(0)
    module = import_timm().models.ConvNeXt(num_classes=5, depths=(1,) * 4, dims=(8,) * 4, use_grn=True)
    data = export_plain(module, (32, 32))
    model = read_model(data)
    inputs = feeds(data)
    wanted = run(data, inputs)["logits"]
    for opset in (17, 13):
        result = to_bytes(Lower(opset).run(model)[0])
        onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
        got = run(result, inputs)["logits"]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
