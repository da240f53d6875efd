"""Backends open sessions that run an expert, and compile it first where a device wants that.

Each is imported only where it is used: ``cpu`` (ONNX Runtime, which runs the ONNX file itself) and ``tensorrt``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..controls import Control


class Session(Protocol):
    """A model that is ready to run: one image batch in, named arrays out."""

    @property
    def input(self) -> str:
        """Name of the image input."""

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the input; None for an axis that may have any length."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """The other inputs, with what they hold unless ``run`` is told otherwise."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs in the model's order."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """What the model's card says it tells apart, in the order of its scores; None without a card."""

    def run(self, x: NDArray[Any], controls: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Run the model on ``x``, which has ``input_shape`` and is cast to the input's type; every output by name.

        ``controls`` holds the values, flat or in the input's shape, of those that do not have their default.
        """

    def close(self) -> None:
        """Free the model; the session cannot run afterwards."""


class Stage(Session, Protocol):
    """A part of a network that runs in parts: it reads what earlier ones made."""

    @property
    def carried(self) -> tuple[str, ...]:
        """What it reads beside ``input``: ``run`` is given all of it among the controls, a row for each of ``x``."""


class OpenSession(Protocol):
    """Opens an ONNX model; ``optimise`` turns all of the runtime's graph optimisations on or off."""

    def __call__(self, model: Path | bytes, *, optimise: bool) -> Session:
        """A session over ``model``: its bytes, or its file where weights lie beside it."""


def portions(x: NDArray[Any], size: int) -> Iterator[tuple[NDArray[Any], int]]:
    """``x`` ``[n, ...]`` in parts of ``size``, and how many of each are its own: the last is filled up with its own.

    For a model that takes exactly ``size`` images at a time. They come in turns, for a model that decides by the mean
    over a call: that of the last part is its own where it goes into ``size``, and else as near as can be.
    """
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield np.resize(part, (size, *part.shape[1:])), len(part)


__all__ = ["OpenSession", "Session", "Stage", "portions"]
