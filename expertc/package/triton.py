"""A bundle for Triton: a folder of a model repository, run by ONNX Runtime there, or as the plan that is in the bundle.

``config.pbtxt`` is a ``ModelConfig`` (triton-inference-server/common, protobuf/model_config.proto) in the text format
of protobuf. What the backend of ONNX Runtime asks of it: all inputs of the graph, the types of its tensors, and their
shapes without the first axis if Triton is to batch, in which case that axis must be open in every one of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.text_encoding import CEscape
from onnx import TensorProto

from ..bundle import ENGINE, LABELS, README, Bundle
from ..engines import saved_record
from ..errors import BundleError, ModelError, UnsupportedError, UsageError
from ..exits import COARSE
from ..graph import File, Shape
from ..runtime.preprocess import scaled
from ..text import shown
from ..trtexec import PROFILE
from .made import Made
from .triton_readme import CONFIG, plan, readme
from .whole import ONNX, Whole, files_of, require_agreement, whole

VERSION = "1"
PLAN = "model.plan"
CATEGORIES = "categories.txt"
PARAMETER = "expertc.manifest_sha256"
"""The parameter of the model's configuration, which Triton hands out, that says which bundle it is."""

TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32", TensorProto.FLOAT16: "TYPE_FP16", TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.UINT8: "TYPE_UINT8", TensorProto.INT8: "TYPE_INT8", TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64", TensorProto.BOOL: "TYPE_BOOL",
}  # fmt: skip
"""Triton's types (``inference.DataType``) by ONNX's."""


def triton(bundle: Bundle, name: str, origin: str, folder: Path, max_batch: int | None, *, engine: bool) -> Made:
    """The files of the model ``name``; large ones are made in ``folder``. ``origin`` is its manifest's SHA-256.

    With ``engine`` it is the plan in the bundle. Raises ``UnsupportedError``, ``UsageError``, ``BundleError`` and
    ``VerificationError``.
    """
    graph = whole(bundle)
    images = _images(bundle, graph, max_batch, engine=engine)
    if engine:
        model: dict[str, File] = {PLAN: bundle.file(ENGINE)}
    else:
        model = files_of(bundle, graph, folder)
        if not graph.own:
            spec = bundle.preprocess
            require_agreement(bundle, graph, model, lambda pixels: pixels if spec is None else scaled(pixels, spec))
    on_gpu = engine or bundle.backend == "tensorrt"
    lists = {LABELS: bundle.labels}
    if graph.card.exits is not None and COARSE in graph.card.exits.beside:
        lists[CATEGORIES] = graph.card.exits.categories
    texts = {path: "".join(f"{label}\n" for label in labels) for path, labels in lists.items()}
    files_by_output = dict(zip((graph.card.outputs[0].name, COARSE), lists, strict=False))
    texts[CONFIG] = _config(graph, name, origin, images, files_by_output,
                            platform="tensorrt_plan" if engine else "onnxruntime_onnx",
                            kind="KIND_GPU" if on_gpu else "KIND_CPU")  # fmt: skip
    texts[README] = readme(bundle, graph, name, images, f"{VERSION}/{PLAN if engine else ONNX}")
    versioned = {f"{VERSION}/{path}": content for path, content in model.items()}
    files = {**versioned, **{path: text.encode() for path, text in texts.items()}}
    return Made(files, notes=(plan(bundle),) if engine else ())


def _images(bundle: Bundle, graph: Whole, max_batch: int | None, *, engine: bool) -> int:
    """``max_batch_size``: how many images of several clients Triton may put together, 0 if it may not.

    It may where every tensor has an open first axis; but early exits take one decision for all images of a call, which
    must not be those of several clients.
    """
    faces = [*graph.model.inputs.values(), *graph.model.outputs.values()]
    decides = graph.card.exits is not None and graph.card.exits.driven
    open_ended = all(len(shape) > 1 and not isinstance(shape[0], int) for shape in faces)
    most = PROFILE[-1]
    if engine:
        most = _compiled_for(bundle, graph)
    if decides or not open_ended:
        if max_batch is not None:
            why = "decides for all images of a call" if decides else f"takes {graph.images} images per call"
            raise UsageError(f"Triton cannot batch this expert: it {why}.", "Leave out --max-batch.")
        return 0
    if max_batch is not None and engine and max_batch > most:
        raise UsageError(f"The plan was compiled for up to {most} images.", f"Give --max-batch {most}, or fewer.")
    return most if max_batch is None else max_batch


def _compiled_for(bundle: Bundle, graph: Whole) -> int:
    """How many images the plan in the bundle takes at most."""
    if ENGINE not in bundle.manifest["files"]:
        raise BundleError(
            f"There is no {ENGINE} in {shown(bundle.path)}.", "Compile it there with expertc compile --save-engine."
        )
    if not graph.own:
        raise UnsupportedError(
            "The plan has inputs beside the image, or stages that somebody must decide among; Triton feeds neither.",
            "Build it with --embed, or with --exits plain.",
        )
    record = saved_record(bundle)
    batch = record["options"].get("batch")
    most = batch[-1] if isinstance(batch, list) and batch else graph.images
    if type(most) is not int or most < 1:
        raise BundleError(
            f"The manifest of {shown(bundle.path)} does not say for how many images.", "Compile it again."
        )
    return most


def _config(
    graph: Whole, name: str, origin: str, images: int, labels: Mapping[str, str], *, platform: str, kind: str
) -> str:
    """The text of config.pbtxt; ``labels`` is the file with the names of an output's columns, by output."""
    inputs = (_tensor("input", graph, *tensor, images) for tensor in graph.model.inputs.items())
    outputs = (_tensor("output", graph, *tensor, images, labels) for tensor in graph.model.outputs.items())
    return "".join([
        f"name: {_text(name)}\n",
        f"platform: {_text(platform)}\n",
        f"max_batch_size: {images}\n",
        *inputs,
        *outputs,
        f"instance_group [\n  {{\n    kind: {kind}\n    count: 1\n  }}\n]\n",
        "dynamic_batching { }\n" if images else "",
        f"parameters {{\n  key: {_text(PARAMETER)}\n  value {{ string_value: {_text(origin)} }}\n}}\n",
    ])  # fmt: skip


def _tensor(
    what: str, graph: Whole, name: str, shape: Shape, images: int, labels: Mapping[str, str] | None = None
) -> str:
    kind = TYPES.get(graph.model.types.get(name, TensorProto.UNDEFINED))
    if kind is None or not shape:
        raise ModelError(f"Triton has no type or no shape for the {what} {shown(name)}.", "Build the bundle again.")
    dims = ", ".join(str(dim if isinstance(dim, int) else -1) for dim in (shape[1:] if images else shape))
    label = f"\n    label_filename: {_text(labels[name])}" if labels and name in labels else ""
    return f"{what} [\n  {{\n    name: {_text(name)}\n    data_type: {kind}\n    dims: [ {dims} ]{label}\n  }}\n]\n"


def _text(value: str) -> str:
    """A string of protobuf's text format; whatever is not ASCII, a quote or a line end is escaped."""
    return f'"{CEscape(os.fsencode(value), as_utf8=False)}"'
