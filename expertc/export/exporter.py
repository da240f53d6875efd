"""torch module → full model: one ONNX file with its card, checked against torch."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn

from .. import atomic
from ..card import CARD_KEY, Card
from ..controls import GAIN, Control
from ..errors import ModelError, UsageError
from ..graph import Constant
from ..graph.sanitise import face, require_symbolic_batch, sanitise
from ..graph.stream import Lean, outline
from ..text import shown
from ..zoo.parts import IMAGE
from .checking import answers, compare
from .memory import give_back
from .simplify import simplify
from .stamp import MAKES, READS, stamped

OPSETS = (18, 19, 20)  # Python 3.10's onnxruntime reads no newer


def export(module: nn.Module, card: Card, size: tuple[int, int], *, opset: int = OPSETS[-1]) -> bytes:
    """Export ``module``, which maps ``[N, 3, H, W]`` float32 to the card's outputs, as a full model with that card.

    Those of a card with exits are their tensors, as ``Exits.tensors`` has them.

    A card with controls makes them further arguments of ``module``, float32 vectors in the card's order, and inputs of
    that shape. ``size`` is (H, W). The same module gives the same bytes; it is left in eval mode. Raises ``ModelError``
    if torch cannot export it with a symbolic batch or a weight is not finite, ``CardError`` if the card contradicts the
    graph.
    """
    return b"".join(_with_card(module, card, size, opset).serialise())


def export_plain(
    module: nn.Module,
    size: tuple[int, int],
    *,
    image: str = "image",
    outputs: Sequence[str] = ("logits",),
    opset: int = OPSETS[-1],
) -> bytes:
    """As ``export``, without a card: for a network whose classes are named later (``--labels``)."""
    return b"".join(_lean(module, size, image, outputs, opset, {}).serialise())


def export_file(
    module: nn.Module, card: Card, size: tuple[int, int], images: Tensor, path: Path, *, opset: int = OPSETS[-1]
) -> Path:
    """As ``export``, to the file ``path``, which is checked against ``module`` on ``images`` before it gets its name.

    ``module`` is used up, all that is in it taken out, so that few copies of its weights are in memory at a time.
    Raises what ``export`` and ``check`` raise, and ``FileSystemError``.
    """
    expected = answers(module.eval(), images, card.controls)
    lean = _with_card(module, card, size, opset)
    _use_up(module)
    with atomic.saving(path, force=True) as place:
        mapped = lean.write(place)
        del lean  # and with it the weights
        torch.compiler.reset()  # what the exporter remembers of them
        beside = place.with_name(f"{place.name}.check")
        try:
            beside.write_bytes(mapped.SerializeToString())
            del mapped
            give_back()
            compare(beside, expected)
        finally:
            beside.unlink(missing_ok=True)
    return path


def _use_up(module: nn.Module) -> None:
    """Take out of ``module`` all that it consists of: a thousand branches are large even without their weights."""
    for name in [name for name, _ in (*module.named_children(), *module.named_parameters(recurse=False))]:
        delattr(module, name)


def _with_card(module: nn.Module, card: Card, size: tuple[int, int], opset: int) -> Lean:
    names = [output.name for output in card.outputs] + ([] if card.routes is None else [card.routes.name])
    names = names if card.exits is None else list(card.exits.tensors)  # in running order
    lean = _lean(module, size, card.input, names, opset, {CARD_KEY: card.to_json()}, card.controls)
    card.check_graph(*face(lean.proto))
    return lean


def _lean(
    module: nn.Module,
    size: tuple[int, int],
    image: str,
    outputs: Sequence[str],
    opset: int,
    metadata: Mapping[str, str],
    controls: Sequence[Control] = (),
) -> Lean:
    if opset not in OPSETS:
        raise UsageError(f"Opset {opset} cannot be exported.", f"Choose from {OPSETS[0]} to {OPSETS[-1]}.")
    parameters = []
    for name, tensor in module.eval().state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"The weights {shown(name)} hold a value that is not finite.", "Train it again.")
        parameters.append(name)
    names = [control.name for control in controls]
    if getattr(module, "is_separate", False) and image == IMAGE and len(outputs) == 1 and names in ([], [GAIN]):

        def exporter(part: nn.Module, shapes: Sequence[tuple[int, ...]], vectors: Sequence[int]) -> Any:
            reads = [READS.format(i) for i in range(len(shapes) + len(vectors))]
            made = _through_torch(part, shapes, reads, [MAKES], opset, vectors).proto
            sanitise(made, parameters=part.state_dict().keys(), metadata={})
            return made

        branches = len(controls[0].default) if controls else None
        lean = stamped(module, (3, *size), outputs[0], branches, exporter)
    else:
        lengths = [len(control.default) for control in controls]
        lean = _through_torch(module, [(3, *size)], [image, *names], outputs, opset, lengths)
    sanitise(lean.proto, parameters=parameters, metadata=metadata)
    require_symbolic_batch(lean.proto, names)
    if (found := len(face(lean.proto)[1])) != len(outputs):
        raise ModelError(f"The network has {found} outputs, but {len(outputs)} are named.", "Name each of them once.")
    return lean


def _through_torch(
    module: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
    vectors: Sequence[int] = (),
) -> Lean:
    """torch's export of a module whose inputs have these shapes behind the batch, and then are ``vectors``, simplified.

    The vectors, given by their length, have no batch.
    """
    device = next(module.parameters()).device
    # A batch of one would be frozen into the graph without a word.
    examples = tuple(torch.zeros(2, *shape, device=device) for shape in shapes)
    examples += tuple(torch.ones(length, device=device) for length in vectors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                optimize=False,  # see simplify.py
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(*({0: torch.export.Dim("batch")} for _ in shapes), *(None for _ in vectors)),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = shown(str(error.__cause__ or error).strip().partition("\n")[0])
            raise ModelError(
                f"torch cannot export this network: {reason}.", "Let its forward use plain tensor operations."
            ) from error
    assert program is not None  # as dynamo=True promises
    simplify(program.model)
    return _without_weights(program.model, module.state_dict())


def _without_weights(model: onnx_ir.Model, names: Container[str]) -> Lean:
    """The protobuf of ``model``, in which the initializers ``names`` are outlines of what torch has in memory."""
    weights = {}
    for name, value in model.graph.initializers.items():
        if name in names and (held := value.const_value) is not None:
            weights[name] = Constant(name, held.numpy())
            value.const_value = onnx_ir.ExternalTensor(
                "", None, None, held.dtype, shape=onnx_ir.Shape(held.shape.numpy()), name=name
            )
    proto = onnx_ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(outline(weights[tensor.name]))
    return Lean(proto, weights)
