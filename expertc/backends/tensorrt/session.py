"""Sessions over a TensorRT plan: ONNX Runtime's protocol, and the arrays that it would give."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...card import Card
from ...controls import Control
from ...errors import BundleError, ModelError, UnsupportedError
from ...text import shown
from . import library
from .buffers import Buffers, Handle, Memory, open_buffers
from .driver import open_driver
from .engine import Engine, Shape, Tensor
from .identity import identity, require_same

H2D, COMPUTE, D2H, LATENCY, ENQUEUE = "H2D Latency", "GPU Compute Time", "D2H Latency", "Latency", "Enqueue Time"
"""trtexec's names for the parts of a call."""


def open_plan(
    plan: Path | bytes,
    onnx_card: str | None = None,
    *,
    cuda_graph: bool = True,
    device: int = 0,
    dla_core: int | None = None,
    binding: str | None = None,
    types: Mapping[str, DTypeLike] | None = None,
    made_by: Mapping[str, Any] | None = None,
    rebuild: str = "",
    stage: bool = False,
) -> PlanSession:
    """Open a plan, its file or its bytes, on the GPU ``device``. **It is native code**: open your own plans only.

    Args:
        onnx_card: the card, JSON, of the ONNX model it was compiled from; without one the image is the only input.
        cuda_graph: launch the whole network at once from the second run of a shape on; ``notes`` says if that fails.
        dla_core: the deep-learning accelerator that it was compiled for.
        binding: what reaches the GPU, see ``buffers.open_buffers``.
        types: element types of the ONNX model's outputs. Without them INT32 of TensorRT 8 becomes int64, as it is an
            index that ONNX Runtime gives in 64 bits, and what DOUBLE was stays the FLOAT that TensorRT makes of it.
        made_by: ``Identity.to_mapping()`` of where it was compiled, compared before TensorRT sees the plan.
        rebuild: the command that compiles it again, which errors name.
        stage: it is a later stage of a network, and is fed all that it reads.

    Raises ``UnsupportedError`` without a driver, a GPU, TensorRT, or memory enough; ``DeviceMismatchError`` for a plan
    of another release or GPU; ``ModelError`` if its inputs and outputs are not those of a classifier; ``CardError`` if
    the card makes no sense; ``BundleError`` if the file cannot be read.
    """
    name = "The plan" if isinstance(plan, bytes) else f"The plan {shown(plan)}"
    driver = open_driver()  # before TensorRT, which ends the process without one
    trt = library.load()
    if made_by is not None:
        require_same(made_by, identity(trt, driver, device), rebuild)
    try:
        data = plan if isinstance(plan, bytes) else plan.read_bytes()
    except OSError as error:
        raise BundleError(f"{name} cannot be read ({error.strerror}).", "Check the path.") from error
    gpu = driver.device(device)
    with ExitStack() as undo:
        buffers = open_buffers(driver, gpu, binding)
        undo.callback(buffers.close)
        with buffers.current(), ExitStack() as inner:
            engine = Engine(trt, data, dla_core=dla_core, rebuild=rebuild)
            inner.callback(engine.close)
            wide = {np.dtype(np.int32): np.dtype(np.int64)} if not library.has(trt, "DataType.INT64") else {}
            made = {tensor.name: wide.get(tensor.dtype, tensor.dtype) for tensor in engine.outputs}
            made |= {output: np.dtype(kind) for output, kind in (types or {}).items() if output in made}
            session = PlanSession(
                engine, buffers, name, onnx_card, made, gpu.integrated and gpu.maps, cuda_graph, stage
            )
            inner.pop_all()
        undo.pop_all()
    return session


@dataclass
class _Slot:
    """Where a tensor lies; ``device`` is ``host`` where the device reads the host's memory. ``view``: its value now."""

    tensor: Tensor
    host: Memory
    device: Memory
    view: NDArray[Any]


