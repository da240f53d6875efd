"""What values the tensors of an expert take on images: from where to where, and where nearly all of them lie.

Half precision has to know what would overflow, int8 what to spread its 256 steps over. Both get ranges, never images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from .backends import OpenSession, Session, portions
from .backends.cpu import open_session as open_on_cpu
from .errors import DataError, ModelError
from .graph import Model, Variable, pack, volume
from .text import shown

PERCENTILES = (99.9, 99.99)
"""Those that calibrations of int8 clip at; ONNX Runtime's and TensorRT's own calibrators use 99.99 and 99.999."""

HELD = 2**29
"""Bytes of tensors that one run of the model may hand over; more are fetched by further sessions, image by image."""

KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

Array = np.ndarray[Any, Any]


class Run(Protocol):
    """Runs a model whose tensors can be seen."""

    def __call__(self, x: Array, controls: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Array]]:
        """Name and values of every tensor, as they are computed; the arguments are those of ``Session.run``."""


@dataclass(frozen=True)
class Range:
    """The least and the greatest value of a tensor; ``percentile[p]`` are its (100 - p)-th and p-th percentile.

    A percentile lies within 1/32 of the exact one, or within 2^-24 of zero.
    """

    low: float
    high: float
    percentile: Mapping[float, tuple[float, float]]


Ranges = Mapping[str, Range]


def observe(
    model: Model,
    batches: Iterable[Array],
    *,
    tensors: Collection[str] | None = None,
    percentiles: Sequence[float] = PERCENTILES,
    open_session: OpenSession = open_on_cpu,
    progress: Callable[[int], None] = lambda images: None,
    scratch: Path | None = None,
) -> dict[str, Range]:
    """The range of every floating-point tensor that ``model`` computes, and of its image, over all images.

    Args:
        model: the expert in single precision; weights are not observed, nor is what branches of an If compute inside.
        batches: preprocessed images ``[n, ...]``, as the model takes them; each may be another ``n``. Read once.
        tensors: observe only these.
        percentiles: which ones to find, from 50 to 100.
        open_session: runs the model; nothing is optimised away.
        progress: is told how many images were seen, after each (after each batch, if the model takes no other number).
        scratch: a folder for a model that is too large to be bytes.

    Raises ``DataError`` if there is no image or one holds NaN or infinity, ``ModelError`` naming the first node that
    gives NaN or infinity, or if the model does not run.
    """
    tallies: dict[str, _Tally] = {}
    seen = 0
    with exposed(model, tensors, open_session=open_session, scratch=scratch) as (run, size):
        for batch in batches:
            for part, count in portions(batch, size or 1):
                which = f"image {seen + 1}" if count == 1 else f"one of the images {seen + 1} to {seen + count}"
                if not np.isfinite(part).all():
                    raise DataError(f"There is NaN or infinity in {which}.", "Leave it out, or preprocess it again.")
                for name, values in run(part):
                    if not np.isfinite(values).all():
                        raise ModelError(
                            f"The node {maker(model, name)} gives {_kind(values)} on {which}.",
                            "Look at that image; if the model does so on others too, train or export it again.",
                        )
                    if values.size:
                        tallies.setdefault(name, _Tally()).add(values)
                seen += count
                progress(seen)
    if not seen:
        raise DataError("There are no images to observe the model on.", "Give a folder with some.")
    return {name: tally.range(percentiles) for name, tally in tallies.items()}


@contextmanager
def exposed(
    model: Model,
    tensors: Collection[str] | None = None,
    *,
    open_session: OpenSession = open_on_cpu,
    scratch: Path | None = None,
) -> Iterator[tuple[Run, int | None]]:
    """Open ``model`` so that all of its floating-point tensors, or just ``tensors``, can be seen.

    Yields ``run`` and the batch it takes, None for any. ``run(x)`` gives name and values one after the other in the
    order in which they are computed, so the first NaN among them is where it comes from. As every tensor is handed
    over, every one is really rounded to its own type: without that, ONNX Runtime's CPU computes half precision in
    single, leaves out the casts in between, and hides what overflows elsewhere.
    """
    (image, *_), wanted = model.graph.inputs, floats(model) if tensors is None else list(tensors)
    made = sorted((name for name in wanted if name in model.producers), key=model.producers.__getitem__)
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(closing(_open(model, names, open_session, scratch, number)))
            for number, names in enumerate(_chunks(model, made))
        ]
        image_name = sessions[0].input if sessions else image.name

        def run(x: Array, controls: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Array]]:
            if image_name in wanted:
                yield image_name, x
            for session in sessions:
                yield from session.run(x, controls).items()

        yield run, sessions[0].input_shape[0] if sessions else None


def floats(model: Model) -> list[str]:
    """Names of the floating-point tensors that the model computes or takes as an input."""
    names = [*model.inputs, *model.producers]
    return [name for name in names if model.types.get(name) in KINDS]


def maker(model: Model, tensor: str) -> str:
    """How an error calls the node that makes ``tensor``."""
    node = model.nodes[model.producers[tensor]]
    return f"{shown(node.name or tensor)} ({shown(node.op)})"


def _open(model: Model, names: Sequence[str], open_session: OpenSession, scratch: Path | None, number: int) -> Session:
    outputs = [Variable(name, model.types.get(name)) for name in names]
    watched = replace(model, graph=replace(model.graph, outputs=outputs))
    return open_session(pack(watched, None if scratch is None else scratch / f"observed-{number}.onnx"), optimise=False)


def _chunks(model: Model, names: Sequence[str]) -> list[list[str]]:
    """The names, in order, in as few lists as have no more than ``HELD`` bytes each."""
    chunks: list[list[str]] = []
    held = 0
    for name in names:
        size = 4 * volume(model.shapes.get(name, ()))
        if not chunks or held + size > HELD:
            chunks.append([])
            held = 0
        chunks[-1].append(name)
        held += size
    return chunks


def _kind(values: Array) -> str:
    return "NaN" if np.isnan(values).any() else "infinity"


# -- a histogram of floating-point numbers by their own bits -----------------------------------------------------------
#
# The exponent and the first bits of the fraction of a float32 number it: no range has to be known in advance, and every
# bin is as wide as 1/32 of its values. What is smaller than 2^-24, half precision's least, counts as next to zero.

_FRACTION = 5  # bits of it that are kept
_LEAST, _MOST = -24, 40  # powers of two
_OCTAVE = 1 << _FRACTION
_BINS = (_MOST - _LEAST) * _OCTAVE  # for either sign
_FIRST = (127 + _LEAST) * _OCTAVE  # what the first bin's numbers begin with
_SIGN = 256 * _OCTAVE  # what those below zero begin with


@dataclass
class _Tally:
    """What was seen of one tensor: 32 KiB."""

    low: float = np.inf
    high: float = -np.inf
    counts: Array = field(default_factory=lambda: np.zeros(2 * _BINS, np.int64))  # from -2^40 up

    def add(self, values: Array) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        with np.errstate(over="ignore"):  # a double may be larger than any bin
            bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
        seen = np.bincount(bits >> (23 - _FRACTION), minlength=2 * _SIGN)
        self.counts[_BINS:] += _clipped(seen[:_SIGN])
        self.counts[:_BINS] += _clipped(seen[_SIGN:])[::-1]

    def range(self, percentiles: Sequence[float]) -> Range:
        return Range(self.low, self.high, {p: (self._at(100 - p), self._at(p)) for p in percentiles})

    def _at(self, percentile: float) -> float:
        """The percentile: as far into its bin as its rank is among the bin's numbers."""
        ends = np.cumsum(self.counts)
        rank = percentile / 100 * (int(ends[-1]) - 1)
        at = int(np.searchsorted(ends, rank, side="right"))
        inside = (rank - (int(ends[at]) - int(self.counts[at])) + 0.5) / int(self.counts[at])
        left, right = _edge(at - _BINS), _edge(at - _BINS + 1)
        return float(np.clip(left + min(inside, 1.0) * (right - left), self.low, self.high))


def _clipped(seen: Array) -> Array:
    """Counts of all exponents as those of the bins: what is too small or too large is in the first or the last."""
    counts: Array = seen[_FIRST : _FIRST + _BINS].copy()
    counts[0] += seen[:_FIRST].sum()
    counts[-1] += seen[_FIRST + _BINS :].sum()
    return counts


def _edge(number: int) -> float:
    """Where bin ``number`` begins; those below zero mirror those above."""
    if number <= 0:
        return -_edge(-number) if number else 0.0
    octave, step = divmod(number, _OCTAVE)
    return float(2.0 ** (_LEAST + octave) * (1 + step / _OCTAVE))
