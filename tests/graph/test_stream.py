from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from expertc.errors import ModelError
from expertc.graph import Constant
from expertc.graph.stream import Lean, outline

# Around where a length on the wire takes another byte: 2 ** 7 and 2 ** 14 bytes.
SIZES = st.lists(st.sampled_from([0, 1, 2, 29, 30, 31, 32, 4083, 4090, 4096]), max_size=5)


def sums(weights: dict[str, np.ndarray], elsewhere: set[str]) -> onnx.ModelProto:
    """``y = x + sum of each weight's sum``; the initializers ``elsewhere`` are outlines."""
    nodes, last = [], "x"
    for name in weights:
        nodes.append(helper.make_node("ReduceSum", [name], [f"{name}.sum"], keepdims=0))
        nodes.append(helper.make_node("Add", [last, f"{name}.sum"], [f"{name}.next"]))
        last = f"{name}.next"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    face = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    initializers = [
        outline(Constant(name, values))
        if name in elsewhere
        else numpy_helper.from_array(np.ascontiguousarray(values), name)
        for name, values in weights.items()
    ]
    graph = helper.make_graph(nodes, "sums", face[:1], face[1:], initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    model.metadata_props.add(key="k", value="v")
    return model


@given(SIZES, st.data())
def test_the_bytes_are_those_of_the_protobuf_with_everything_inside(sizes: list[int], data: st.DataObject) -> None:
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}
    elsewhere = {name for name in weights if data.draw(st.booleans())}
    lean = Lean(sums(weights, elsewhere), {name: Constant(name, weights[name]) for name in elsewhere})
    assert b"".join(lean.serialise()) == sums(weights, set()).SerializeToString(deterministic=True)


def test_a_view_is_written_in_its_own_order() -> None:
    weights = {"turned": np.arange(12, dtype=np.float32).reshape(3, 4).T, "every.other": np.arange(9.0)[::2]}
    lean = Lean(sums(weights, set(weights)), {name: Constant(name, values) for name, values in weights.items()})
    read = onnx.load_from_string(b"".join(lean.serialise()))
    for tensor in read.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])


def test_what_is_left_in_the_file_is_found_there(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(i + 1, 37)).astype(np.float32) for i in range(4)}
    elsewhere = {"w0", "w2", "w3"}
    lean = Lean(sums(weights, elsewhere), {name: Constant(name, weights[name]) for name in elsewhere})
    mapped = lean.write(tmp_path / "full.onnx")
    (tmp_path / "mapped.onnx").write_bytes(mapped.SerializeToString())
    assert len(mapped.SerializeToString()) < (tmp_path / "full.onnx").stat().st_size
    x = np.zeros(1, np.float32)
    whole, outside = (
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for name in ("full.onnx", "mapped.onnx")
    )
    np.testing.assert_array_equal(whole, outside)
    np.testing.assert_allclose(whole, sum(float(v.sum(dtype=np.float64)) for v in weights.values()), rtol=1e-5)
    other = onnx.load(tmp_path / "mapped.onnx")
    assert {t.name: t.raw_data for t in other.graph.initializer} == {n: v.tobytes() for n, v in weights.items()}


def test_protobufs_limit_is_named() -> None:
    huge = np.broadcast_to(np.float32(0), (2**29,))  # 2 GiB, of which four bytes are in memory
    with pytest.raises(ModelError, match="2 GiB"):
        next(Lean(sums({"w": huge}, {"w"}), {"w": Constant("w", huge)}).serialise())
