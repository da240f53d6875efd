"""A few of timm's networks as torch's exporters write them; ``benchmarks/architectures.py`` tries all of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

missing = [name for name in ("torch", "timm", "onnxscript") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"the train extra is not installed: no {', '.join(missing)}")

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [
    ("resnet18", "torchscript"),
    ("ecaresnet26t", "torchscript"),
    ("densenet121", "torchscript"),
    ("convnextv2_atto", "torchscript"),
    ("vit_tiny_patch16_224", "dynamo"),
    ("deit_tiny_distilled_patch16_224", "torchscript"),
    ("swin_tiny_patch4_window7_224", "torchscript"),
]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The networks and their judges."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import timm_exports

    return timm_exports


@pytest.mark.parametrize(("name", "exporter"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_the_expert_is_exact_and_what_torch_would_have_built(judged: Any, name: str, exporter: str) -> None:
    network = judged.make(name)
    found = judged.judge(name, network, judged.export(network, judged.ARCHITECTURES[name][0], exporter))
    assert found["batch"] == "symbolic"
    assert judged.stops(found) == []
    assert judged.is_exact(found)
    assert judged.is_minimal(found)
    assert found["composable"]


def test_the_judges_notice_other_classes(judged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, right = judged.make("resnet18"), judged.prune
    data = judged.export(network, judged.ARCHITECTURES["resnet18"][0], "torchscript")

    def wrong(model: Any, card: Any, keep: list[int]) -> Any:
        return right(model, card, [(row + 1) % len(card.classes) for row in keep])

    monkeypatch.setattr(judged, "prune", wrong)
    assert not judged.is_exact(judged.judge("resnet18", network, data))
