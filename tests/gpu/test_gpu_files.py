"""What is carried to a machine with a GPU: graphs without weights that become the same models there, to the bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.gpu.hollow import hollow, redraw
from benchmarks.gpu.seeds import Draw, images

ROOT = Path(__file__).resolve().parents[2]


def network(kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Two layers, large enough to be drawn, a bias that is not, variances, and numbers that are all the same."""
    rng = np.random.default_rng(1)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = {
        "a": 0.3 + 0.1 * rng.standard_normal((3, 200)), "ones": np.ones(400), "bias": rng.standard_normal(10),
        "variances": 0.1 + rng.random(300), "b": rng.standard_normal((200, 10)),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"]), helper.make_node("MatMul", ["y", "b"], ["z"]),
        helper.make_node("Add", ["z", "bias"], ["scores"]),
    ]  # fmt: skip
    x, scores = (helper.make_tensor_value_info(name, kind, [1, size]) for name, size in (("x", 3), ("scores", 10)))
    tensors = [numpy_helper.from_array(values.astype(dtype), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [scores], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_draws_do_not_depend_on_the_machine() -> None:
    """Written down once; PCG64's raw numbers are fixed by numpy's policy, and the rest is exact."""
    assert Draw("w", 7, 4, 0.0, 1.0).values().tolist() == [
        0.25019073486328125, 0.7944273948669434, 0.5513713359832764, -0.5495858192443848
    ]  # fmt: skip
    wide = Draw("w", 7, 100_000, 0.5, 0.25).values()
    assert (wide.dtype, abs(float(wide.mean()) - 0.5) < 0.002) == (np.float32, True)
    assert 0.25 <= wide.min() < 0.251 < 0.749 < wide.max() <= 0.75
    half = Draw("w", 7, 4, 0.0, 1.0, "float16").values()
    assert np.array_equal(half, Draw("w", 7, 4, 0.0, 1.0).values().astype(np.float16))
    with pytest.raises(ValueError, match="int8"):
        Draw("w", 7, 4, 0.0, 1.0, "int8").values()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_hollow_graph_becomes_the_same_model(dtype: type, tmp_path: Path) -> None:
    full = network()
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in full.graph.initializer}
    known = redraw(full)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in full.graph.initializer}
    for name in ("ones", "bias"):
        assert np.array_equal(after[name], before[name])
    assert after["a"].std() == pytest.approx((2 / 3) ** 0.5, rel=0.1)
    assert after["b"].std() == pytest.approx((2 / 200) ** 0.5, rel=0.1)
    assert after["variances"].min() > 0
    assert after["variances"].mean() == pytest.approx(before["variances"].mean(), rel=0.1)
    given = full
    if dtype == np.float16:
        given = network(TensorProto.FLOAT16)
        for tensor in given.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(after[tensor.name].astype(dtype), tensor.name))
    x = np.random.default_rng(2).standard_normal((1, 3)).astype(dtype)
    [expected] = ReferenceEvaluator(given).run(None, {"x": x})
    data, rest, draws = hollow(given, known)
    assert onnx.ModelProto.FromString(data) == given
    assert [draw.name for draw in draws] == ["a", "variances", "b"]
    assert len(rest) == len(data) - (600 + 300 + 2000) * np.dtype(dtype).itemsize
    # Filled by a process that knows nothing but the files.
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from benchmarks.gpu.seeds import Draw, restore\n"
        "draws = [Draw(**draw) for draw in json.loads(sys.argv[2])]\n"
        "print(restore(Path('whole'), Path('rest').read_bytes(), draws))\n"
        "assert not {'onnx', 'onnxruntime', 'torch', 'expertc'} & sys.modules.keys()"
    )
    (tmp_path / "rest").write_bytes(rest)
    told = json.dumps([draw.to_mapping() for draw in reversed(draws)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), told], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (tmp_path / "whole").read_bytes() == data
    assert done.stdout.strip() == hashlib.sha256(data).hexdigest()
    [found] = ReferenceEvaluator(onnx.load(tmp_path / "whole")).run(None, {"x": x})
    assert np.array_equal(found, expected)


def test_trained_weights_stay_where_they_are() -> None:
    given = network()
    whole = given.SerializeToString(deterministic=True)
    assert hollow(given, redraw(network())) == (whole, whole, ())


def test_images(tmp_path: Path) -> None:
    noise = images({"kind": "noise", "shape": [64, 3, 8, 8], "seed": 3}, tmp_path)
    assert (noise.shape, noise.dtype) == ((64, 3, 8, 8), np.float32)
    assert noise.std() == pytest.approx(1, abs=0.02)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    np.save(tmp_path / "p.npy", pixels)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = images({"kind": "photos", "file": "p.npy", "mean": mean, "std": std}, tmp_path)
    from expertc.card import Preprocess
    from expertc.runtime.preprocess import scaled

    assert np.array_equal(found, scaled(np.moveaxis(pixels, 1, -1), Preprocess((5, 4), 5, mean=mean, std=std)))


def test_the_machine_with_the_gpu_needs_little() -> None:
    """What runs there imports numpy and this package, none of its other requirements, and TensorRT only when it runs.

    Python 3.10 also needs tomli, which newer ones have inside.
    """
    absent = ("onnx", "onnxruntime", "PIL", "yaml", "rich", "click", "google", "torch", "tensorrt", "cuda", "pycuda")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({absent})\n"
        "sys.path.insert(0, sys.argv[1]); import benchmarks.gpu.run, benchmarks.gpu.table, benchmarks.gpu.__main__"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True)
