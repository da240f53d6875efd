"""Tiny networks for tests, built node by node with ``onnx.helper``; no torch.

Weights are random and no two of them are equal, so a test can tell from a value which weights a file still holds.
Two oracles that are not ours run them: ONNX Runtime without optimisations, and ONNX's own reference evaluator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from expertc.card import Card, Output
from expertc.graph import read_model, to_bytes
from expertc.surgery.prune import Cut, prune
from expertc.taxonomy import Taxonomy

Array = np.ndarray[Any, Any]
Shape = Sequence[int | str | None]

IMAGE = (3, 4, 4)


class Net:
    """A graph in the making; methods return tensor names, ``model`` the finished protobuf."""

    def __init__(self, opset: int = 20, *, seed: int = 0, batch: int | str = "batch", ir: int | None = None) -> None:
        self.opset, self.batch = opset, batch
        self.ir = ir or (8 if opset <= 17 else 10)
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.domains: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.made = 0

    def fresh(self, base: str) -> str:
        """A tensor name that is not in use."""
        self.made += 1
        return f"{base}_{self.made}"

    def image(self, *shape: int, name: str = "image", dtype: int = TensorProto.FLOAT) -> str:
        """A graph input ``[batch, *shape]`` (``IMAGE`` by default)."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, [self.batch, *(shape or IMAGE)]))
        return name

    def weight(self, *shape: int, name: str = "w", dtype: Any = np.float32, positive: bool = False) -> str:
        """An initializer of different random values, none of them near zero; ``positive`` for variances."""
        size = int(np.prod(shape, dtype=np.int64))
        values = self.random.permutation(size).astype(np.float64) / max(1, size) + 0.5 + self.random.random() / 10
        signs = 1 if positive else self.random.choice((-1, 1), size)
        return self.constant((values * signs).reshape(shape).astype(dtype), name)

    def constant(self, values: Any, name: str = "const") -> str:
        """An initializer; Python integers become int64, floats float32."""
        array = np.asarray(values)
        if not isinstance(values, np.ndarray):
            array = array.astype(
                np.float32 if array.dtype.kind == "f" else np.int64 if array.dtype.kind == "i" else bool
            )
        name = name if name not in self.initializers else self.fresh(name)
        self.initializers[name] = array
        return name

    def node(self, op: str, *inputs: str, out: str | Sequence[str] = "", domain: str = "", **attributes: Any) -> Any:
        """Add a node; returns the name of its output, or the list of names if ``out`` is a list."""
        outputs = [out or self.fresh(op.lower())] if isinstance(out, str) else list(out)
        made = helper.make_node(op, list(inputs), outputs, name=f"{op}:{outputs[0]}", domain=domain, **attributes)
        self.nodes.append(made)
        return outputs[0] if isinstance(out, str) else outputs

    def conv(
        self, x: str, cin: int, cout: int, *, kernel: int = 1, group: int = 1, bias: bool = True, name: str = ""
    ) -> str:
        """A convolution that keeps the size of its input, with weights of its own."""
        name = name or self.fresh("conv")
        inputs = [x, self.weight(cout, cin // group, kernel, kernel, name=f"{name}.w")]
        inputs += [self.weight(cout, name=f"{name}.b")] if bias else []
        return str(self.node("Conv", *inputs, out=name, group=group, pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2))

    def norm(self, x: str, channels: int, *, name: str = "") -> str:
        """A batch norm in inference form."""
        name = name or self.fresh("norm")
        vectors = [
            self.weight(channels, name=f"{name}.{kind}", positive=kind == "var") for kind in ("g", "b", "mean", "var")
        ]
        return str(self.node("BatchNormalization", x, *vectors, out=name))

    def head(self, x: str, cin: int, cout: int, *, name: str = "") -> str:
        """Global average pool, flatten, linear: scores ``[batch, cout]``."""
        name = name or self.fresh("head")
        flat = self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)
        weights = (self.weight(cout, cin, name=f"{name}.w"), self.weight(cout, name=f"{name}.b"))
        return str(self.node("Gemm", flat, *weights, out=name, transB=1))

    def result(self, tensor: str, *shape: int | str | None, name: str = "", dtype: int = TensorProto.FLOAT) -> str:
        """Declare ``tensor`` a graph output of ``[batch, *shape]``; under another ``name`` if one is given."""
        if name and name != tensor:
            tensor = self.node("Identity", tensor, out=name)
        self.outputs.append(helper.make_tensor_value_info(tensor, dtype, [self.batch, *shape]))
        return tensor

    def model(self, check: bool = True) -> onnx.ModelProto:
        """The finished model, checked by ``onnx.checker``."""
        tensors = [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in self.initializers.items()]
        graph = helper.make_graph(self.nodes, "tiny", self.inputs, self.outputs, tensors)
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=self.ir, producer_name="networks")
        helper.set_model_props(proto, self.metadata)
        if check:
            onnx.checker.check_model(proto, full_check=not self.domains)
        return proto

    def bytes(self) -> bytes:
        """The finished model, serialised."""
        return bytes(self.model().SerializeToString())


