from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from expertc.errors import ModelError
from expertc.export import check, export_plain, exporter
from expertc.taxonomy import Node, Taxonomy
from expertc.zoo import import_timm

timm = import_timm()

TREE = Taxonomy(
    "tree",
    (Node("a", (Node("a1", index=3), Node("a2", (Node("a3", index=0), Node("a4", index=2))))), Node("b", index=1)),
)
PAIRS = Taxonomy("pairs", (Node("a", (Node("a1", index=2), Node("a2", index=0))), Node("b", (Node("b1", index=1),))))
NETWORKS: dict[str, dict[str, Any]] = {
    "hlfp_small": {"form": "separate", "width": 0.0625, "taxonomy": TREE},
    "hlfp_nested": {"form": "separate", "width": 0.0625, "taxonomy": PAIRS},
    "nhl_convnextv2_tiny": {
        "backbone": "convnextv2_atto", "backbone_args": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
        "widths": (8, 6, 4), "taxonomy": TREE,
    },
}  # fmt: skip


def network(name: str) -> Any:
    torch.manual_seed(0)
    made = timm.create_model(name, **NETWORKS[name])
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) * (0.2 if tensor.dim() > 1 else 1.0) + (0.0 if tensor.dim() > 1 else 0.5)
            )
            tensor.sub_(0.1 if tensor.dim() > 1 else 0.0)
    return made.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[Any, bytes]:
    made = network(request.param)
    return made, export_plain(made, (64, 64))


def test_it_computes_what_torch_does(case: tuple[Any, bytes]) -> None:
    made, model = case
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert made(images).std(0).min() > 0, "the logits do not depend on the image: the comparison says nothing"
    assert check(model, made, images) < 1e-4


def test_every_weight_is_there_once(case: tuple[Any, bytes]) -> None:
    """Some are turned over or of another shape; none is another branch's."""
    made, model = case
    held = [numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer]
    marks = sorted(
        float(np.sort(values, axis=None)[0]) for values in held if values.dtype == np.float32 and values.size > 1
    )
    state = [t for t in made.state_dict().values() if t.is_floating_point() and t.numel() > 1]
    np.testing.assert_array_equal(marks, sorted(float(t.min()) for t in state))


def test_it_is_the_same_bytes_every_time(case: tuple[Any, bytes]) -> None:
    made, model = case
    assert export_plain(made, (64, 64)) == model


def test_one_kind_of_part_goes_through_torch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = exporter._through_torch

    def counting(*arguments: Any) -> Any:
        asked.append(1)
        return original(*arguments)

    monkeypatch.setattr(exporter, "_through_torch", counting)
    made = network("hlfp_small")
    export_plain(made, (64, 64))
    assert len(asked) == 2  # the trunk and one branch of four


def test_weights_that_torch_computes_anew_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("hlfp_small")

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(32, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.mean((2, 3)) @ (self.weight * 2))[:, :1]

    made.branches[1] = Odd()
    # torch folds a product of a weight with a number, or leaves it in the graph: then it is done here.
    original = exporter._through_torch

    def folded(module: torch.nn.Module, *arguments: Any) -> Any:
        lean = original(module, *arguments)
        if isinstance(module, Odd):
            product = module.weight.detach().numpy() * np.float32(2)
            lean.proto.graph.initializer.append(numpy_helper.from_array(product, "product"))
            lean.proto.graph.node[-1].input.append("product")
        return lean

    monkeypatch.setattr(exporter, "_through_torch", folded)
    with pytest.raises(ModelError, match="out of a branch's weights"):
        export_plain(made, (64, 64))
