"""A classifier small enough to be computed by hand: the mean over the image of each channel, times a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, compiled
from fake_tensorrt import Scene, fake
from onnx import TensorProto, helper, numpy_helper

from expertc.backends.tensorrt import driver, library


@dataclass(frozen=True)
class Classifier:
    """An ONNX model with the weights it was made from."""

    model: Any
    weight: np.ndarray
    bias: np.ndarray

    @property
    def data(self) -> bytes:
        return bytes(self.model.SerializeToString())

    def scores(self, x: np.ndarray) -> np.ndarray:
        """What the model must answer, in float64."""
        return x.astype(np.float64).mean(axis=(2, 3)) @ self.weight.astype(np.float64) + self.bias


MakeClassifier = Callable[..., Classifier]


@pytest.fixture(scope="session")
def make_classifier() -> MakeClassifier:
    def make(classes: int = 4, batch: int | str = "batch", size: int | str = 8, dtype: Any = np.float32) -> Classifier:
        rng = np.random.default_rng(classes)
        weight, bias = rng.normal(size=(3, classes)).astype(dtype), rng.normal(size=classes).astype(dtype)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph = helper.make_graph(
            [
                helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
                helper.make_node("Flatten", ["pooled"], ["features"]),
                helper.make_node("Gemm", ["features", "weight", "bias"], ["scores"]),
            ],
            "classifier",
            [helper.make_tensor_value_info("image", kind, [batch, 3, size, size])],
            [helper.make_tensor_value_info("scores", kind, [batch, classes])],
            [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return Classifier(model, weight, bias)

    return make


def one_node(operator: str, shape: list[Any], *, opset: int = 17, ir: int = 9, **attributes: Any) -> bytes:
    """A model of a single operator over one float input."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def make_one_node() -> Callable[..., bytes]:
    return one_node


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def cuda(cuda_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A simulated CUDA driver in the place of this machine's; at the end nothing of it may be left."""
    fake = FakeCuda(cuda_library)
    monkeypatch.setattr(driver, "LIBRARY", str(cuda_library))
    monkeypatch.setattr(driver, "KERNEL_MODULE", Path("nowhere"))
    yield fake
    fake.check()


@pytest.fixture
def scene(cuda: FakeCuda) -> Scene:
    return Scene(launched=cuda.launched)


@pytest.fixture
def install(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Puts the fake of a release in TensorRT's place."""

    def put(release: str) -> Any:
        trt = fake(release, scene)
        monkeypatch.setattr(library, "load", lambda: trt)
        return trt

    return put


@pytest.fixture
def trt(install: Callable[[str], Any]) -> Any:
    return install("10.3")


@pytest.fixture
def ranked(make_classifier: MakeClassifier) -> bytes:
    """Scores, the best three of them and where they are, and the best class: float32 and int64 outputs."""
    model = make_classifier(classes=7).model
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([3]), "three"))
    graph.node.append(helper.make_node("TopK", ["scores", "three"], ["top", "places"], axis=1))
    graph.node.append(helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0))
    for name, kind, shape in (
        ("top", TensorProto.FLOAT, ["batch", 3]), ("places", TensorProto.INT64, ["batch", 3]),
        ("best", TensorProto.INT64, ["batch"]),
    ):  # fmt: skip
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return bytes(model.SerializeToString())
