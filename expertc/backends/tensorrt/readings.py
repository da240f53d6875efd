"""TensorRT's own words for a failure, and ours for what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import CompilationError, ExpertcError, UnsupportedError
from .listener import Log

LONGEST = 300
"""Characters of TensorRT's text that an error repeats."""


class BuildMemoryError(CompilationError):
    """TensorRT, or the process that it ran in, did not get the memory it wanted; less workspace may help."""


class Reading(NamedTuple):
    """What a text of TensorRT's means: a pattern in it, the error it is, and what to do."""

    pattern: re.Pattern[str]
    kind: type[ExpertcError]
    hint: str


# Of real logs of 8.5 to 10.x, as they stand in reports to NVIDIA/TensorRT and onnx/onnx-tensorrt. The first that is
# found counts, so the cause stands before what follows from it.
READINGS: tuple[Reading, ...] = tuple(
    Reading(re.compile(pattern, re.IGNORECASE), kind, hint)
    for pattern, kind, hint in (
        (
            r"out of memory|OutOfMemory|bad_alloc|could not be allocated|cannot allocate memory",
            BuildMemoryError,
            "Close what else uses memory, or allow a smaller workspace.",
        ),
        (
            r"target gpu sm \d+ is not supported",
            UnsupportedError,
            "This release of TensorRT has no kernels for this GPU: install one that does.",
        ),
        (
            r"cuda initialization failure|driver version is insufficient|no kernel image is available",
            UnsupportedError,
            "NVIDIA's driver does not fit this TensorRT: update it.",
        ),
        (
            r"unable to load library|cannot open shared object",
            UnsupportedError,
            "TensorRT is not installed completely: install it again.",
        ),
        (
            r"plugin not found|could not find plugin|no importer registered|UNSUPPORTED_NODE|UNSUPPORTED_GRAPH",
            UnsupportedError,
            "This release does not read the operator: build the expert for this target, or update TensorRT.",
        ),
        (
            r"opset|ir version",
            UnsupportedError,
            "The model is newer than this TensorRT: build the expert for this target, or update TensorRT.",
        ),
        (
            r"failed to parse the onnx model|model_deserialize_failed",
            CompilationError,
            "The file is not a complete ONNX model: build the expert again.",
        ),
        (
            r"optimization profile|shape tensor|exceed min ~ max",
            CompilationError,
            "Give the sizes of a batch with --batch MIN:OPT:MAX.",
        ),
        (
            r"\bdla\b",
            CompilationError,
            "Compile without the DLA core, for the GPU alone.",
        ),
        (
            r"could not find any implementation for node",
            CompilationError,
            "No kernel does it in the workspace that was allowed: allow more.",
        ),
    )
)  # fmt: skip

_OTHER = "If trtexec compiles the same file, this is a bug: please report it with TensorRT's words."
_PREFIX = re.compile(r"^(?:\d+: )?(?:\[\S+?::\d+\] )?(?:Error Code \d+: )?")


def failure(what: str, log: Log, said: Iterable[str] = ()) -> ExpertcError:
    """The error for something that TensorRT did not do: ``what`` begins its sentence, TensorRT's last words end it.

    ``said`` is what it answered besides its log, such as the parser's errors.
    """
    texts = [*said, *log.errors]
    reading = read(texts) or read(log.warnings)
    told = texts[-1] if texts else ""
    if reading is not None:
        told = next(text for text in (*texts, *log.warnings) if reading.pattern.search(text))
    told = _PREFIX.sub("", told).strip().rstrip(".")
    if len(told) > LONGEST:
        told = f"{told[:LONGEST]}…"
    sentence = f"{what}: TensorRT says “{told}”." if told else f"{what}, and TensorRT does not say why."
    kind, hint = (reading.kind, reading.hint) if reading else (CompilationError, _OTHER)
    return kind(sentence, hint)


def read(texts: Iterable[str]) -> Reading | None:
    """The first reading of ``READINGS`` that one of the texts has."""
    texts = list(texts)
    return next((each for each in READINGS if any(each.pattern.search(text) for text in texts)), None)
