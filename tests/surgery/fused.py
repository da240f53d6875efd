"""What every fused model has to stand, and the networks that are fused: branches of all kinds on one trunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
from networks import Array, Net, feeds, reference, run
from onnx import helper

from expertc.graph import read_model, to_bytes
from expertc.surgery.fuse import FORMS, Form, Fuse

FORM = {form.name: form for form in FORMS}
ROUNDING = 1e-5  # of the largest magnitude
TRUNK, WIDTH = 4, 3


def optimised(model: bytes, inputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs by ONNX Runtime with everything it can do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))


def fused(
    data: bytes,
    form: Form,
    *,
    rounding: float = ROUNDING,
    engines: Sequence[Callable[[bytes, dict[str, Array]], dict[str, Array]]] = (run, optimised, reference),
    batch: int = 2,
) -> bytes:
    """Fuse; the result is a model that says the same, the same at each time, and stays as it is at the next."""
    model, changed = Fuse(form).run(read_model(data))
    result = to_bytes(model)
    if not changed:
        assert result == to_bytes(read_model(data))
        return result
    proto, before = onnx.load_from_string(result), onnx.load_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    assert list(proto.graph.input) == list(before.graph.input)
    assert list(proto.graph.output) == list(before.graph.output)
    inputs = feeds(data, batch)
    for engine in engines:
        wanted, got = engine(data, inputs), engine(result, inputs)
        for name, values in wanted.items():
            assert (got[name].shape, got[name].dtype) == (values.shape, values.dtype)
            expected, found = values.astype(np.float64), got[name].astype(np.float64)
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=rounding * float(np.abs(expected).max()), err_msg=name
            )
    assert to_bytes(Fuse(form).run(read_model(data))[0]) == result
    for again in (model, read_model(result)):
        assert to_bytes(Fuse(form).run(again)[0]) == result
    return result


def counts(model: bytes) -> dict[str, int]:
    """How many nodes of each operator a model has."""
    return dict(Counter(node.op_type for node in onnx.load_from_string(model).graph.node))


def trunk(net: Net, width: int = TRUNK) -> str:
    return str(net.node("Relu", net.conv(net.image(3, 8, 8), 3, width, kernel=3, name="trunk")))


def scores(net: Net, parts: Sequence[str], classes: int = 1, order: Sequence[int] | None = None) -> Net:
    """The parts' rows in this order, as the graph's output."""
    chosen = [parts[i] for i in order] if order is not None else list(parts)
    net.result(net.node("Concat", *chosen, out="scores", axis=1), classes * len(chosen))
    return net


def chain(net: Net, x: str, name: str, *, cin: int = TRUNK, norm: bool = True) -> str:
    """conv-norm-relu, pointwise and then 3x3."""
    for step, kernel in enumerate((1, 3)):
        x = net.conv(x, cin, WIDTH, kernel=kernel, bias=not norm, name=f"{name}.{step}")
        x = net.node("Relu", net.norm(x, WIDTH, name=f"{name}.{step}.norm") if norm else x)
        cin = WIDTH
    return x


def residual(net: Net, x: str, name: str, *, cin: int = TRUNK, stride: int = 2) -> str:
    """A bottleneck with a projection."""
    y = net.node("Relu", net.conv(x, cin, 2, name=f"{name}.1"))
    y = net.node("Conv", y, net.weight(2, 2, 3, 3), pads=[1] * 4, strides=[stride] * 2)
    y = net.conv(net.node("Relu", y), 2, WIDTH, name=f"{name}.3")
    z = net.node("Conv", x, net.weight(WIDTH, cin, 1, 1), net.weight(WIDTH), strides=[stride] * 2)
    return str(net.node("Relu", net.node("Add", y, z)))


def pooled(net: Net, x: str) -> str:
    return str(net.node("GlobalAveragePool", x))


def mean(net: Net, x: str, *, keep: int = 1) -> str:
    if net.opset < 18:
        return str(net.node("ReduceMean", x, axes=[2, 3], keepdims=keep))
    return str(net.node("ReduceMean", x, net.constant([2, 3]), keepdims=keep))


def head_gemm(net: Net, x: str, classes: int = 1) -> str:
    return net.head(x, WIDTH, classes)


def head_gemm_unturned(net: Net, x: str, classes: int = 1) -> str:
    flat = net.node("Flatten", pooled(net, x), axis=1)
    return str(net.node("Gemm", flat, net.weight(WIDTH, classes), net.weight(1, classes)))


def head_conv(net: Net, x: str, classes: int = 1) -> str:
    return str(net.node("Flatten", net.conv(mean(net, x), WIDTH, classes), axis=1))


def head_matmul(net: Net, x: str, classes: int = 1) -> str:
    product = net.node("MatMul", mean(net, x, keep=0), net.weight(WIDTH, classes))
    return str(net.node("Add", product, net.weight(classes)))


def head_reshape(net: Net, x: str, classes: int = 1) -> str:
    return str(net.node("Reshape", net.conv(pooled(net, x), WIDTH, classes), net.constant([-1, classes])))


HEADS = {
    "gemm": head_gemm,
    "gemm unturned": head_gemm_unturned,
    "conv": head_conv,
    "matmul and add": head_matmul,
    "reshape": head_reshape,
}


def conditional(net: Net, tensor: str, other: str, name: str) -> str:
    """``tensor`` if the image is positive on average, else ``other``: both are read from inside an If."""
    total = net.node("ReduceMean", "image", keepdims=0)
    positive = net.node("Greater", total, net.constant(np.float32(0)))
    branches = []
    for held in (tensor, other):
        value = helper.make_tensor_value_info(f"{held}.held", 1, None)
        inner = helper.make_node("Identity", [held], [f"{held}.held"])
        branches.append(helper.make_graph([inner], held, [], [value]))
    return str(net.node("If", positive, out=name, then_branch=branches[0], else_branch=branches[1]))


def separate(
    branches: int = 3, opset: int = 17, *, head: str = "gemm", norm: bool = True, classes: int = 1, **options: object
) -> Net:
    net = Net(opset, **options)  # type: ignore[arg-type]
    x = trunk(net)
    parts = [HEADS[head](net, chain(net, x, f"b{i}", norm=norm), classes) for i in range(branches)]
    return scores(net, parts, classes)


def tree(children: list[int], order: list[int] | None = None, **options: object) -> Net:
    """A block per parent, a block and a class per child."""
    net = Net(17, **options)  # type: ignore[arg-type]
    x = trunk(net)
    parts = []
    for i, count in enumerate(children):
        y = chain(net, x, f"p{i}", norm=False)
        parts += [head_gemm(net, chain(net, y, f"p{i}.{k}", cin=WIDTH, norm=False)) for k in range(count)]
    return scores(net, parts, order=order)
