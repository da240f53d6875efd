"""A network with one of each kind of layer, ranges of it, and what ONNX Runtime makes of a quantised one."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from networks import Array, Net

from expertc.backends.cpu import open_session
from expertc.graph import Model, read_model, to_bytes
from expertc.observe import Range, observe

CLASSES = 5
one_thread = partial(open_session, threads=1)


def mixed(*, opset: int = 17, batch: int | str = "batch") -> Net:
    """Dense, depthwise and grouped convolutions, Relu, Clip, a residual sum, a Concat, pools, a Gemm."""
    net = Net(opset, batch=batch)
    x = net.node("Relu", net.conv(net.image(3, 16, 16), 3, 16, kernel=3, name="first"), out="relu")
    deep = net.conv(x, 16, 16, kernel=3, group=16, name="depthwise")
    deep = net.node("Clip", deep, net.constant(0.0, "least"), net.constant(6.0, "most"), out="clip")
    wide = net.conv(deep, 16, 16, kernel=3, group=4, name="grouped", bias=False)
    total = net.node("Relu", net.node("Add", wide, x, out="sum"), out="total")
    left, right = (net.node("Relu", net.conv(total, 16, 8, name=name)) for name in ("left", "right"))
    both = net.node("Concat", left, right, axis=1, out="both")
    pooled = net.node("MaxPool", both, kernel_shape=[2, 2], strides=[2, 2], out="pooled")
    net.result(net.head(pooled, 16, CLASSES, name="scores"), CLASSES)
    return net


def images(count: int = 16, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16), np.float32)


def quantisable(net: Net | None = None) -> tuple[Model, dict[str, Range]]:
    """The network as a model, and what its tensors hold on ``images()``."""
    model = read_model((net or mixed()).bytes())
    return model, observe(model, [images()], open_session=one_thread)


def optimised(model: Model) -> onnx.ModelProto:
    """What ONNX Runtime runs."""
    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def kernels(model: Model) -> Counter[str]:
    """The operators that ONNX Runtime runs."""
    return Counter(node.op_type for node in optimised(model).graph.node)


def scores(model: Model, x: Array, *, optimise: bool = True) -> Array:
    session = one_thread(to_bytes(model), optimise=optimise)
    return session.run(x)["scores"]
