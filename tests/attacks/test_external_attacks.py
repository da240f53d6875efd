"""Weights in files beside the model, named by a stranger: nothing outside the model's folder is ever read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import Net, card, run
from onnx import TensorProto

from expertc.errors import ModelError
from expertc.graph import read_model, to_bytes
from expertc.surgery.prune import prune

WEIGHTS = np.arange(600 * 4, dtype=np.float32).reshape(600, 4) / 1000  # too many to be taken into the protobuf
SECRET = "weights.bin"


def model(**entries: str) -> onnx.ModelProto:
    """Scores ``[batch, 4]`` of a product with ``WEIGHTS``, which lie where ``entries`` say."""
    net = Net()
    flat = net.node("Flatten", net.image(6, 10, 10))
    net.result(net.node("MatMul", flat, "far", out="scores"), 4)
    proto = net.model(check=False)
    tensor = proto.graph.initializer.add(
        name="far", data_type=TensorProto.FLOAT, dims=[600, 4], data_location=TensorProto.EXTERNAL
    )
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return proto


def refused(folder: Path, proto: onnx.ModelProto) -> str:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught:
        read_model(path)
    text = f"{caught.value.message} {caught.value.hint}"
    assert text.isprintable()
    assert len(text) < 500
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a good file of weights, inside one with another."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (tmp_path / SECRET, inside / SECRET):
        path.write_bytes(WEIGHTS.tobytes())
    return inside


def test_the_good_file_is_read(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(model(location=SECRET, offset="0", length="9600").SerializeToString())
    done = prune(read_model(path), card(4), [1, 3])
    inputs = {"image": np.random.default_rng(0).standard_normal((2, 6, 10, 10), np.float32)}
    whole = onnx.load(path)  # with its weights: onnx's own reading of the same file
    assert np.array_equal(
        run(to_bytes(done.model), inputs)["scores"], run(whole.SerializeToString(), inputs)["scores"][:, [1, 3]]
    )


@pytest.mark.parametrize(
    "location",
    [
        "../weights.bin", "./weights.bin", "/etc/passwd", "/dev/zero", "a/../weights.bin", "", ".", "..", "a//b",
        "C:\\weights.bin", "..\\weights.bin", "c:weights.bin", "weights.bin\0", "\x1b[31m", "x" * 5000, "missing.bin",
    ],
)  # fmt: skip
def test_places_outside_the_folder(location: str, folder: Path) -> None:
    refused(folder, model(location=location))


def test_a_place_that_is_no_text(folder: Path) -> None:
    path = folder / "model.onnx"
    data = model(location="AAAA", offset="0", length="9600").SerializeToString()
    path.write_bytes(data.replace(b"AAAA", b"A\xff\xfeA"))
    (folder / SECRET).rename(folder / os.fsdecode(b"A\xff\xfeA"))
    with pytest.raises(ModelError, match="not UTF-8"):
        read_model(path)


def _symlink(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / SECRET)
    return "link.bin"


def _symlink_inside(folder: Path) -> str:
    (folder / "link.bin").symlink_to(SECRET)
    return "link.bin"


def _linked_folder(folder: Path) -> str:
    (folder / "sub").symlink_to(folder.parent)
    return f"sub/{SECRET}"


def _hard_link(folder: Path) -> str:
    os.link(folder.parent / SECRET, folder / "hard.bin")
    return "hard.bin"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def _directory(folder: Path) -> str:
    (folder / "dir").mkdir()
    return "dir"


def _empty(folder: Path) -> str:
    (folder / "empty.bin").touch()
    return "empty.bin"


@pytest.mark.parametrize(
    "lay", [_symlink, _symlink_inside, _linked_folder, _hard_link, _pipe, _directory, _empty], ids=lambda f: f.__name__
)
def test_what_is_no_ordinary_file(lay: Callable[[Path], str], folder: Path) -> None:
    refused(folder, model(location=lay(folder)))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "1"}, {"offset": "9600"}, {"offset": "-4"}, {"offset": "99999999999999999999999"},
        {"offset": str(2**63)}, {"offset": "0x10"}, {"offset": "٣"}, {"offset": ""}, {"offset": "1e3"},
        {"length": "9599"}, {"length": "9601"}, {"length": "0"}, {"length": "-1"}, {"length": "nan"},
        {"basepath": "/etc"}, {"__class__": "x"}, {"data": "x"},
    ],
)  # fmt: skip
def test_entries_that_lie(entries: dict[str, str], folder: Path) -> None:
    refused(folder, model(location=SECRET, **entries))


def test_entries_that_are_missing_or_repeated(folder: Path) -> None:
    refused(folder, model())
    proto = model(location=SECRET)
    proto.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    refused(folder, proto)
    proto = model(location=SECRET)
    proto.graph.initializer[0].raw_data = WEIGHTS.tobytes()
    refused(folder, proto)
    proto = model(location=SECRET)
    proto.graph.initializer[0].data_location = TensorProto.DEFAULT
    refused(folder, proto)


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-600, 4], [600, 5], [2**31]])
def test_shapes_that_lie(dims: list[int], folder: Path) -> None:
    proto = model(location=SECRET)
    proto.graph.initializer[0].dims[:] = dims
    refused(folder, proto)


@pytest.mark.parametrize("kind", ["STRING", "UNDEFINED", 99])
@pytest.mark.parametrize("dims", [[600, 4], [2, 2], []])
def test_types_that_no_file_can_hold(kind: str | int, dims: list[int], folder: Path) -> None:
    proto = model(location=SECRET)
    tensor = proto.graph.initializer[0]
    tensor.data_type = TensorProto.DataType.Value(kind) if isinstance(kind, str) else kind
    tensor.dims[:] = dims
    refused(folder, proto)


def test_two_tensors_may_share_bytes_as_the_runtime_lets_them(folder: Path) -> None:
    proto = model(location=SECRET, offset="0")
    other = proto.graph.initializer.add()
    other.CopyFrom(proto.graph.initializer[0])
    other.name = "near"
    other.dims[:] = [400, 6]
    proto.graph.node.append(onnx.helper.make_node("ReduceSum", ["near"], ["total"], keepdims=0))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("total", TensorProto.FLOAT, []))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    done = prune(read_model(path), card(4), [0])
    inputs = {"image": np.ones((1, 6, 10, 10), np.float32)}
    mine, theirs = run(to_bytes(done.model), inputs), run(onnx.load(path).SerializeToString(), inputs)
    assert np.array_equal(mine["total"], theirs["total"])
    np.testing.assert_allclose(mine["scores"], theirs["scores"][:, :1], rtol=1e-5)


def test_a_model_in_memory_has_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="in memory"):
        read_model(model(location=SECRET).SerializeToString())
