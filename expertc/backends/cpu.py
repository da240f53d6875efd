"""ONNX Runtime on the processor of the machine at hand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from ..card import CARD_KEY, Card
from ..controls import Control
from ..errors import ExpertcError, ModelError, OutOfMemoryError, UnsupportedError
from ..text import clean_text, shown
from . import Session
from .overflow import overflows
from .processor import processor_name
from .weights import refuse_foreign_weights

PROVIDERS = ["CPUExecutionProvider"]
FREE_AXIS = 224  # what a height or width without a fixed length is tried at

_SILENT = 4  # only fatal messages: everything else reaches the caller as an exception
_MAX_MESSAGE = 300
_ONE_INPUT = "Export it with the image as its only input, or with a card that names the others."

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}

# onnxruntime's exceptions have no base but Exception, and which of them exist depends on its version.
_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
_UNSUPPORTED = re.compile(r"NOT_?IMPLEMENTED|is under development|Unsupported model IR version|No Op registered")
_MEMORY = re.compile(r"allocate memory|bad_alloc|bad allocation", re.IGNORECASE)


def open_session(
    model: Path | bytes, *, optimise: bool = True, threads: int | None = None, stage: bool = False
) -> CpuSession:
    """Open an ONNX model (its file, so that external weights are found, or its bytes) on the CPU.

    ``optimise`` turns all of ONNX Runtime's graph optimisations on or off; ``threads`` is the number of threads inside
    an operator (default: one per core). Of several inputs the model's card says which takes the image, and what the
    others hold; a later ``stage`` of a network is fed all that it reads. Raises ``ModelError`` if it is not a model of
    tensors whose inputs are known, or keeps weights anywhere but beside its file, ``CardError`` if its card makes no
    sense, and ``UnsupportedError`` if this ONNX Runtime does not know its opset, IR version or an operator.
    """
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    # The arena keeps what it ever held, which makes the next run quick; what is not optimised is run to compare.
    options.enable_cpu_mem_arena = optimise
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guessed from the bytes
    onnxruntime.disable_telemetry_events()
    name = "The model" if isinstance(model, bytes) else f"The model '{model}'"
    try:
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"{name} does not exist or is not a file.", "Check the path.")
        refuse_foreign_weights(model, name)
        if optimise and overflows(model):
            options.add_session_config_entry("session.disable_quant_qdq", "1")
    except OSError as error:
        raise ModelError(f"{name} cannot be read ({error.strerror}).", "Check its permissions.") from error
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=PROVIDERS
        )
    except _ERRORS as error:
        raise _explain(error, f"{name} cannot be opened by ONNX Runtime {onnxruntime.__version__}") from error
    return CpuSession(session, name, stage=stage)


class CpuSession:
    """A ``Stage`` over an ONNX Runtime session; raises ``ModelError`` if its inputs and outputs do not fit one."""

    def __init__(self, session: onnxruntime.InferenceSession, name: str, *, stage: bool = False) -> None:
        inputs, outputs = {given.name: given for given in session.get_inputs()}, session.get_outputs()
        self._card: str | None = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        self.controls: tuple[Control, ...] = ()
        self.carried: tuple[str, ...] = ()
        if inputs and (stage or len(inputs) == 1):
            self.input: str
            self.input, *carried = inputs
            self.carried = tuple(carried)
        else:
            if self._card is None:
                raise ModelError(
                    f"{name} has {len(inputs)} inputs instead of one, and no card that describes them.", _ONE_INPUT
                )
            card = Card.from_json(self._card)
            self.input, self.controls = card.input, card.controls
            if inputs.keys() != {self.input, *(control.name for control in self.controls)}:
                raise ModelError(f"{name} has other inputs than its card says.", _ONE_INPUT)
        odd = [given.type for given in inputs.values() if given.type not in _TYPES]
        if odd:
            raise ModelError(f"{name} takes {odd[0]}, not an image.", _ONE_INPUT)
        for control in self.controls:
            control.check(inputs[control.name].shape, None)
        odd = [clean_text(output.name) for output in outputs if not output.type.startswith("tensor(")]
        if odd:
            raise ModelError(f"{name} has the output '{odd[0]}', which is not a tensor.", "Export it without.")
        image = inputs[self.input]
        self.input_shape = tuple(axis if isinstance(axis, int) else None for axis in image.shape)
        self.outputs: tuple[str, ...] = tuple(output.name for output in outputs)
        self._name = name
        self._dtype = _TYPES[image.type]
        fed = (*(control.name for control in self.controls), *self.carried)
        self._forms = {name: (_TYPES[inputs[name].type], inputs[name].shape) for name in fed}
        self._defaults = {control.name: self._fed(control.name, control.default) for control in self.controls}
        self._session: onnxruntime.InferenceSession | None = session

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See ``Session.classes``. Raises ``CardError`` if the card makes no sense."""
        return None if self._card is None else Card.from_json(self._card).classes

    def run(self, x: NDArray[Any], controls: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """See ``Session.run``. Raises ``ModelError`` if the model cannot run on ``x`` or has no such control or not of
        that size, ``OutOfMemoryError`` if it needs more memory than there is."""
        if self._session is None:
            raise ValueError("the session is closed")
        feeds = {self.input: np.ascontiguousarray(x, dtype=self._dtype), **self._defaults}
        feeds |= {name: self._fed(name, values) for name, values in (controls or {}).items()}
        try:
            values = self._session.run(None, feeds)
        except _ERRORS as error:
            raise _explain(error, f"{self._name} fails on an input of shape {x.shape}") from error
        return dict(zip(self.outputs, values, strict=True))

    def _fed(self, name: str, values: Any) -> np.ndarray:
        """Values of a control as the model takes them, or what another stage made."""
        dtype, shape = self._forms.get(name, (np.float32, None))
        made = np.asarray(values, dtype)
        if name in self.carried:
            return made
        if shape is None or made.size != np.prod(shape, dtype=np.int64):
            what = f"has no control {shown(name)}" if shape is None else f"takes another number of {shown(name)}"
            raise ModelError(f"{self._name} {what}.", "Give what its card says.")
        fed: np.ndarray = made.reshape(shape)
        return fed

    def close(self) -> None:
        """Free the model's memory."""
        self._session = None


def on_noise(session: Session, batch: int | None = None) -> Callable[[], object]:
    """What runs ``session`` on noise: ``batch`` images at a time, by default as many as it takes (1 if any)."""
    sizes = (axis or FREE_AXIS for axis in session.input_shape[1:])
    x = np.random.default_rng(0).standard_normal((batch or session.input_shape[0] or 1, *sizes), np.float32)
    return lambda: session.run(x)


def describe() -> dict[str, Any]:
    """What ``expertc doctor`` prints about this backend; JSON types."""
    return {
        "backend": "onnxruntime",
        "version": onnxruntime.__version__,
        "providers": list(onnxruntime.get_available_providers()),
        "cores": os.cpu_count(),
        "processor": processor_name(),
    }


def _explain(error: Exception, what: str) -> ExpertcError:
    """The error of ours for one of ONNX Runtime's, whose text may quote names out of the model."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", clean_text(str(error)))
    text = re.sub(r"/onnxruntime_src/\S+ .*?\) ", "", text)[:_MAX_MESSAGE].rstrip(".")
    if _MEMORY.search(str(error)):
        return OutOfMemoryError(f"{what}: it needs more memory than there is.", "Use a smaller batch or model.")
    if _UNSUPPORTED.search(str(error)):
        return UnsupportedError(f"{what}: {text}.", "Update onnxruntime, or export the model with an older opset.")
    return ModelError(f"{what}: {text}.", "Check that it is a complete ONNX model and that the input fits it.")
