"""fuse on what torch exports: branches of modules, NHL's tree, HLFP; and on the trained model that is shipped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fused import FORM, counts, fused, optimised
from networks import run
from torch import nn

import expertc
from expertc.graph import read_model, to_bytes
from expertc.source import open_source
from expertc.surgery.fold import Fold
from expertc.surgery.fuse import FORMS, Fuse
from expertc.surgery.prune import prune
from expertc.taxonomy import Taxonomy
from expertc.zoo import import_timm

TREE = """name: zoo
tree:
  cats: {lion: {index: 0}, tiger: {index: 4}}
  dogs: {wolf: {index: 3}, fox: {index: 1}}
  birds: {eagle: {index: 2}, owl: {index: 5}, crow: {index: 6}}
"""
ENGINES = (run, optimised)


class Separate(nn.Module):
    """Branches as modules of their own, with a SiLU and a head each."""

    def __init__(self, branches: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4), nn.SiLU(),
                nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU6(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1),
            )
            for _ in range(branches)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.trunk(x)
        return torch.cat([branch(x) for branch in self.branches], 1)


def exported(network: nn.Module, side: int) -> bytes:
    """By TorchScript, with a symbolic batch; folded. Norms do something."""
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(0.0, 0.4)
    buffer = io.BytesIO()
    torch.onnx.export(
        network.eval(), (torch.randn(2, 3, side, side),), buffer, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["scores"], dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )  # fmt: skip
    return to_bytes(Fold().run(read_model(buffer.getvalue()))[0])


def agrees(network: nn.Module, model: bytes, side: int) -> bool:
    """Whether the model says what torch says."""
    image = torch.randn(3, 3, side, side)
    with torch.inference_mode():
        expected = network.eval()(image).numpy()
    got = run(model, {"image": image.numpy()})["scores"]
    return bool(np.abs(got - expected).max() < 1e-4 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_separate_modules() -> None:
    torch.manual_seed(0)
    network = Separate()
    data = exported(network, 8)
    assert (counts(data)["Conv"], counts(data)["Gemm"]) == (9, 4)
    result = fused(data, FORM["grouped"])
    found = counts(result)
    assert found["Conv"] == 1 + 2 + 1
    assert not {"Gemm", "Split", "Concat"} & found.keys()
    assert agrees(network, result, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_hlfp_in_both_forms() -> None:
    """Separate modules become what the grouped form of the same network is; that one stays as it is."""

    def made(form: str) -> Any:
        torch.manual_seed(1)
        taxonomy = Taxonomy.flat([f"class-{i}" for i in range(4)])
        return import_timm().create_model("hlfp_small", taxonomy=taxonomy, width=0.0625, form=form)

    network = made("separate")
    data, grouped = exported(network, 32), exported(made("fused"), 32)
    before = counts(data)
    for form in FORMS:
        found = counts(fused(data, form, engines=ENGINES))
        assert found["Conv"] + found.get("MatMul", 0) != before["Conv"]
        assert not Fuse(form).run(read_model(grouped))[1]
    result = fused(data, FORM["grouped"], engines=ENGINES)
    found, expected = counts(result), counts(grouped)
    for op in ("Conv", "Relu", "Add", "ReduceMean", "GlobalAveragePool", "Split", "Concat", "Identity"):
        assert found.get(op, 0) == expected.get(op, 0), op
    assert agrees(network, result, 32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_nhl_tree() -> None:
    """Two parents of two classes and one of three; the classes' order is not the tree's."""
    torch.manual_seed(2)
    network = import_timm().create_model("nhl_efficientnet_lite0", taxonomy=Taxonomy.parse(TREE))
    data = exported(network, 32)
    result = fused(data, FORM["grouped"], engines=ENGINES)
    before, found = counts(data), counts(result)
    assert (before["Conv"], before["Gemm"], found["Conv"]) == (73, 7, 51)
    assert (found.get("Gemm", 0), found.get("Split", 0)) == (0, 0), "every leaf has a sibling"
    assert found["Gather"] == 1
    assert agrees(network, result, 32)


def test_the_shipped_model() -> None:
    """Trained, nested: categories of one to three classes."""
    source = open_source(Path(expertc.__file__).parent / "models" / "sea-animals.onnx")
    cut = prune(source.model, source.card, tuple(range(10)))
    data = to_bytes(Fold().run(cut.model)[0])
    assert (counts(data)["Conv"], counts(data)["Gemm"]) == (109, 10)
    for name, convolutions, products in (("heads", 109 + 2, 2), ("grouped", 79, 2)):
        found = counts(fused(data, FORM[name], engines=ENGINES))
        assert (found["Conv"], found["Gemm"], found["Gather"]) == (convolutions, products, 1)
        assert "Split" not in found
