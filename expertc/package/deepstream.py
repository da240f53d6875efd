"""A bundle for DeepStream: the configuration of one nvinfer element, a classifier of frames or of detected objects.

Keys and their values are those of "Gst-nvinfer", DeepStream's documentation (docs.nvidia.com, DS_plugin_gst-nvinfer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import LABELS, README, Bundle
from ..errors import LabelsError, UnsupportedError, UsageError
from ..graph import File
from ..preprocessing import Preprocess
from ..runtime.preprocess import scaled
from ..runtime.reject import Reject, read_reject
from ..runtime.scores import MAX_PROBABILITY, probabilities
from ..text import shown
from ..trtexec import PROFILE
from .deepstream_readme import FILTERS, readme, seen
from .frames import for_frames
from .made import Made
from .whole import ONNX, Whole, files_of, require_agreement, whole

PRIMARY, SECONDARY = "config_infer_primary.txt", "config_infer_secondary.txt"
CALIBRATION = "calibration.table"

NETWORK_MODES = {"fp32": (0, "fp32"), "int8": (1, "int8"), "fp16": (2, "fp16")}
"""``network-mode`` of each precision, and how nvinfer calls it in the name of an engine that it has compiled."""
LONGEST_LABEL = 127  # bytes: MAX_LABEL_SIZE of nvdsmeta.h, with the zero at the end
_TABLE = b"""\
TensorRT reads nothing here: the ranges stand in the graph, as QuantizeLinear and DequantizeLinear. nvinfer turns int8
on only where a table of calibration is named.
"""


def deepstream(bundle: Bundle, folder: Path, max_batch: int | None, objects_of: int | None) -> Made:
    """The files for DeepStream; large ones are made in ``folder``.

    ``objects_of`` is the ``gie-unique-id`` of the detector whose objects are classified, None for whole frames. Raises
    ``UnsupportedError``, ``CardError``, ``UsageError``, ``LabelsError`` and ``VerificationError``.
    """
    found = whole(bundle)
    reject = read_reject(bundle, found.card.outputs[0].kind)
    precision = _precision(bundle)
    graph = for_frames(found, reject)
    images = _images(graph, max_batch)
    spec = graph.card.preprocess
    assert spec is not None  # for_frames
    files = files_of(bundle, graph, folder)
    require_agreement(bundle, graph, files, lambda pixels: scaled(pixels, spec), _judged(reject))
    mode, suffix = NETWORK_MODES[precision]
    engine = f"{ONNX}_b{images}_gpu0_{suffix}.engine"
    threshold = reject.threshold if reject is not None and reject.score == MAX_PROBABILITY else 0.0
    settings: dict[str, object] = {
        "gpu-id": 0,
        "gie-unique-id": 1 if objects_of is None else objects_of + 1,
        "process-mode": 1 if objects_of is None else 2,
        **({} if objects_of is None else {"operate-on-gie-id": objects_of}),
        "network-type": 1,
        "onnx-file": ONNX,
        "model-engine-file": engine,
        **({"int8-calib-file": CALIBRATION} if precision == "int8" else {}),
        "network-mode": mode,
        "batch-size": images,
        "infer-dims": f"3;{spec.size[0]};{spec.size[1]}",
        "network-input-order": 0,
        "model-color-format": int(spec.colour == "BGR"),
        "net-scale-factor": _number(1 / (255 * spec.std[0])),
        "offsets": ";".join(_number(255 * mean) for mean in spec.mean),
        "maintain-aspect-ratio": 0,
        "scaling-filter": FILTERS[spec.interpolation],
        "output-blob-names": graph.card.outputs[0].name,
        "labelfile-path": LABELS,
        "classifier-threshold": _number(threshold),
    }
    name = PRIMARY if objects_of is None else SECONDARY
    config = "[property]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
    more: dict[str, File] = {CALIBRATION: _TABLE} if precision == "int8" else {}
    texts = {
        name: config,
        LABELS: _labels(bundle.labels),
        README: readme(bundle, graph, name, engine, reject, objects_of),
    }
    encoded = {path: text.encode() for path, text in texts.items()}
    return Made({**files, **more, **encoded}, (engine,), tuple(_notes(bundle, spec, objects_of)))


def _notes(bundle: Bundle, spec: Preprocess, objects_of: int | None) -> Iterator[str]:
    if bundle.backend != "tensorrt":
        built = shown(bundle.manifest.get("target"))
        yield f"It was built for {built}, so nobody looked whether TensorRT runs all of it; --target does."
    yield seen(spec, objects_of)[0]


def _precision(bundle: Bundle) -> str:
    precision = str(bundle.manifest.get("precision"))
    if precision not in NETWORK_MODES:
        raise UnsupportedError(f"nvinfer knows no precision {shown(precision)}.", "Build it in fp32, fp16 or int8.")
    if precision == "int8" and bundle.backend != "tensorrt":
        raise UnsupportedError(
            "The expert is quantised for ONNX Runtime, in a way that TensorRT does not read.",
            "Build it for the device, with --target, or in fp32 or fp16.",
        )
    return precision


def _images(graph: Whole, max_batch: int | None) -> int:
    """``batch-size``: of an expert for any number what is asked for; nvinfer runs what frames there are."""
    if graph.images is None:
        return PROFILE[-1] if max_batch is None else max_batch
    if graph.images != 1:
        raise UnsupportedError(
            f"The expert takes exactly {graph.images} images, but nvinfer runs as many frames as there are.",
            "Build it with --batch dynamic.",
        )
    if max_batch not in (None, 1):
        raise UsageError("The expert takes one image per call.", "Leave out --max-batch, or build it as dynamic.")
    return 1


def _judged(reject: Reject | None) -> Any:
    """What the graph makes of the bundle's scores: their probabilities, none where a frame shows nothing known."""

    def judged(scores: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
        found = probabilities(scores, kind)
        if reject is not None and reject.score != MAX_PROBABILITY:
            found[reject.rejects(scores, kind)] = 0
        return found

    return judged


def _labels(labels: tuple[str, ...]) -> str:
    """One line for the one output, its classes parted by ";": in a label that is a comma, and its length is bounded."""
    plain = [label.replace(";", ",").encode()[:LONGEST_LABEL].decode(errors="ignore") for label in labels]
    twice = next((label for label, number in Counter(plain).items() if number > 1), None)
    if twice is not None:
        raise LabelsError(
            f"Two classes would both be {shown(twice)}: DeepStream cuts labels at {LONGEST_LABEL} bytes and at ';'.",
            "Give them names that differ elsewhere, and build again.",
        )
    return ";".join(plain) + "\n"


def _number(value: float) -> str:
    """As short as a float32 allows; nvinfer reads a double."""
    return f"{value:.9g}"
