"""A model that names files of its victim as the home of its weights gets none of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from expertc.backends.cpu import open_session
from expertc.errors import ModelError

SECRET = np.arange(6, dtype=np.float32).reshape(3, 2)


def external(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=SECRET.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_an_initializer(location: str) -> onnx.ModelProto:
    return wrap([helper.make_node("MatMul", ["x", "w"], ["y"])], [external(location)])


def in_a_constant(location: str) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=external(location))
    return wrap([constant, helper.make_node("MatMul", ["x", "w"], ["y"])], [])


def in_a_branch(location: str) -> onnx.ModelProto:
    output = [helper.make_tensor_value_info("w", TensorProto.FLOAT, SECRET.shape)]
    graphs = [helper.make_graph([], side, [], output, [external(location)]) for side in ("then", "else")]
    choice = helper.make_node("If", ["yes"], ["w2"], then_branch=graphs[0], else_branch=graphs[1])
    yes = numpy_helper.from_array(np.array(True), "yes")
    return wrap([choice, helper.make_node("MatMul", ["x", "w2"], ["y"])], [yes])


def in_a_sparse_tensor(location: str) -> onnx.ModelProto:
    model = wrap([helper.make_node("MatMul", ["x", "w"], ["y"])], [])
    values = external(location)
    values.dims[:] = [6]
    indices = numpy_helper.from_array(np.arange(6), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(SECRET.shape)))
    return model


def wrap(nodes: list[Any], initializers: list[TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


HIDING_PLACES = (in_an_initializer, in_a_constant, in_a_branch, in_a_sparse_tensor)
LOCATIONS = ("../secret", "x/../../secret", "./../secret", "ABSOLUTE", "link", "hard", "sub/file", "", ".", "nowhere")
LOCATIONS += ("*/_ORT_MEM_ADDR_/*", "\x1b[2Jsecret", "pipe")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with a secret beside the folder and every kind of way to it."""
    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    made = tmp_path / "models"
    (made / "sub").mkdir(parents=True)
    (made / "x").mkdir()
    (made / "sub" / "file").write_bytes(SECRET.tobytes())
    (made / "link").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", made / "hard")
    os.mkfifo(made / "pipe")
    return made


@pytest.mark.parametrize("hide", HIDING_PLACES)
@pytest.mark.parametrize("location", LOCATIONS)
def test_no_way_out(folder: Path, hide: Callable[[str], onnx.ModelProto], location: str) -> None:
    location = str(folder.parent / "secret") if location == "ABSOLUTE" else location
    (folder / "model.onnx").write_bytes(hide(location).SerializeToString())
    with pytest.raises(ModelError, match="which is not a plain file beside it") as caught:
        open_session(folder / "model.onnx")
    assert all(character.isprintable() for character in str(caught.value))


@pytest.mark.parametrize("hide", HIDING_PLACES)
def test_a_model_without_a_place_reads_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hide: Callable[[str], onnx.ModelProto]
) -> None:
    (folder / "weights").write_bytes(SECRET.tobytes())
    monkeypatch.chdir(folder)  # where onnxruntime would look
    with pytest.raises(ModelError, match="'weights', which is not a plain file beside it"):
        open_session(hide("weights").SerializeToString())


@pytest.mark.parametrize("hide", [in_an_initializer, in_a_constant])
def test_the_very_same_model_is_read_from_beside(folder: Path, hide: Callable[[str], onnx.ModelProto]) -> None:
    (folder / "weights").write_bytes(SECRET.tobytes())
    (folder / "model.onnx").write_bytes(hide("weights").SerializeToString())
    x = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(open_session(folder / "model.onnx").run(x)["y"], x @ SECRET)


def test_weights_that_end_too_early(folder: Path) -> None:
    (folder / "weights").write_bytes(SECRET.tobytes()[:-1])
    (folder / "model.onnx").write_bytes(in_an_initializer("weights").SerializeToString())
    with pytest.raises(ModelError, match=r"model\.onnx"):
        open_session(folder / "model.onnx")


def test_a_label_called_location_harms_nobody() -> None:
    model = wrap([helper.make_node("MatMul", ["x", "location"], ["y"])], [numpy_helper.from_array(SECRET, "location")])
    x = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(open_session(model.SerializeToString()).run(x)["y"], x @ SECRET)