def card(classes: int | Sequence[str] | Taxonomy, *outputs: Output, image: str = "image") -> Card:
    """A card over ``classes`` (a number, labels or a taxonomy); its output is the logits called "scores" by default."""
    if not isinstance(classes, Taxonomy):
        labels = [f"class-{i}" for i in range(classes)] if isinstance(classes, int) else classes
        classes = Taxonomy.flat(labels, "tiny")
    return Card("tiny", classes, outputs or (Output("scores"),), image)


def cut(model: bytes | onnx.ModelProto, card: Card, indices: Iterable[int]) -> tuple[bytes, Cut]:
    """Prune; returns the expert's bytes too. They pass ``onnx.checker`` and strict shape inference."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    done = prune(read_model(data), card, tuple(indices))
    result = to_bytes(done.model)
    proto = onnx.load_from_string(result)
    custom = any(opset.domain not in ("", "ai.onnx") for opset in proto.opset_import)
    onnx.checker.check_model(proto, full_check=not custom)
    return result, done


def feeds(model: bytes | onnx.ModelProto, batch: int = 2, seed: int = 0) -> dict[str, Array]:
    """Random inputs for every graph input; symbols are ``batch``."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    random, found = np.random.default_rng(seed), {}
    held = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name in held:
            continue
        shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        drawn = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        found[value.name] = drawn.astype(dtype)
    return found


def run(model: bytes | onnx.ModelProto, inputs: dict[str, Array] | None = None) -> dict[str, Array]:
    """Outputs by ONNX Runtime, one thread, nothing optimised."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    values = session.run(None, feeds(data) if inputs is None else inputs)
    return dict(zip((output.name for output in session.get_outputs()), values, strict=True))


def reference(model: bytes | onnx.ModelProto, inputs: dict[str, Array] | None = None) -> dict[str, Array]:
    """Outputs by ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, ReferenceEvaluator(proto).run(None, inputs or feeds(proto)), strict=True))


def weights(model: bytes | onnx.ModelProto) -> dict[str, Array]:
    """Initializers by name."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def operators(model: bytes | onnx.ModelProto) -> list[str]:
    """The operators of the nodes, in order."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    return [node.op_type for node in proto.graph.node]


def rows(values: Array, indices: Sequence[int], axis: int = 1) -> Array:
    """The rows of the kept classes."""
    return np.take(values, list(indices), axis=axis)


def poisoned(full: bytes, expert: bytes) -> onnx.ModelProto:
    """The full model with NaN wherever a float weight's value does not occur in the expert."""
    proto = onnx.load_from_string(full)
    held = [values.reshape(-1) for values in weights(expert).values() if values.dtype.kind == "f"]
    known = np.concatenate([*held, np.zeros(0, np.float32)])
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            changed = np.where(np.isin(values, known), values, np.nan).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return proto


def perturbed(model: bytes, name: str, at: tuple[int, ...], scale: float, shift: float) -> onnx.ModelProto:
    """The model with one weight w changed to ``w * scale + shift``."""
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values[at] = values[at] * scale + shift
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return proto
