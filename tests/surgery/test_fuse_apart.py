"""What fusing leaves apart, or has to give back: branches that somebody else reads, and those that differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fused import (
    FORM,
    TRUNK,
    WIDTH,
    chain,
    conditional,
    counts,
    fused,
    head_gemm,
    optimised,
    pooled,
    scores,
    separate,
    tree,
    trunk,
)
from networks import Net, run
from onnx import TensorProto, helper

from expertc.graph import read_model
from expertc.surgery.fuse import FORMS, Fuse

GROUPED, DENSE, ONLY_HEADS = FORM["grouped"], FORM["dense"], FORM["heads"]
EACH_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def test_a_branch_that_others_see() -> None:
    """A branch's maps as graph outputs, all of them or one, and one that an If reads."""
    net = Net(17)
    x = trunk(net)
    ends = [chain(net, x, f"b{i}", norm=False) for i in range(3)]
    scores(net, [head_gemm(net, end) for end in ends])
    for end in ends:
        net.result(end, WIDTH, 8, 8)
    found = counts(fused(net.bytes(), GROUPED))
    assert (found["Conv"], found["Split"]) == (4, 1)
    net.outputs = net.outputs[:2]  # the others are siblings still
    found = counts(fused(net.bytes(), GROUPED))
    assert (found["Conv"], found.get("Split", 0)) == (1 + 2 + 2 + 1, 0)


def test_a_branch_that_a_subgraph_reads() -> None:
    net = Net(17)
    x = trunk(net)
    ends = [chain(net, x, f"b{i}", norm=False) for i in range(4)]
    parts = [head_gemm(net, end) for end in ends]
    chosen = conditional(net, parts[1], parts[3], "chosen")
    data = scores(net, [*parts, net.node("Reshape", chosen, net.constant([-1, 1]))]).bytes()
    found = counts(fused(data, GROUPED))
    assert found["Conv"] == 1 + 2 * (2 + 1)


def test_weights_that_branches_share() -> None:
    net = Net(17)
    x = trunk(net)
    shared, bias = net.weight(WIDTH, WIDTH, 3, 3), net.weight(WIDTH)
    parts = []
    for i in range(3):
        y = net.node("Relu", net.conv(x, TRUNK, WIDTH, name=f"b{i}"))
        parts.append(head_gemm(net, net.node("Conv", y, shared, bias, pads=[1] * 4)))
    assert counts(fused(scores(net, parts).bytes(), GROUPED))["Conv"] == 4


def test_half_precision() -> None:
    proto = separate(norm=False, head="conv").model()
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    result = fused(proto.SerializeToString(), GROUPED, rounding=2e-3, engines=(run, optimised))
    assert counts(result)["Conv"] == 4


@EACH_FORM
def test_what_has_no_siblings_stays(form: object) -> None:
    single = Net(17)
    x = trunk(single)
    scores(single, [head_gemm(single, chain(single, x, "b"), 5)], 5)
    assert not Fuse(form).run(read_model(single.bytes()))[1]
    assert not Fuse(form).run(read_model(separate(1).bytes()))[1]


def test_what_is_only_nearly_alike_stays() -> None:
    """A bound, a stride, a name of an operator, a rank: what no weight can take up."""
    net = Net(17)
    x = trunk(net)
    y = [net.conv(x, TRUNK, WIDTH, kernel=3, name=f"b{i}") for i in range(8)]
    y[0] = net.node("Clip", y[0], net.constant(-1.0), net.constant(1.0))
    y[1] = net.node("Clip", y[1], net.constant(-1.0), net.constant(2.0))
    y[2], y[3] = net.node("LeakyRelu", y[2], alpha=0.1), net.node("LeakyRelu", y[3], alpha=0.2)
    y[4], y[5] = net.node("Softmax", y[4], axis=2), net.node("Softmax", y[5], axis=3)
    y[6], y[7] = net.node("MaxPool", y[6], kernel_shape=[1, 1]), net.node("AveragePool", y[7], kernel_shape=[1, 1])
    data = scores(net, [head_gemm(net, net.conv(at, WIDTH, WIDTH, kernel=3)) for at in y]).bytes()
    assert not Fuse(DENSE).run(read_model(data))[1]
    assert not Fuse(GROUPED).run(read_model(data))[1]


