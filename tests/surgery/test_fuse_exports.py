"""fuse on what torch exports: branches of modules, NHL's tree, HLFP with its gain as an input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fused import FORM, counts, fused, optimised
from networks import run
from torch import nn

from expertc.export import export_random
from expertc.graph import read_model, to_bytes, with_batch
from expertc.source import open_source
from expertc.surgery.embed import Embed
from expertc.surgery.fold import Fold
from expertc.surgery.fuse import FORMS, Fuse
from expertc.surgery.prune import prune
from expertc.taxonomy import Taxonomy

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_export_of_separate_modules() -> None:
    torch.manual_seed(0)
    network, buffer = Separate().eval(), io.BytesIO()
    torch.onnx.export(
        network, (torch.randn(2, 3, 8, 8),), buffer, dynamo=False, opset_version=17, input_names=["image"],
        output_names=["scores"], dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )  # fmt: skip
    folded = to_bytes(Fold().run(read_model(buffer.getvalue()))[0])
    assert (counts(folded)["Conv"], counts(folded)["Gemm"]) == (9, 4)
    found = counts(fused(folded, FORM["grouped"]))
    assert found["Conv"] == 1 + 2 + 1
    assert not {"Gemm", "Split", "Concat"} & found.keys()
    image = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        expected = network(image).numpy()
    got = run(fused(folded, FORM["grouped"]), {"image": image.numpy()})["scores"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def expert(path: Path, indices: list[int], *, embed: bool = True) -> bytes:
    source = open_source(path)
    cut = prune(source.model, source.card, tuple(indices))
    model = with_batch(cut.model, 1)
    if embed:
        model, _ = Embed(cut.card).run(model)
    return to_bytes(Fold().run(model)[0])


def test_an_nhl_tree(tmp_path: Path) -> None:
    path = export_random("nhl_efficientnet_lite0", Taxonomy.parse(TREE), tmp_path / "a.onnx", size=32)
    # All: two parents of two children and one of three; and one without its second child.
    for indices, parents, heads in (([0, 1, 2, 3, 4, 5, 6], 2, 2), ([0, 1, 3, 4], 1, 1)):
        data = expert(path, indices)
        before = counts(data)
        for form in FORMS:
            found = counts(fused(data, form, engines=ENGINES, batch=1))
            if form.name == "grouped":
                assert found["Conv"] < before["Conv"]
                assert found.get("Gemm", 0) == 0, "every head has a sibling"
                assert found["Gather"] == 1
                assert "Split" not in found


@pytest.mark.parametrize("embed", [True, False])
def test_hlfp_in_both_forms(tmp_path: Path, embed: bool) -> None:
    """Separate modules become what the grouped form of the same network is; that one stays as it is."""
    paths = {
        form: export_random("hlfp_small", 4, tmp_path / f"{form}.onnx", size=32, form=form)
        for form in ("separate", "fused")
    }
    data = {form: expert(path, [0, 1, 3], embed=embed) for form, path in paths.items()}
    result = fused(data["separate"], FORM["grouped"], engines=ENGINES, batch=1)
    found, expected = counts(result), counts(data["fused"])
    operators = ("Conv", "Relu", "Add", "ReduceMean", "Split", "Concat", "Mul")
    assert {op: found.get(op, 0) for op in operators} == {op: expected.get(op, 0) for op in operators}
    for form in FORMS:
        assert not Fuse(form).run(read_model(data["fused"]))[1]
