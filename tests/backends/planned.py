"""Plans by the fakes of TensorRT, images for them, and what ONNX Runtime says of the same models."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime

from expertc.backends.tensorrt.builder import build_plan
from expertc.backends.tensorrt.options import Options

SIZES = (2, 3, 4)  # images per call of the plans: the least, what they are tuned for, the most
RNG = np.random.default_rng(0)


def compiled(trt: Any, model: bytes, sizes: tuple[int, int, int] = SIZES) -> bytes:
    """A plan."""
    is_open = not onnx.load_from_string(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(model)
        return build_plan(trt, file, Options(batch=sizes if is_open else None)).data


def images(count: int, *shape: int) -> np.ndarray:
    return RNG.normal(size=(count, *(shape or (3, 8, 8)))).astype(np.float32)


def expected(model: bytes, x: np.ndarray, **more: Any) -> dict[str, np.ndarray]:
    """What ONNX Runtime says of the same model."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x, **more}), strict=True))


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(found[name], values)
