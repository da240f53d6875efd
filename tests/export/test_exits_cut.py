"""An expert of a network with exits against the same network in torch, made for the expert's classes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from exitnets import TREE
from networks import run
from torch import nn

from expertc.card import Card, Output
from expertc.export.exporter import export
from expertc.graph import read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.prune import prune
from expertc.taxonomy import Taxonomy
from expertc.zoo import ExitNet
from expertc.zoo.exits import Plain

FLAGS: dict[str, Any] = {
    "branchy": (True, False, False), "sem": ((0, 0, 1), (1, 1, 0), False), "gran": (True, True, False),
    "ag": (True, True, True),
}  # fmt: skip


def network(taxonomy: Taxonomy, kind: str, coarse: bool = True) -> ExitNet:
    """Three convolutions, a neck with a layer of its own behind each."""
    torch.manual_seed(0)
    body = [nn.Sequential(nn.Conv2d(cin, 4, 3, padding=1), nn.ReLU()) for cin in (3, 4, 4)]
    necks = [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, width), nn.ReLU()), width)
        for width in (5, 6, 7)
    ]
    fine, flags, semantic = FLAGS[kind]
    return ExitNet(taxonomy, body, necks, fine, flags if coarse else False, semantic and coarse).eval()


@pytest.mark.parametrize("kind", FLAGS)
def test_an_expert_is_the_torch_network_for_its_classes(kind: str) -> None:
    full = network(TREE, kind)
    exits = full.about().placed(TREE)
    card = Card("tiny", TREE, tuple(map(Output, exits.fine)), "image", exits=exits)
    model = read_model(export(Plain(full), card, (8, 8)))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for indices in ((0, 1, 3), (1, 2), (0, 3)):
        done = prune(model, card, indices)
        left = done.card.exits
        assert left is not None
        small = network(TREE.restrict(indices), kind, coarse=bool(left.categories))
        columns = [exits.categories.index(name) for name in small.categories]
        rows = {"fine": list(indices), "coarse": columns}
        state = full.state_dict()
        small.load_state_dict({
            name: state[name][rows[part]] if (part := name.split(".")[-2]) in rows else state[name]
            for name in small.state_dict()
        })  # fmt: skip
        with torch.inference_mode():
            want = dict(zip(small.names, small.plain(x), strict=True))
        got = run(to_bytes(done.model), {"image": x.numpy()})
        spent = cost(done.model)
        if kind == "sem" and not left.categories:  # its early exits had nothing but categories to say
            assert list(got) == ["exit3.fine"]
            continue
        assert got.keys() == want.keys()
        order = [small.categories.index(name) for name in left.categories]
        for name, values in want.items():
            same = values.numpy()[:, order] if name.endswith("coarse") else values.numpy()
            assert np.allclose(got[name], same, rtol=1e-5, atol=1e-6), name
        assert spent.parameters == sum(p.numel() for p in small.parameters())
