"""Exporting networks that take more than an image: the gains are inputs, their defaults stand on the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from expertc import build
from expertc.backends.cpu import open_session
from expertc.card import Card, Control, Output
from expertc.errors import CardError, ModelError, VerificationError
from expertc.export import check, export
from expertc.taxonomy import Taxonomy
from expertc.zoo import import_timm

CLASSES, WIDTH = ("cats", "dogs", "emus", "foxes"), 3


class Gained(nn.Module):
    """A group of channels per class, a gain per class on them, and a threshold below the scores."""

    def __init__(self, ignore: bool = False) -> None:
        super().__init__()
        channels = WIDTH * len(CLASSES)
        self.ignore = ignore
        self.wide = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, groups=len(CLASSES))
        self.heads = nn.Conv2d(channels, len(CLASSES), 1, groups=len(CLASSES))

    def forward(self, image: Tensor, gain: Tensor, threshold: Tensor) -> Tensor:
        x = self.norm(self.wide(image)).relu()
        if not self.ignore:
            x = x * gain.repeat_interleave(WIDTH)[:, None, None]
        return self.heads(self.second(x).relu().mean((2, 3), keepdim=True)).flatten(1) - threshold


def gained(**options: bool) -> Gained:
    torch.manual_seed(0)
    return Gained(**options).eval()


CONTROLS = (Control("gain", (1.0,) * 4, True), Control("threshold", (0.25,), False))
CARD = Card("pets", Taxonomy.flat(CLASSES), (Output("logits"),), "image", controls=CONTROLS)
IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> bytes:
    return export(gained(), CARD, (8, 8))


def test_controls_are_required_inputs_of_static_shape(model: bytes) -> None:
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
    }
    assert shapes == {"image": ["batch", 3, 8, 8], "gain": [4], "threshold": [1]}
    assert not shapes.keys() & {tensor.name for tensor in proto.graph.initializer}
    session = open_session(model)
    assert (session.input, session.input_shape, session.controls) == ("image", (None, 3, 8, 8), CONTROLS)


def test_onnx_runtime_agrees_with_torch_for_any_values(model: bytes) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for gain in ([1.0] * 4, [0.2, 1.8, 0.0, 3.0]):
        with torch.inference_mode():
            expected = gained()(IMAGES, torch.tensor(gain), torch.tensor([0.7])).numpy()
        feeds = {"image": IMAGES.numpy(), "gain": np.float32(gain), "threshold": np.float32([0.7])}
        (got,) = session.run(None, feeds)
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert check(model, gained(), IMAGES) <= 1e-5


def test_check_sees_a_network_that_is_deaf_to_its_gains(model: bytes) -> None:
    """For the defaults, ones, it says the same."""
    with pytest.raises(VerificationError, match="'logits' differs"):
        check(model, gained(ignore=True), IMAGES)


def test_a_control_that_is_not_used_stays_an_input() -> None:
    data = export(gained(ignore=True), CARD, (8, 8))
    assert [value.name for value in onnx.load_from_string(data).graph.input] == ["image", "gain", "threshold"]
    assert check(data, gained(ignore=True), IMAGES) <= 1e-5


@pytest.mark.parametrize("level", ["fast", "full"])
def test_the_export_can_be_cut(model: bytes, tmp_path: Path, level: str) -> None:
    (tmp_path / "full.onnx").write_bytes(model)
    built: Any = build(
        tmp_path / "full.onnx",
        classes="dogs,foxes",
        output=tmp_path / "a.expert",
        verification=level,
        measure_seconds=0,
    )
    assert built.certificate.verdict == "verified"
    session = onnxruntime.InferenceSession(tmp_path / "a.expert" / "expert.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        gain, threshold = torch.tensor([0.5, 2.0, 3.0, 1.5]), torch.tensor([0.1])
        expected = gained()(IMAGES[:1], gain, threshold).numpy()[:, [1, 3]]
    feeds = {"image": IMAGES[:1].numpy(), "gain": gain[[1, 3]].numpy(), "threshold": threshold.numpy()}
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5 * np.abs(expected).max())
    # wide 3 x 9 + 1, norm 2, second 3 x 9 + 1, head 3, per channel; head's bias
    assert built.expert.cost.parameters == 2 * WIDTH * (28 + 2 + 28 + 1) + 2


def test_a_card_whose_control_the_network_does_not_take() -> None:
    from dataclasses import replace

    with pytest.raises(ModelError, match="torch cannot export"):
        export(gained(), replace(CARD, controls=(*CONTROLS, Control("heat", (1.0,), False))), (8, 8))
    with pytest.raises(CardError, match="3 values for 4 classes"):
        replace(CARD, controls=(Control("gain", (1.0,) * 3, True),))


@pytest.mark.parametrize("form", ["separate", "fused"])
def test_a_network_of_the_zoo_in_both_forms(form: str, tmp_path: Path) -> None:
    """Separate branches are stamped, each reading its own entry of a Split."""
    timm = import_timm()
    torch.manual_seed(0)
    network = timm.create_model("hlfp_small", num_classes=4, form=form, width=0.05).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # else the residual branches are silent
    card = Card("hlfp", network.taxonomy, (Output("logits"),), "image", controls=CONTROLS[:1])
    data = export(network, card, (32, 32))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert check(data, network, images) <= 1e-4
    (tmp_path / "full.onnx").write_bytes(data)
    built: Any = build(tmp_path / "full.onnx", classes="#1,#3", output=tmp_path / "a.expert", measure_seconds=0)
    assert built.certificate.verdict == "verified"
    assert not built.notes
    gain = torch.tensor([0.5, 2.0, 3.0, 1.5])
    with torch.inference_mode():
        expected = network(images[:1], gain).numpy()[:, [1, 3]]
    session = onnxruntime.InferenceSession(tmp_path / "a.expert" / "expert.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {"image": images[:1].numpy(), "gain": gain[[1, 3]].numpy()})[0]
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
