"""README.txt of a package for Triton: how to run it, and how a client asks it."""

from __future__ import annotations

from ..bundle import LABELS, Bundle
from ..engines import saved_record
from ..instructions import heading, rejecting, tensor_of_photo
from ..runtime.reject import read_reject
from ..text import clean_text, shown
from .made import listed, wrapped
from .place import MARKER
from .whole import Whole

CONFIG = "config.pbtxt"


def readme(bundle: Bundle, graph: Whole, name: str, images: int, file: str) -> str:
    """The text; ``images`` are run together at most, 0 if Triton puts none together, and ``file`` is the network."""
    card, spec = graph.card, bundle.preprocess
    output = card.outputs[0]
    frozen = (*bundle.controls, *bundle.embedded)
    said = [f"The output {shown(output.name)} holds {output.kind} of the classes in {LABELS}, one column for each."]
    if images:
        said.append(f"Triton puts up to {images} images of several requests together.")
    else:
        said.append("Each request is run by itself, with the whole shape that config.pbtxt gives.")
    if frozen:
        named = ", ".join(clean_text(control.name) for control in frozen)
        said.append(f"Constants of the network, as a client cannot know their defaults: {named}.")
    if graph.card.exits is not None and graph.card.exits.driven:
        said.append("Early exits take one decision for all images of a request, so requests are never put together.")
    if not file.endswith(".onnx"):
        said.append(plan(bundle))
    best = min(3, len(card.classes))
    lines = ["  The bundle does not say how a photo becomes the input."]
    if spec is not None:
        lines = [
            f"  {line}"
            for line in (
                "import numpy, tritonclient.http",
                *tensor_of_photo(spec, graph.images or 1),
                f'value = tritonclient.http.InferInput({card.input!a}, list(x.shape), "{_wire(spec.dtype)}")',
                "value.set_data_from_numpy(numpy.ascontiguousarray(x))",
                f"wanted = tritonclient.http.InferRequestedOutput({output.name!a}, class_count={best})",
                'client = tritonclient.http.InferenceServerClient("localhost:8000")',
                f"found = client.infer({name!a}, [value], outputs=[wanted])",
                f"print(found.as_numpy({output.name!a}))  # score:index:label, best first",
            )
        ]
    reject = read_reject(bundle, output.kind)
    text = "\n".join([
        heading(card),
        "For Triton: a model of a model repository, which is the folder above this one.",
        "",
        "Files",
        *listed({
            CONFIG: "what Triton is told: inputs, outputs, batching, where it runs",
            file: "the network",
            LABELS: "one class per line, in the order of the output's columns",
            MARKER: "the bundle that it was made from, SHA-256 of every file",
        }),
        "",
        "Run it, from the folder above",
        "  tritonserver --model-repository .",
        "",
        "The network",
        *wrapped(" ".join(said)),
        "",
        "Ask it: Triton is given tensors, so a photo is prepared by who asks",
        *lines,
        "",
    ])  # fmt: skip
    return text if reject is None else rejecting(text, reject.score, reject.threshold)


def _wire(dtype: str) -> str:
    return {"float32": "FP32", "float16": "FP16", "uint8": "UINT8"}[dtype]


def plan(bundle: Bundle) -> str:
    """What is to be said of the plan in the bundle."""
    identity = saved_record(bundle)["identity"]
    where = ", ".join(f"{key} {clean_text(str(identity.get(key)))}" for key in ("tensorrt", "device", "sm"))
    return (
        f"The plan runs only where it was compiled: {where}. It is native code that Triton executes without asking, so "
        "take it only from somebody whom you would let log in there."
    )
