"""Models too large for one protobuf: their weights go to a file beside them. The limit is lowered for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import Net, card, feeds, run

from expertc import Expert, build
from expertc.bundle import MODEL, WEIGHTS, open_bundle
from expertc.card import CARD_KEY
from expertc.compiler import Built
from expertc.graph import is_exactly, pack, read_model, to_bytes, write
from expertc.graph.write import ALIGNMENT
from expertc.surgery.prune import prune

CLASSES = 6


def wide(folder: Path) -> Path:
    """A model with weights of many sizes; some of them are shared, one is an output."""
    net = Net()
    hidden = net.node("Tanh", net.conv(net.image(), 3, 64, kernel=3, name="first"))
    hidden = net.node("Tanh", net.conv(hidden, 64, 64, kernel=3, name="second"))
    net.result(net.head(hidden, 64, CLASSES, name="scores"), CLASSES)
    net.metadata[CARD_KEY] = card(CLASSES).to_json()
    path = folder / "full.onnx"
    path.write_bytes(net.bytes())
    return path


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "EXTERNAL_ABOVE", 1000)


@pytest.mark.usefixtures("low")
def test_a_packed_model_is_read_by_others_and_by_us(tmp_path: Path) -> None:
    full = wide(tmp_path).read_bytes()
    expert = prune(read_model(full), card(CLASSES), [1, 4]).model
    path = pack(expert, tmp_path / "expert.onnx")
    assert path == tmp_path / "expert.onnx"
    assert path.stat().st_size < 5000
    onnx.checker.check_model(path, full_check=True)  # onnx finds the weights by itself
    loaded = onnx.load(path)
    inputs = feeds(full)
    wanted = run(full, inputs)["scores"][:, [1, 4]]
    assert np.array_equal(run(loaded.SerializeToString(), inputs)["scores"], wanted)
    again = read_model(path)
    assert to_bytes(again) == to_bytes(expert)
    assert is_exactly(again, path)
    offsets = [int(e.value) for t in onnx.load(path, load_external_data=False).graph.initializer
               for e in t.external_data if e.key == "offset"]  # fmt: skip
    assert len(offsets) == 1 + 1  # a row of the head is small enough for the protobuf
    assert all(offset % ALIGNMENT == 0 for offset in offsets)


@pytest.mark.usefixtures("low")
def test_what_is_hidden_beside_it_is_noticed(tmp_path: Path) -> None:
    model = read_model(wide(tmp_path))
    path = pack(model, tmp_path / "expert.onnx")
    assert isinstance(path, Path)
    assert is_exactly(read_model(path), path)
    with (tmp_path / "expert.onnx.data").open("ab") as file:
        file.write(b"secret")
    assert not is_exactly(read_model(path), path)


@pytest.mark.usefixtures("low")
def test_what_is_hidden_between_its_weights_is_noticed(tmp_path: Path) -> None:
    path = pack(read_model(wide(tmp_path)), tmp_path / "expert.onnx")
    weights = tmp_path / "expert.onnx.data"
    data = bytearray(weights.read_bytes())
    start = 64 * 3 * 3 * 3 * 4  # the first convolution's weights end here; the next begin at a page
    assert start % ALIGNMENT
    assert data[start : start + 6] == bytes(6)
    data[start : start + 6] = b"secret"
    weights.write_bytes(data)
    assert not is_exactly(read_model(path), path)


@pytest.mark.usefixtures("low")
def test_a_large_model_needs_a_place() -> None:
    net = Net()
    net.result(net.head(net.conv(net.image(), 3, 512, name="c"), 512, CLASSES, name="scores"), CLASSES)
    with pytest.raises(ValueError, match="needs a place"):
        pack(read_model(net.bytes()), None)


@pytest.mark.usefixtures("low")
def test_the_whole_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifying process, which has the usual limit, reads the files as they are."""
    monkeypatch.chdir(tmp_path)
    built: Built = build(wide(tmp_path), classes="#1,#4", measure_seconds=0.05)
    assert built.certificate.verdict == "verified"
    bundle = open_bundle(built.path)
    assert {MODEL, WEIGHTS} <= bundle.manifest["files"].keys()
    total = sum(bundle.manifest["files"][name]["bytes"] for name in (MODEL, WEIGHTS))
    assert built.expert.file_bytes == total
    with Expert.open(built.path) as expert:
        x = np.random.default_rng(0).standard_normal((1, 3, 4, 4), np.float32)
        wanted = run((tmp_path / "full.onnx").read_bytes(), {"image": x})["scores"][:, [1, 4]]
        np.testing.assert_allclose(expert.scores(x), wanted, rtol=1e-4, atol=1e-6)
