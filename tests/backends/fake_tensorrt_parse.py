"""What the fakes play of TensorRT's network and its parser. See ``fake_tensorrt``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, shape_inference

_TYPES = {
    TensorProto.FLOAT: "FLOAT", TensorProto.DOUBLE: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8", TensorProto.INT32: "INT32", TensorProto.BOOL: "BOOL", TensorProto.INT64: "INT64",
    TensorProto.BFLOAT16: "BF16",
}  # fmt: skip
_OLD_TYPES = {"INT64": "INT32", "BF16": "FLOAT"}  # where a release does not have the type


UNREAD_8 = (
    'In node {at} (importFallbackPluginImporter): UNSUPPORTED_NODE: Assertion failed: creator && "Plugin not found, '
    'are the plugin name, version, and namespace correct?"'
)
UNREAD = (
    "In node {at} with name: {name} and operator: {op} (checkFallbackPluginImporter): INVALID_NODE: creator && "
    '"Plugin not found, are the plugin name, version, and namespace correct?"'
)


class Tensor:
    """``ITensor``: a name, a shape with -1 for what is left open, a ``DataType``."""

    def __init__(self, trt: Any, name: str, shape: Sequence[int], kind: str) -> None:
        have = trt.DataType.__members__
        self.name, self.shape = name, tuple(shape)
        self.dtype = have[kind if kind in have else _OLD_TYPES[kind]]


class Layer:
    """``ILayer``, one for each ONNX node."""

    def __init__(self, name: str, op: str, outputs: list[Tensor]) -> None:
        self.name, self.op, self._outputs = name, op, outputs
        self.num_outputs = len(outputs)
        self.type = SimpleNamespace(name={"QuantizeLinear": "QUANTIZE"}.get(op, op.upper()))

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]


class ParserError:
    """``IParserError``, its text as the real ones write it."""

    def __init__(self, text: str, node: int) -> None:
        self._text, self._node = text, node

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._node


class INetworkDefinition:
    """A network, filled by the parser; ``_typed`` if it is strongly typed."""

    _trt: Any
    name = ""

    def __init__(self, flags: int) -> None:
        known = self._trt.NetworkDefinitionCreationFlag.__members__
        if flags >> len(known):
            raise ValueError(f"{flags} has bits that are no flags")
        on = {name for name, flag in known.items() if flags >> int(flag) & 1}
        self._typed = "STRONGLY_TYPED" in on or "FP16" not in self._trt.BuilderFlag.__members__
        self._explicit = "EXPLICIT_BATCH" in on or "EXPLICIT_PRECISION" not in known
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._layers: list[Layer] = []
        self._model: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> Layer:
        return self._layers[index]


class OnnxParser:
    """Reads an ONNX model with ``onnx``; the operators of ``Scene.unread`` are unknown to it."""

    _trt: Any

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, logger, []
        self._flags: set[Any] = set()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        return self._read(onnx.load_from_string, bytes(model))

    def parse_from_file(self, model: str) -> bool:
        if not Path(model).is_file():
            return self._refuse(f"Could not open file {model}", -1)
        return self._read(onnx.load, model)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def set_flag(self, flag: Any) -> None:
        if not isinstance(flag, self._trt.OnnxParserFlag):
            raise TypeError("incompatible function arguments")
        self._flags.add(flag)

    def _refuse(self, text: str, node: int) -> bool:
        self._errors.append(ParserError(text, node))
        self._logger.log(self._trt.ILogger.ERROR, f"ModelImporter.cpp:740: {text}")
        return False

    def _read(self, load: Callable[[Any], onnx.ModelProto], source: Any) -> bool:
        try:
            model = load(source)
        except DecodeError:
            return self._refuse("Failed to parse the ONNX model.", -1)
        if not self._network._explicit:
            return self._refuse("This version of the ONNX parser only supports networks with an explicit batch", -1)
        for at, node in enumerate(model.graph.node):
            if node.op_type in self._trt.scene.unread:
                text = UNREAD_8 if self._trt.__version__.startswith("8.") else UNREAD
                return self._refuse(text.format(at=at, name=node.name, op=node.op_type), at)
        graph = shape_inference.infer_shapes(model).graph
        held = {tensor.name for tensor in graph.initializer}
        known = {value.name: self._tensor(value) for value in (*graph.value_info, *graph.input, *graph.output)}
        self._network._model = model
        self._network._inputs = [known[value.name] for value in graph.input if value.name not in held]
        self._network._outputs = [known[value.name] for value in graph.output]
        self._network._layers = [
            Layer(node.name or node.output[0], node.op_type, [known[name] for name in node.output if name in known])
            for node in graph.node
        ]
        return True

    def _tensor(self, value: Any) -> Tensor:
        kind = value.type.tensor_type
        return Tensor(self._trt, value.name, [dim.dim_value or -1 for dim in kind.shape.dim], _TYPES[kind.elem_type])