class PlanSession:
    """A ``Stage`` over an engine, which it closes; ``open_plan`` makes it. Several threads may run it, in turn.

    ``shared``: the GPU uses the memory of the processor, so nothing is copied. ``types``: of the outputs it returns.
    Raises ``ModelError`` or ``CardError`` if the engine's tensors do not fit a session.
    """

    def __init__(
        self,
        engine: Engine,
        buffers: Buffers,
        name: str,
        card: str | None,
        types: Mapping[str, np.dtype[Any]],
        shared: bool,
        cuda_graph: bool,
        stage: bool = False,
    ) -> None:
        self._card, self._name, self._types = card, name, types
        inputs = {tensor.name: tensor for tensor in engine.inputs}
        self.carried: tuple[str, ...] = tuple(inputs)[1:] if stage else ()
        read = None if card is None else Card.from_json(card)
        self.controls: tuple[Control, ...] = () if read is None else read.controls
        self.input: str = next(iter(inputs), "") if read is None else read.input
        if inputs.keys() != {self.input, *self.carried, *(control.name for control in self.controls)}:
            what = (
                f"{len(inputs)} inputs, and no card that describes them"
                if read is None
                else "other inputs than its card"
            )
            raise ModelError(
                f"{name} has {what}.", "Compile it from a model with the image as its only input, or a card."
            )
        for control in self.controls:
            control.check(inputs[control.name].shape, None)
        self._image = inputs[self.input]
        if not self._image.shape:
            raise ModelError(f"{name} takes a single number, no images.", "Compile it from an image classifier.")
        self.input_shape: tuple[int | None, ...] = tuple(None if size < 0 else size for size in self._image.shape)
        self.outputs: tuple[str, ...] = tuple(tensor.name for tensor in engine.outputs)
        self.notes: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._engine: Engine | None = engine
        self._buffers, self._shared, self._capturing = buffers, shared, cuda_graph
        self._stream = buffers.stream()
        self._events = [buffers.event() for _ in range(4)]  # start, copied in, computed, copied out
        self._inputs = [self._placed(tensor) for tensor in engine.inputs]
        self._outputs = [self._placed(tensor) for tensor in engine.outputs]
        self._slots = {slot.tensor.name: slot for slot in (*self._inputs, *self._outputs)}
        self._shape: Shape | None = None
        self._graph: Handle | None = None
        self._warm = False
        self._enqueued = 0.0
        self._told: dict[str, float] | None = None
        self._defaults = {control.name: self._fed(control.name, control.default) for control in self.controls}
        weakref.finalize(self, buffers.close).atexit = False  # of who forgets to close; the end of a process frees all

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See ``Session.classes``."""
        return None if self._card is None else Card.from_json(self._card).classes

    def run(self, x: NDArray[Any], controls: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """See ``Session.run``; more images than the plan takes at a time are run in portions, fewer are filled up.

        Raises ``ModelError`` for an input or a control that does not fit, ``UnsupportedError`` if the GPU fails.
        """
        x = np.asarray(x)
        given = dict(controls or {})
        images = {self.input: x, **{name: np.asarray(given.pop(name)) for name in self.carried}}
        settings = {**self._defaults, **{name: self._fed(name, values) for name, values in given.items()}}
        sizes = self._portions(x)
        with self._lock:
            engine = self._open()
            with self._buffers.current():
                for name, values in settings.items():
                    np.copyto(self._slots[name].view, values)
                found = []
                for number, (start, own, size) in enumerate(sizes):
                    self._told = self._sum(self._told, self._marks()) if number else {}
                    part = {name: values[start : start + own] for name, values in images.items()}
                    found.append(self._once(engine, part, size))
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([part[name] for part in found]) for name in self.outputs}

    def timings(self) -> dict[str, float]:
        """Seconds of the last run by trtexec's names, those of portions added up; nothing before it.

        Where the GPU uses the processor's memory there are no copies, so they are not given.
        """
        with self._lock:
            self._open()
            if self._told is None:
                return {}
            with self._buffers.current():
                return self._sum(self._told, self._marks())

    def close(self) -> None:
        """Free the engine and all memory; a second time does nothing."""
        with self._lock, ExitStack() as stack:
            if self._engine is None:
                return
            stack.callback(self._buffers.close)
            stack.enter_context(self._buffers.current())
            self._engine.close()
            self._engine = None

    def _open(self) -> Engine:
        if self._engine is None:
            raise ValueError("the session is closed")
        return self._engine

    def _placed(self, tensor: Tensor) -> _Slot:
        size = max(tensor.size, 1)
        host = self._buffers.pinned(size, mapped=self._shared)
        device = host if self._shared else self._buffers.alloc(size)
        self._open().set_address(tensor.name, device.address)
        return _Slot(tensor, host, device, _view(host, tensor, tensor.most))

    def _fed(self, name: str, values: Any) -> NDArray[Any]:
        """Values of a control as the model takes them."""
        slot = self._slots.get(name)
        if slot is None or name not in {control.name for control in self.controls}:
            raise ModelError(f"{self._name} has no control {shown(name)}.", "Give what its card says.")
        made = np.asarray(values, slot.tensor.dtype)
        if made.size != slot.view.size:
            raise ModelError(f"{self._name} takes another number of {shown(name)}.", "Give what its card says.")
        return made.reshape(slot.view.shape)

    def _portions(self, x: NDArray[Any]) -> list[tuple[int, int, int]]:
        """For each call of the engine the first image, how many there are, and how many it takes."""
        if x.shape == self._shape:
            return [(0, len(x), len(x))]
        (least, *lows), (most, *highs) = self._image.least, self._image.most
        fits = x.ndim == len(self._image.most) and len(x) > 0 and (self._image.shape[0] < 0 or len(x) == most)
        if not fits or not all(low <= size <= high for low, size, high in zip(lows, x.shape[1:], highs, strict=True)):
            raise ModelError(f"{self._name} does not take an input of shape {x.shape}.", f"It takes {self._takes()}.")
        numbers = [(start, min(most, len(x) - start)) for start in range(0, len(x), most)]
        lonely = [tensor.name for tensor in self._open().outputs if tensor.shape[:1] != (-1,)]
        if lonely and len(numbers) > 1:
            raise ModelError(
                f"{self._name} takes up to {most} images at a time, and {shown(lonely[0])} is not per image.",
                "Give fewer.",
            )
        return [(start, own, max(own, least)) for start, own in numbers]

    def _takes(self) -> str:
        ends = zip(self._image.least, self._image.most, strict=True)
        return "x".join(str(low) if low == high else f"({low} to {high})" for low, high in ends)

    def _once(self, engine: Engine, images: Mapping[str, NDArray[Any]], size: int) -> dict[str, np.ndarray]:
        """Run the ``images``, filled up to ``size`` by repeating the last."""
        x = images[self.input]
        self._set_shapes(engine, {name: (size, *values.shape[1:]) for name, values in images.items()})
        for name, values in images.items():
            view = self._slots[name].view
            np.copyto(view[: len(x)], values, casting="unsafe")
            np.copyto(view[len(x) :], values[-1:], casting="unsafe")
        buffers, stream, (start, ready, done, end) = self._buffers, self._stream, self._events
        buffers.record(start, stream)
        for slot in self._copied(self._inputs):
            buffers.copy_in(slot.device, slot.host, slot.view.nbytes, stream)
        buffers.record(ready, stream)
        self._enqueue(engine)
        buffers.record(done, stream)
        for slot in self._copied(self._outputs):
            buffers.copy_out(slot.host, slot.device, slot.view.nbytes, stream)
        buffers.record(end, stream)
        buffers.wait(stream)
        own = slice(len(x) if size > len(x) else None)
        return {
            slot.tensor.name: (slot.view[own] if slot.tensor.shape[:1] == (-1,) else slot.view).astype(
                self._types[slot.tensor.name]
            )
            for slot in self._outputs
        }

    def _copied(self, slots: list[_Slot]) -> Iterator[_Slot]:
        return (slot for slot in slots if slot.device is not slot.host)

    def _set_shapes(self, engine: Engine, shapes: Mapping[str, Shape]) -> None:
        """Prepare for images of a shape, and what else is as many; a graph is of one shape only."""
        if shapes[self.input] == self._shape:
            return
        self._shape, self._warm = None, False
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._buffers.free(graph)
        for name, shape in shapes.items():
            engine.set_shape(name, shape)
        for name, made in {**shapes, **engine.shapes()}.items():
            slot = self._slots[name]
            slot.view = _view(slot.host, slot.tensor, made)
        self._shape = shapes[self.input]

    def _enqueue(self, engine: Engine) -> None:
        """Put one execution into the stream, as a graph if it can be: TensorRT wants one plain run of a shape first."""
        work = partial(engine.execute, self._stream.value)
        if self._capturing and self._warm and self._graph is None:
            try:
                self._graph = self._buffers.capture(self._stream, work)
            except UnsupportedError as error:
                self._capturing = False
                self.notes += (f"No CUDA graph, so every kernel is launched by itself: {error.message}",)
        began = time.perf_counter()
        if self._graph is None:
            work()
        else:
            self._buffers.launch(self._graph, self._stream)
        self._enqueued = time.perf_counter() - began
        self._warm = True

    def _marks(self) -> dict[str, float]:
        copied, computed, back = (self._buffers.milliseconds(*two) / 1e3 for two in pairwise(self._events))
        found = {COMPUTE: computed, LATENCY: copied + computed + back, ENQUEUE: self._enqueued}
        return found if self._shared else {H2D: copied, D2H: back, **found}

    @staticmethod
    def _sum(one: Mapping[str, float] | None, other: Mapping[str, float]) -> dict[str, float]:
        return {name: value + (one or {}).get(name, 0.0) for name, value in other.items()}


def _view(host: Memory, tensor: Tensor, shape: Shape) -> NDArray[Any]:
    """The first bytes of ``host`` as a value of ``tensor``."""
    size = int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize
    return host.array[:size].view(tensor.dtype).reshape(shape)
