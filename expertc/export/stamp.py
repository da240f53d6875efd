"""Exporting a network of many equal branches: each kind of part goes through torch once and is stamped per branch.

torch's exporter takes a second per branch or so; a thousand classes are a thousand branches. Parts of one kind differ
in their weights alone, so the graph of one is the graph of all, under other names.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from ..controls import GAIN
from ..errors import ModelError
from ..graph import Constant
from ..graph.sanitise import NODE_METADATA
from ..graph.stream import Lean, outline
from ..zoo.parts import IMAGE, Part

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]  # without the batch
Exporter = Callable[[nn.Module, Sequence[Shape], Sequence[int]], onnx.ModelProto]
"""Exports a module to inputs in0, in1, ... and ``out``.

It reads tensors of these shapes, with a symbolic batch, then vectors of these lengths, without.
"""

READS, MAKES = "in{}", "out"


@dataclass(frozen=True)
class Source:
    """Where an initializer comes from: a tensor of the part's state dict, turned over first if ``turned``."""

    name: str
    shape: Shape
    turned: bool = False

    def values(self, state: Mapping[str, Tensor]) -> Array:
        """The initializer of a part with this state: a view, if it is in memory."""
        tensor = state[self.name].detach().cpu()
        return (tensor.mT if self.turned else tensor).reshape(self.shape).numpy()


@dataclass(frozen=True)
class Template:
    """One kind of part: its graph, where the initializers that are a part's own come from, and what it makes."""

    proto: onnx.ModelProto
    own: Mapping[str, Source]
    shape: Shape


def stamped(network: Any, image: Shape, output: str, branches: int | None, exporter: Exporter) -> Lean:
    """The model of a network in parts (``parts()``, ``logits()``), its logits concatenated as ``output``.

    ``image`` is the input's shape without the batch; ``branches`` the length of the input ``gain``, None for a network
    that is exported without. Raises ``ModelError`` if a part cannot be exported.
    """
    proto = onnx.ModelProto()
    weights: dict[str, Constant] = {}
    graph = proto.graph
    graph.name = "network"
    graph.input.append(helper.make_tensor_value_info(IMAGE, onnx.TensorProto.FLOAT, ["batch", *image]))
    gains = [] if branches is None else [f"{GAIN}.{i}" for i in range(branches)]
    if gains:
        graph.input.append(helper.make_tensor_value_info(GAIN, onnx.TensorProto.FLOAT, [len(gains)]))
        graph.node.append(
            helper.make_node("Split", [GAIN], gains, name=f"{GAIN}.split", axis=0, num_outputs=len(gains))
        )
    shapes: dict[str, Shape] = {IMAGE: image}
    templates: dict[tuple[object, ...], tuple[int, Template]] = {}
    for part in network.parts():
        reads = [shapes[name] for name in part.reads]
        gain = part.gain if gains else None
        key = (repr(part.module), tuple(reads), gain is None)
        if key not in templates:
            found = _template(part.module, reads, [] if gain is None else [1], exporter)
            templates[key] = (len(templates), found)
            _constants(graph, found, len(templates) - 1)
            if not proto.opset_import:
                proto.opset_import.extend(found.proto.opset_import)
                proto.ir_version = found.proto.ir_version
                proto.producer_name, proto.producer_version = found.proto.producer_name, found.proto.producer_version
        number, template = templates[key]
        weights |= _stamp(graph, template, number, part, [*part.reads, *([] if gain is None else [gains[gain]])])
        shapes[part.name] = template.shape
    logits = network.logits()
    graph.node.append(helper.make_node("Concat", logits, [output], name=output, axis=1))
    total = sum(shapes[name][0] for name in logits)
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", total]))
    return Lean(proto, weights)


def _template(module: nn.Module, reads: Sequence[Shape], vectors: Sequence[int], exporter: Exporter) -> Template:
    """Export one part of a kind.

    torch's exporter writes some weights turned over or in another shape. They are known by their values, which are
    drawn anew for this, so that no two weights are alike.
    """
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    state = module.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    proto = exporter(module, reads, vectors)
    own = {}
    for initializer in proto.graph.initializer:
        source = _source(initializer, state)
        if source is not None:
            own[initializer.name] = source
        elif initializer.data_type == onnx.TensorProto.FLOAT and np.prod(initializer.dims) > 1:
            # It would be the first branch's in all of them.
            raise ModelError(f"torch computed '{initializer.name}' out of a branch's weights.", "Report the network.")
    dims = proto.graph.output[0].type.tensor_type.shape.dim
    return Template(proto, own, tuple(int(dim.dim_value) for dim in dims[1:]))


def _source(initializer: onnx.TensorProto, state: Mapping[str, Tensor]) -> Source | None:
    shape = tuple(initializer.dims)
    if initializer.name in state:
        return Source(initializer.name, shape)
    values = numpy_helper.to_array(initializer)
    for name, tensor in state.items():
        if tensor.numel() == values.size > 1:
            for turned in (False, True) if tensor.dim() > 1 else (False,):
                source = Source(name, shape, turned)
                if np.array_equal(source.values(state), values):
                    return source
    return None


def _constants(graph: onnx.GraphProto, template: Template, number: int) -> None:
    """What the exporter made, shapes and scalars, stands in the graph once for all branches of a kind."""
    for tensor in template.proto.graph.initializer:
        if tensor.name not in template.own:
            shared = graph.initializer.add()
            shared.CopyFrom(tensor)
            shared.name = f"kind{number}.{tensor.name}"


def _stamp(
    graph: onnx.GraphProto, template: Template, number: int, part: Part, reads: Sequence[str]
) -> dict[str, Constant]:
    """Add the part to ``graph``; returns the values of its initializers, which are outlines there."""
    weights = {}
    names = {READS.format(i): name for i, name in enumerate(reads)} | {MAKES: part.name}
    state: Mapping[str, Tensor] = part.module.state_dict()
    for tensor in template.proto.graph.initializer:
        if tensor.name in template.own:
            source = template.own[tensor.name]
            written = source.name if source.name == tensor.name else f"{source.name}.{tensor.name}"
            names[tensor.name] = f"{part.name}.{written}"
            constant = Constant(names[tensor.name], source.values(state))
            weights[constant.name] = constant
            graph.initializer.append(outline(constant))
        else:
            names[tensor.name] = f"kind{number}.{tensor.name}"
    for value in template.proto.graph.value_info:
        known = graph.value_info.add()
        known.CopyFrom(value)
        known.name = f"{part.name}/{value.name}"
    for node in template.proto.graph.node:
        made = graph.node.add()
        made.CopyFrom(node)
        made.name = f"{part.name}/{node.name}"
        for entry in made.metadata_props:
            if entry.key in NODE_METADATA:
                scopes = [f"{part.name}.{scope}".rstrip(".") for scope in ast.literal_eval(entry.value)]
                entry.value = str(["", *scopes])
        for field in (made.input, made.output):
            for at, name in enumerate(field):
                if name:
                    field[at] = names.get(name, f"{part.name}/{name}")
    return weights
