"""Processors whose sums of 8-bit products saturate: an int8 model that would be wrong there runs between Q and DQ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from quantised import images, quantisable

from expertc.backends import overflow
from expertc.backends.cpu import open_session
from expertc.errors import ModelError
from expertc.graph import to_bytes
from expertc.surgery.quantise import ONNXRUNTIME, TENSORRT, Flavour, Quantise

NARROW = replace(ONNXRUNTIME, reduce_range=True)


def made(flavour: Flavour | None) -> bytes:
    model, ranges = quantisable()
    return to_bytes(model if flavour is None else Quantise(ranges, flavour).run(model)[0])


def unoptimised(model: bytes, x: np.ndarray) -> np.ndarray:
    """ONNX Runtime without expertc, and without any kernel for integers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize(("flavour", "wide"), [(None, False), (NARROW, False), (ONNXRUNTIME, True), (TENSORRT, True)])
def test_who_overflows(flavour: Flavour | None, wide: bool, monkeypatch, tmp_path: Path) -> None:
    model = made(flavour)
    (tmp_path / "model.onnx").write_bytes(model)
    monkeypatch.setattr(overflow, "saturates", lambda: True)
    assert overflow.overflows(model) is wide
    assert overflow.overflows(tmp_path / "model.onnx") is wide
    monkeypatch.setattr(overflow, "saturates", lambda: False)
    assert overflow.overflows(model) is False


@pytest.mark.parametrize("flavour", [ONNXRUNTIME, TENSORRT], ids=lambda flavour: flavour.name)
def test_it_computes_what_it_should(flavour: Flavour, monkeypatch) -> None:
    monkeypatch.setattr(overflow, "saturates", lambda: True)
    model, x = made(flavour), images(16, 3)
    session = open_session(model, threads=1)
    # rounding differs where scales are folded: far less than what saturation does (a tenth of the scores and more)
    found, wanted = session.run(x)["scores"], unoptimised(model, x)
    assert np.abs(found - wanted).max() <= 0.05 * np.abs(wanted).max()


def test_what_is_no_model_is_left_to_the_runtime(monkeypatch) -> None:
    monkeypatch.setattr(overflow, "saturates", lambda: True)
    assert overflow.overflows(b"\xffQuantizeLinear") is False
    with pytest.raises(ModelError):
        open_session(b"\xffQuantizeLinear")
