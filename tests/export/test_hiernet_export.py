"""Both forms of a HierNet from one network, against torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from expertc.card import CARD_KEY, Card, Output, Preprocess
from expertc.export.hierarchical import export_hiernet, with_routes
from expertc.graph import read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.route import route
from expertc.taxonomy import Node, Taxonomy
from expertc.zoo import HierNet, import_timm
from expertc.zoo.count import count, route_macs

timm = import_timm()
SPEC = Preprocess((32, 32), 32, "bilinear")


def tree(*shape: Any) -> Taxonomy:
    names = iter(["a.b", "top", "routes", *(f"node-{i}" for i in range(99))])

    def grow(item: Any) -> Node:
        return Node(f"class-{item}", index=item) if isinstance(item, int) else Node(next(names), tuple(map(grow, item)))

    return Taxonomy("tree", tuple(map(grow, shape)))


TREE = tree([[[3, 0]], [7, 1]], [[5]], [6, [4, 2]])  # three levels, a class beside groups, categories of one child


def made(taxonomy: Taxonomy) -> HierNet:
    torch.manual_seed(0)
    network = timm.create_model("hiernet_resnet20", taxonomy=taxonomy, split=8, add=0)  # small leaves
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and "bn" in name:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
    for name, tensor in network.state_dict().items():
        if "linear.weight" in name:
            tensor.normal_(0, 0.3)
    return network.eval()


def test_slow_and_fast(tmp_path: Path) -> None:
    taxonomy, network = TREE, made(TREE)
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        joint, routed = network(x).numpy(), torch.softmax(network.routed(x), 1).numpy()
    card = Card("hier", taxonomy, (Output("logits"),), "image", SPEC)
    columns = with_routes(network, card)[1].routes.columns
    files = {
        form: export_hiernet(network, card, (32, 32), x, tmp_path / f"{form}.onnx", form=form)
        for form in ("slow", "fast")
    }
    model = read_model(files["slow"])
    files["many"] = tmp_path / "many.onnx"
    files["many"].write_bytes(to_bytes(route(model, Card.from_json(model.metadata[CARD_KEY]))))
    found = {}
    for form, path in files.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [output.name for output in session.get_outputs()] == ["logits", "routes"]
        parts = [
            session.run(None, {"image": part}) for part in (np.split(x.numpy(), 8) if form == "fast" else [x.numpy()])
        ]
        found[form] = [np.concatenate(values) for values in zip(*parts, strict=True)]
        held = Card.from_json(read_model(path).metadata[CARD_KEY])
        assert held.routes is not None
        assert held.routes.columns == columns
        assert cost(read_model(path)).parameters == sum(p.numel() for p in network.parameters())
    bare = copy.deepcopy(network).to("meta")
    assert cost(read_model(files["slow"])).macs == count(bare, 32)["macs"]
    for form in ("fast", "many"):
        assert cost(read_model(files[form])).macs == max(route_macs(bare, 32).values())
    top = list(held.routes.routers(taxonomy)[""])
    (slow, routes), (one, steps), (many, _) = found["slow"], found["fast"], found["many"]
    np.testing.assert_allclose(slow, joint, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(one) / np.exp(one).sum(1, keepdims=True), routed, atol=1e-5)
    np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-5)
    taken = steps > 0
    np.testing.assert_allclose(steps[taken], routes[taken], atol=1e-5)
    np.testing.assert_allclose(routes[:, top].sum(1), 1, atol=1e-5)
