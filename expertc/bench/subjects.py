"""What is measured: the files behind the paths, short names for them, and the noise they are given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Session
from ..backends.cpu import open_session
from ..backends.staged import on_processor
from ..bundle import MODEL, open_bundle
from ..controls import Control
from ..errors import UsageError
from ..exits import EXIT, GRANULARITY, Exits
from ..runtime.exits import AS_BUILT, Chosen
from ..text import clean_text
from .exits import Exiting
from .report import OFFLINE


@dataclass(frozen=True)
class Subject:
    """A model that is open; ``path`` is as it was given, ``sha256`` that of the ONNX file or bytes.

    ``notes`` say where it runs, if that is not the processor or should not be; ``controls`` are its inputs beside the
    image, with the defaults of its bundle; ``exits`` are those that its bundle decides among.
    """

    path: str
    sha256: str
    session: Session
    notes: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    exits: Exits | None = None

    @property
    def has_exits(self) -> bool:
        """Whether it decides among early exits, be it by settings that are frozen; plain ones run to the end."""
        return {GRANULARITY, EXIT} <= {*self.session.outputs}

    def settings(self, chosen: Chosen) -> dict[str, tuple[float, ...]]:
        """What controls hold that is not the model's own default; early exits, where it has any, as ``chosen``.

        Raises ``UsageError`` as ``Chosen.settings`` does.
        """
        known = {control.name: control.default for control in self.session.controls}
        return {name: values for name, values in self._held(chosen).items() if values != known.get(name)}

    def exiting(self, x: NDArray[Any], chosen: Chosen) -> Exiting | None:
        """Which exit answers ``x``, and how it was set; None where there are none. Raises what ``settings`` raises."""
        if not self.has_exits:
            return None
        found = self.session.run(x, self.settings(chosen))
        return Exiting.of(int(found[EXIT][0]), chosen, self._held(chosen))

    def _held(self, chosen: Chosen) -> dict[str, tuple[float, ...]]:
        own = (chosen if self.has_exits else AS_BUILT).settings(self.controls, self.exits)
        return {control.name: control.default for control in self.controls} | own


def open_subject(path: str | Path, model: Path | bytes, threads: int | None, opened: ExitStack) -> Subject:
    """Open ``model``, which stands for ``path``, for as long as ``opened``. Raises what ``open_model`` raises."""
    session, notes = open_model(Path(path), model, threads)
    bundled = Path(path).is_dir() and not isinstance(model, bytes)
    bundle = open_bundle(path) if bundled else None
    controls, exits = (session.controls, None) if bundle is None else (bundle.controls, bundle.exits)
    opened.enter_context(closing(session))
    data = model if isinstance(model, bytes) else model.read_bytes()
    return Subject(str(path), hashlib.sha256(data).hexdigest(), session, notes, controls, exits)


def open_model(path: Path, model: Path | bytes, threads: int | None) -> tuple[Session, tuple[str, ...]]:
    """A session for ``model``, on the processor; for a bundle at ``path`` that is for a device, its engine there.

    Also says where it runs. Raises what ``open_bundle``, ``open_session`` and ``open_anywhere`` raise.
    """
    bundle = open_bundle(path) if path.is_dir() else None
    if bundle is None or isinstance(model, bytes):
        return open_session(model, threads=threads), ()
    if bundle.backend != "tensorrt":
        return on_processor(bundle, threads), ()
    from ..engines import open_anywhere

    session, said = open_anywhere(bundle, threads=threads)
    return session, said or ("Its engine runs, on the GPU.",)


def is_for_device(path: Path) -> bool:
    """Whether there is a bundle at ``path`` whose expert TensorRT compiles. Raises what ``open_bundle`` raises."""
    return path.is_dir() and open_bundle(path).backend == "tensorrt"


def is_staged(path: Path) -> bool:
    """Whether there is a bundle at ``path`` with a graph for each exit. Raises what ``open_bundle`` raises."""
    return path.is_dir() and len(open_bundle(path).stages) > 1


def files_of(paths: Sequence[str | Path]) -> Mapping[str, Path]:
    """The models' files by ``names_of`` their paths. Raises what ``open_bundle`` raises."""
    return dict(zip(names_of(paths), (file_of(Path(path)) for path in paths), strict=True))


def file_of(path: Path) -> Path:
    """The model's file: the one in a bundle, or ``path`` itself."""
    return open_bundle(path).file(MODEL) if path.is_dir() else path


def names_of(paths: Sequence[str | Path]) -> list[str]:
    """A short name for each path, all different."""
    names: list[str] = []
    for path in paths:
        plain = clean_text(Path(path).resolve().name)
        times = sum(name == plain or name.startswith(f"{plain} (") for name in names)
        names.append(f"{plain} ({times + 1})" if times else plain)
    return names


def noise(session: Session, name: str, scenario: str, batch: int, seed: int) -> NDArray[Any]:
    """Standard normal noise of the session's input shape, float32; ``batch`` images where it takes any number.

    Raises ``UsageError`` for an open height or width, and for a batch other than the scenario's.
    """
    shape = session.input_shape
    if not shape or None in shape[1:]:
        axes = ", ".join("?" if axis is None else str(axis) for axis in shape)
        raise UsageError(
            f"The input '{clean_text(session.input)}' of {name} has no fixed size ({axes}).",
            "Export the model with a fixed height and width.",
        )
    size = shape[0] or batch
    if scenario != OFFLINE and size != 1:
        raise UsageError(f"{name} takes {size} images at once, never one.", f"Use the scenario {OFFLINE}.")
    return np.random.default_rng(seed).standard_normal((size, *(axis or 1 for axis in shape[1:])), np.float32)