def test_sums_of_branches_in_another_order() -> None:
    """a0 + b1, a1 + b0: the packs do not fit each other, and are too large to be put in order."""
    net = Net(17)
    x = trunk(net)
    a, b = (
        [net.conv(x, TRUNK, WIDTH, kernel=kernel, name=f"{name}{i}") for i in range(3)]
        for name, kernel in (("a", 1), ("b", 3))
    )
    sums = [net.node("Add", a[i], b[(i + 1) % 3]) for i in range(3)]
    data = scores(net, [head_gemm(net, net.node("Relu", at)) for at in sums]).bytes()
    found = counts(fused(data, GROUPED))
    assert (found["Conv"], found["Add"], found["Split"]) == (1 + 2 + 1, 3, 2)


def test_packs_of_different_length() -> None:
    """Two of four siblings read one tensor, two another; their partners all read the trunk."""
    net = Net(17)
    x = trunk(net)
    sources = [net.node("Softmax", net.conv(x, TRUNK, TRUNK, kernel=3, name=f"s{i}"), axis=1) for i in range(2)]
    a = [net.conv(sources[i // 2], TRUNK, WIDTH, name=f"a{i}") for i in range(4)]
    b = [net.conv(x, TRUNK, WIDTH, kernel=3, name=f"b{i}") for i in range(4)]
    data = scores(net, [head_gemm(net, net.node("Add", a[i], b[i])) for i in range(4)]).bytes()
    found = counts(fused(data, GROUPED))
    assert found["Conv"] == 1 + 1 + 2 + 1 + 1
    assert found["Add"] == 4


@pytest.mark.parametrize("kind", ["scalar", "view", "row", "mixed"])
def test_a_gain_per_branch(kind: str) -> None:
    """An input with a value per branch, split, and multiplied onto each: as a scalar, or after some moves."""
    net = Net(20)
    x = trunk(net)
    net.inputs.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [4]))
    gains = net.node("Split", "gain", out=[f"gain.{i}" for i in range(4)], axis=0, num_outputs=4)
    parts = []
    for i in range(4):
        y = chain(net, x, f"b{i}", norm=False)
        gain = gains[3 - i if kind == "mixed" else i]
        if kind in ("view", "mixed"):
            gain = net.node("Expand", net.node("Unsqueeze", gain, net.constant([1])), net.constant([1, WIDTH]))
            gain = net.node("Reshape", gain, net.constant([1, WIDTH, 1, 1]))
        if kind == "row":
            y = net.node("Mul", gain, net.node("Flatten", pooled(net, y)))
            parts.append(str(net.node("Gemm", y, net.weight(WIDTH, 1), net.weight(1))))
        else:
            parts.append(head_gemm(net, net.node("Relu", net.conv(net.node("Mul", y, gain), WIDTH, WIDTH))))
    found = counts(fused(scores(net, parts).bytes(), GROUPED))
    assert (found["Mul"], found.get("Split", 0), found.get("Concat", 0)) == (1, 0, 0)
    assert found["Conv"] == (4 if kind == "row" else 5)


def test_convnext_blocks_keep_their_branches() -> None:
    """LayerNorm and linear layers channels last, GRN: only what reads the trunk, and the heads, become wide."""
    net = Net(20)
    x = trunk(net)
    parts = []
    for i in range(3):
        y = net.conv(x, TRUNK, 4, kernel=3, name=f"b{i}")
        z = net.node("Transpose", net.conv(y, 4, 4, kernel=7, group=4), perm=[0, 2, 3, 1])
        z = net.node("LayerNormalization", z, net.weight(4), net.weight(4), axis=-1)
        z = net.node("Gelu", net.node("Add", net.node("MatMul", z, net.weight(4, 8)), net.weight(8)))
        norm = net.node("ReduceL2", z, net.constant([1, 2]), keepdims=1)
        share = net.node("Div", norm, net.node("Add", mean_last(net, norm), net.constant(np.float32(1e-6))))
        z = net.node("Add", net.node("Mul", net.node("Mul", z, share), net.weight(8)), z)
        z = net.node("Transpose", net.node("MatMul", z, net.weight(8, 4)), perm=[0, 3, 1, 2])
        parts.append(net.head(net.node("Add", y, z), 4, 1))
    data = scores(net, parts).bytes()
    before = counts(data)
    for form in (DENSE, ONLY_HEADS, GROUPED):
        found = counts(fused(data, form))
        assert {op: found[op] for op in ("LayerNormalization", "MatMul")} == {"LayerNormalization": 3, "MatMul": 6}
        assert found["Conv"] < before["Conv"] or found.get("Gemm", 0) < before["Gemm"]


def mean_last(net: Net, x: str) -> str:
    return str(net.node("ReduceMean", x, net.constant([-1]), keepdims=1))


HASHED = """
import sys
from expertc.graph import read_model, to_bytes
from expertc.surgery.fuse import FORMS, Fuse
from hashlib import sha256
model = read_model(sys.stdin.buffer.read())
print([sha256(to_bytes(Fuse(form).run(model)[0])).hexdigest() for form in FORMS])
"""


def test_the_bytes_do_not_depend_on_the_hash_seed() -> None:
    data = tree([2, 3, 1, 2, 3], [3, 0, 7, 2, 1, 5, 9, 10, 4, 8, 6]).bytes()
    found = set()
    for seed in ("0", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", HASHED], input=data, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_grouped_layers_that_read_one_tensor() -> None:
    """Groups of the trunk, or of what two branches share, cannot simply lie side by side."""
    net = Net(17)
    x = trunk(net)
    outer = [net.conv(x, TRUNK, 4, kernel=3, group=2, name=f"trunk{i}") for i in range(2)]
    parents = [net.node("Relu", net.conv(x, TRUNK, 4, name=f"p{i}")) for i in range(2)]
    inner = [net.conv(parents[i // 2], 4, 4, kernel=3, group=4, name=f"c{i}") for i in range(4)]
    data = scores(net, [net.head(y, 4, 1) for y in (*outer, *inner)]).bytes()
    found = [node for node in onnx.load_from_string(fused(data, GROUPED)).graph.node if node.op_type == "Conv"]
    groups = [next((a.i for a in node.attribute if a.name == "group"), 1) for node in found]
    assert groups.count(2) >= 2
    assert groups.count(4) >= 4


@pytest.mark.parametrize("kind", ["over channels", "of channels", "across images", "alone", "rows", "scaled", "one"])
def test_what_does_not_keep_the_channels_apart(kind: str) -> None:
    """Steps that only look like those that work on the wide tensor."""
    net = Net(17)
    x = trunk(net, WIDTH)
    parts = []
    pool = net.node("Flatten", pooled(net, x))
    for i in range(2):
        y = net.conv(x, WIDTH, WIDTH, kernel=3, name=f"b{i}")
        if kind == "over channels":
            y = net.node("Sub", y, net.node("ReduceMean", y, axes=[1, 2], keepdims=1))
        elif kind == "of channels":
            y = net.node("Mul", y, x)
        elif kind == "across images":
            y = net.node("Tanh", net.node("Reshape", y, net.constant([-1, WIDTH, 4, 8])))
            y = net.node("Reshape", y, net.constant([-1, WIDTH, 8, 8]))
        elif kind == "alone":
            y = net.node("Concat", y, axis=1)
        elif kind == "rows":
            top, bottom = net.node("Split", y, net.constant([4, 4]), axis=2, out=[f"t{i}", f"u{i}"])
            y = net.node("Add", net.node("Relu", top), net.node("Relu", bottom))
        if kind == "scaled":
            flat = net.node("Flatten", pooled(net, net.node("Softmax", y, axis=1)))
            parts.append(str(net.node("Gemm", flat, net.weight(WIDTH, 1), net.weight(1), alpha=0.5)))
        elif kind == "one":
            parts.append(str(net.node("Gemm", pool, net.weight(WIDTH, 1), net.weight(1))))
        else:
            parts.append(head_gemm(net, y))
    data = scores(net, parts).bytes()
    for form in (GROUPED, ONLY_HEADS):
        fused(data, form)
