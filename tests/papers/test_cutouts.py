"""The papers' experts, cut from the exported full network as a user does, counted on the expert's graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertc.export import export_random
from expertc.graph.cost import cost
from expertc.graph.thop import macs_thop
from expertc.source import open_source
from expertc.surgery.prune import prune


@pytest.mark.parametrize(
    ("name", "classes", "form", "kept", "parameters", "macs"),
    [
        ("hlfp_small", 10, "fused", (0, 5), 5_528_133, 2_659_850_368),
        ("hlfp_small", 10, "separate", (5, 10), 5_528_133, 2_659_850_368),
        ("nhl_resnet50", 100, "", (0, 20), 13_790_548, 4_215_842_816),
    ],
)
def test_the_published_expert_comes_out(
    name: str, classes: int, form: str, kept: tuple[int, int], parameters: int, macs: int, tmp_path: Path
) -> None:
    source = open_source(export_random(name, classes, tmp_path / "full.onnx", form=form))
    cut = prune(source.model, source.card, tuple(range(*kept)))
    assert cost(cut.model).parameters == parameters
    assert macs_thop(cut.model) == macs
    assert not cut.stopped
