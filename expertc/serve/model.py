"""An expert that is being served: opened, warmed up, and asked for tensors or about photos. Threads may share it.

``backends``' sessions may be run by several threads (ONNX Runtime's side by side, an engine's in turn), and an
``Expert`` holds nothing that a call changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import CONTROLS, MANIFEST, open_bundle
from ..controls import settle
from ..errors import DataError
from ..preprocessing import Preprocess
from ..releases import release_id
from ..runtime import Expert, Prediction, load_image
from ..taxonomy import Taxonomy
from .protocol import answer, read
from .settings import Settings
from .tensors import FREE, Tensor

Array = np.ndarray[Any, Any]

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
"""What the protocol's metadata calls a backend: project and format."""

_FREE_SIDE = 224  # the height or width at which a model that takes any, and does not say what it expects, is tried


@dataclass(frozen=True, eq=False)
class Model:
    """An open expert, which is equal to itself only.

    ``version`` is the ID of its release, ``values`` what its controls are unless a request says.
    """

    name: str
    version: str
    path: Path
    platform: str
    expert: Expert
    values: Mapping[str, tuple[float, ...]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def metadata(self) -> dict[str, Any]:
        """``$metadata_model_response``; all inputs but the first are optional and have a default."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self.platform,
            "inputs": [tensor.to_mapping() for tensor in self.inputs],
            "outputs": [tensor.to_mapping() for tensor in self.outputs],
        }

    def infer(self, body: bytes, json_length: str | None) -> tuple[bytes, dict[str, str]]:
        """The body and headers that answer an inference request. Raises ``DataError`` for one that makes no sense."""
        asked = read(body, json_length, self.inputs, [tensor.name for tensor in self.outputs])
        image, *controls = self.inputs
        given = {each.name: asked.inputs[each.name].ravel() for each in controls if each.name in asked.inputs}
        return answer(asked, self.name, self.version, self._run(asked.inputs[image.name], given))

    def predict(self, body: bytes, top: int, max_pixels: int) -> Prediction:
        """What the expert says of an encoded image. Raises ``DataError`` for one that it cannot say anything about."""
        image = load_image(body, "request body", max_pixels=max_pixels)
        (found,) = self.expert.predict(image, top, controls=self.values)
        if found.error is not None:
            raise DataError(found.error)
        return found

    def _run(self, x: Array, given: Mapping[str, Array]) -> dict[str, Array]:
        said: dict[str, Any] = {**self.values, **given}
        return self.expert.session.run(x, settle(self.expert.controls, Taxonomy.flat(self.expert.labels), said))


def open_model(path: Path, name: str, settings: Settings) -> Model:
    """Open the bundle at ``path`` and run it once or twice, so that the first request finds it warm.

    Raises what ``Expert.open`` raises, ``UsageError`` if it has no such controls as the settings say.
    """
    bundle = open_bundle(path)
    version = release_id((path / MANIFEST).read_bytes())
    expert = Expert.open(bundle, threads=settings.threads)
    try:
        chosen: dict[str, Any] = {} if settings.exits is None else dict(expert.set_exits(settings.exits))
        values = settle(expert.controls, Taxonomy.flat(expert.labels), {**settings.controls, **chosen})
        session, spec = expert.session, expert.preprocess
        image = Tensor(
            session.input,
            np.dtype(np.float32 if spec is None else spec.dtype),
            tuple(FREE if axis is None else axis for axis in session.input_shape),
        )
        outputs = _try(expert, image, () if spec is None else _made(spec), values)
    except BaseException:
        expert.close()
        raise
    listed = bundle.manifest.get(CONTROLS, [])
    shapes = {item["name"]: item.get("shape") for item in listed}
    controls = [_control(control.name, len(control.default), shapes[control.name]) for control in expert.controls]
    platform = PLATFORMS.get(bundle.backend, bundle.backend)
    return Model(name, version, path, platform, expert, values, (image, *controls), outputs)


def _made(spec: Preprocess) -> tuple[int, ...]:
    return (3, *spec.size) if spec.layout == "NCHW" else (*spec.size, 3)


def _control(name: str, size: int, shape: Any) -> Tensor:
    sound = isinstance(shape, list) and all(type(axis) is int and axis > 0 for axis in shape)
    own = tuple(shape) if sound and np.prod(shape, dtype=np.int64) == size else (size,)
    return Tensor(name, np.dtype(np.float32), own)


def _try(
    expert: Expert, image: Tensor, sides: tuple[int, ...], values: Mapping[str, tuple[float, ...]]
) -> tuple[Tensor, ...]:
    """The outputs of runs on nothing: on one and on two images, where any number will do, to see which axes follow."""
    axes = zip_longest(image.shape[1:], sides, fillvalue=_FREE_SIDE)
    rest = [side if axis == FREE else axis for axis, side in axes]
    sizes = (1, 2) if image.shape[0] == FREE else image.shape[:1]
    zeros = np.zeros((sizes[-1], *rest), image.dtype)
    runs = [expert.session.run(zeros[:size], values) for size in sizes]
    expert.scores(zeros, values)  # which checks that there are as many as labels
    first, last = runs[0], runs[-1]
    return tuple(
        Tensor(
            name,
            first[name].dtype,
            tuple(
                one if one == other else FREE for one, other in zip(first[name].shape, last[name].shape, strict=True)
            ),
        )
        for name in expert.session.outputs
    )
