"""The pass: Q/DQ nodes around the layers of a folded expert, written by ``onnxruntime.quantization``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ...errors import UnsupportedError, UsageError
from ...graph import Constant, Model, Node, Tensor, fresh_name, from_proto, is_large, to_proto
from ...text import shown
from .flavours import LAYERS, Flavour
from .pairs import fuse_sums, keep_wide, read_before
from .parser import require_parser_rules
from .ranges import Interval, Ranges, intervals, join
from .region import layers, region

OLDEST_OPSET = 13
"""The first in which QuantizeLinear has an axis: a scale per channel."""

# Operators that say that somebody has quantised the model before.
_INTEGER = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_PREPARED = ("onnx.infer", "onnxruntime.quant")  # tells the quantiser that types are declared: it infers none itself

# What onnxruntime.quantization calls what it makes of a tensor.
_GIVEN = re.compile(
    r"(.+?)(?:(?:_quantized)?_(?:scale|zero_point)|_quantized|_QuantizeLinear_(?:In|Out)put(?:_\d+)?"
    r"|_DequantizeLinear_Output(?:_\d+)?)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Quantise:
    """The quantise pass.

    Args:
        ranges: what every fp32 tensor of the model holds on calibration images (``expertc.observe``).
        flavour: whose Q/DQ.
        exclude: layers that stay fp32, by the names that ``layers`` gives.
        percentile: clip activations at this one of what was observed; None covers all that was seen (min-max).

    ``run`` raises ``UsageError`` for a model that is quantised already or has nothing to quantise, ``DataError`` for
    ranges that do not fit it, and ``UnsupportedError`` for what cannot be quantised: an older opset than 13, subgraphs,
    more than 1.5 GB of weights, names that the quantiser would give.
    """

    ranges: Ranges
    flavour: Flavour
    exclude: frozenset[str] = frozenset()
    percentile: float | None = None
    name: str = "quantise"
    requires: str = "fp32, folded, shapes inferred"
    ensures: str = "layers that are not excluded, and what lies between them, compute in 8-bit integers"

    def run(self, model: Model) -> tuple[Model, bool]:
        """Quantise; the opset, the metadata and the names of inputs, outputs and nodes stay as they are."""
        refuse_unfit(model, self.flavour)
        chosen = frozenset(layers(model, self.flavour)) - self.exclude
        if not chosen:
            return model, False
        model = _prepared(model)
        positions = region(model, self.flavour, chosen)
        found = self._intervals(model, positions)
        written = from_proto(_insert(model, positions, found, self.flavour), "The quantised expert")
        if self.flavour.paired:
            written = fuse_sums(read_before(written))
            require_parser_rules(written)
        else:
            written = keep_wide(written)
        return replace(written, producer=model.producer, metadata=model.metadata), True

    def _intervals(self, model: Model, positions: Sequence[int]) -> dict[str, Interval]:
        """Of what the nodes at ``positions`` read and make, as far as it is computed in floating point."""
        nodes = [model.nodes[at] for at in positions]
        computed = [t.name for n in nodes for t in (*n.inputs, *n.outputs) if t.name and not isinstance(t, Constant)]
        floats = [name for name in dict.fromkeys(computed) if model.types.get(name) == onnx.TensorProto.FLOAT]
        found = intervals(self.ranges, floats, self.percentile)
        join(found, model, nodes)
        return found


def refuse_unfit(model: Model, flavour: Flavour) -> None:
    """Raise what ``Quantise`` raises for a model that it cannot quantise."""
    if any(node.op in _INTEGER or node.op.startswith("QLinear") for node in model.nodes):
        raise UsageError(
            "The expert is quantised already.", "Build it in the precision it has, or from its fp32 source."
        )
    if not layers(model, flavour):
        raise UsageError(
            f"The expert has no {', '.join(sorted(LAYERS))} with constant fp32 weights: there is nothing to quantise.",
            "Build it without --precision int8.",
        )
    if model.opset < OLDEST_OPSET:
        raise UnsupportedError(
            f"The expert is of opset {model.opset}: scales per channel need {OLDEST_OPSET}.",
            f"Export the full model with opset {OLDEST_OPSET} or newer.",
        )
    if any(node.has_graphs for node in model.nodes):
        raise UnsupportedError("The expert has If or Loop nodes, which int8 cannot reach into.", "Build it in fp32.")
    tensors = {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}
    for name in sorted(tensors):
        given = _GIVEN.fullmatch(name)
        if given is not None and given[1] in tensors:  # the quantiser would take one for the other
            raise UnsupportedError(
                f"The tensor {shown(name)} is called as the scales or integers of {shown(given[1])} would be.",
                "Export the full model with another name for it.",
            )
    if is_large(model):
        raise UnsupportedError("The expert has too many weights for int8 to be written.", "Build it in fp32.")


def _prepared(model: Model) -> Model:
    """What integer kernels and parsers want said: ``kernel_shape``, and weights that no two nodes share."""
    readers = Counter(tensor.name for node in model.nodes for tensor in node.inputs if isinstance(tensor, Constant))
    taken = {tensor.name for node in model.nodes for tensor in (*node.inputs, *node.outputs)}

    def own(tensor: Tensor) -> Tensor:
        if isinstance(tensor, Constant) and tensor.kind == onnx.TensorProto.FLOAT and readers[tensor.name] > 1:
            return tensor.copy(fresh_name(tensor.name, taken))
        return tensor

    nodes = []
    for node in model.nodes:
        inputs, attrs = [own(tensor) for tensor in node.inputs], node.attrs
        if node.op == "Conv" and isinstance(inputs[1], Constant):
            attrs = {**attrs, "kernel_shape": list(inputs[1].shape[2:])}
        if node.op in LAYERS:  # a bias that is left out is not named ""
            inputs = [tensor for tensor in inputs if tensor.name]
        nodes.append(Node(node.op, node.name, attrs, inputs, node.outputs, node.domain, like=node))
    return replace(model, graph=replace(model.graph, nodes=nodes))


def _insert(model: Model, positions: Sequence[int], found: Mapping[str, Interval], flavour: Flavour) -> onnx.ModelProto:
    """Let ONNX Runtime's quantiser write Q/DQ around the nodes at ``positions``; it knows nodes by unique names."""
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData

    proto = to_proto(model)
    names = {str(at): node.name for at, node in enumerate(model.nodes)}
    for unique, node in zip(names, proto.graph.node, strict=True):
        node.name = unique
    made = [(name, model.types[name]) for name in model.producers if name in model.types]
    proto.graph.value_info.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in made)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict([_PREPARED]))
    operators = list(flavour.operators)
    quantiser = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=flavour.reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if flavour.symmetric else QuantType.QUInt8,
        tensors_range={
            name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
            for name, (low, high) in found.items()
        },
        nodes_to_quantize=[str(at) for at in positions],
        nodes_to_exclude=[],
        op_types_to_quantize=operators,
        extra_options={
            "ActivationSymmetric": flavour.symmetric,
            "AddQDQPairToWeight": flavour.paired,
            "DedicatedQDQPair": flavour.paired,
            "QuantizeBias": not flavour.paired,
            "OpTypesToExcludeOutputQuantization": operators if flavour.paired else sorted(flavour.wide),
        },
    )
    quantised = quantiser.quantize_model()
    quantiser.model.topological_sort()
    for node in quantised.graph.node:
        node.name = names.get(node.name, node.name)
    del quantised.graph.value_info[:]
    return quantised
