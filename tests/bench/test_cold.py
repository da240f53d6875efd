"""The start of a model in a process of its own, against what that process can be seen to have done."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import Net

from expertc.bench.cold import cold_start
from expertc.errors import ModelError


def model(folder: Path, channels: int) -> Path:
    """A classifier whose weights are 36 bytes times ``channels`` squared."""
    net = Net()
    x = net.conv(net.conv(net.image(3, 8, 8), 3, channels, name="a"), channels, channels, kernel=3, name="b")
    net.result(net.head(x, channels, 4, name="scores"), 4)
    path = folder / f"{channels}.onnx"
    path.write_bytes(net.bytes())
    return path


def test_a_start_is_measured_in_parts(tmp_path: Path) -> None:
    found = cold_start(model(tmp_path, 8), (1, 3, 8, 8), threads=1)
    assert min(found.imports, found.load, found.first, found.second) > 0
    assert found.until_first_answer == found.imports + found.load + found.first
    assert 2**24 < found.runtime_bytes <= found.peak_bytes < 2**31
    assert found.to_mapping()["until_first_answer"] == found.until_first_answer


def test_the_peak_holds_the_weights(tmp_path: Path) -> None:
    small, large = (cold_start(model(tmp_path, n), (1, 3, 8, 8), threads=1) for n in (8, 1024))  # 38 MB of weights
    assert (large.peak_bytes - large.runtime_bytes) - (small.peak_bytes - small.runtime_bytes) > 36e6


def test_a_model_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        cold_start(tmp_path / "bad.onnx", (1, 3, 8, 8))
