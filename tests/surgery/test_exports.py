"""The cut of what torch really exports: a ResNet, a ConvNeXt, an NHL, each small and with random weights.

Size is judged by the torch network built for the selected classes only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from laws import close
from networks import card, cut, feeds, rows, run

from expertc.card import Card, Output
from expertc.graph import read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.fold import Fold
from expertc.surgery.owners import ownership
from expertc.taxonomy import Taxonomy

torch = pytest.importorskip("torch", reason="the train extra is not installed")

SIDE = 32
TREE = Taxonomy.parse("""
name: sea
tree:
  fishes:
    flat: {rays: {index: 0}, plaice: {index: 3}}
    eels: {index: 1}
  mammals: {whales: {index: 4}, seals: {index: 2}}
""")


def resnet(tree: Taxonomy) -> Any:
    from expertc.zoo import import_timm

    models = import_timm().models.resnet
    return models.ResNet(models.BasicBlock, (1, 1, 1, 1), num_classes=len(tree), channels=(8, 8, 16, 16))


def convnext(tree: Taxonomy) -> Any:
    from expertc.zoo import import_timm

    return import_timm().models.convnext.ConvNeXt(num_classes=len(tree), depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def nhl(tree: Taxonomy) -> Any:
    from expertc.zoo import NHL

    small = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    return NHL(tree, "resnet18", widths=(4, 4, 2), strides=(1, 1, 1), expansion=2, backbone_args=small)


NETWORKS: dict[str, Callable[[Taxonomy], Any]] = {"resnet": resnet, "convnext": convnext, "nhl": nhl}


class Exported(NamedTuple):
    build: Callable[[Taxonomy], Any]
    network: Any
    data: bytes
    card: Card


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest) -> Exported:
    """A network with weights that are none of them trivial, and its full model."""
    from expertc.export import export

    torch.manual_seed(5)
    network = NETWORKS[request.param](TREE).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
    full = card(TREE, Output("logits"))
    return Exported(NETWORKS[request.param], network, export(network, full, (SIDE, SIDE)), full)


def counted(network: Any) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of convolutions and linear layers, by torch alone."""
    macs = 0

    def add(module: Any, inputs: Any, output: Any) -> None:
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(add)
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return sum(parameter.numel() for parameter in network.parameters()), macs


@pytest.mark.parametrize("keep", [[0, 1, 2, 3, 4], [0, 3], [1, 2, 4], [4]], ids=str)
def test_rows_are_the_full_models_and_size_is_that_of_the_network_for_the_selection(
    exported: Exported, keep: Sequence[int]
) -> None:
    data, done = cut(exported.data, exported.card, keep)
    inputs = feeds(exported.data, batch=3)
    wanted = rows(run(exported.data, inputs)["logits"], keep)
    got = run(data, inputs)["logits"]
    close(got, wanted, "logits", exact=len(keep) > 1)
    size = cost(read_model(data))
    assert (size.parameters, size.macs) == counted(exported.build(TREE.restrict(keep)))
    assert done.stopped == ()
    folded, changed = Fold().run(done.model)
    after = run(to_bytes(folded), inputs)["logits"]
    np.testing.assert_allclose(after, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert changed == any(isinstance(module, torch.nn.BatchNorm2d) for module in exported.network.modules())
    assert "BatchNormalization" not in {node.op for node in folded.nodes}


def test_composable(exported: Exported) -> None:
    direct, _ = cut(exported.data, exported.card, [1, 4])
    step, done = cut(exported.data, exported.card, [0, 1, 4])
    assert cut(step, done.card, [1, 2])[0] == direct


def test_branches_are_the_modules_of_the_network(exported: Exported) -> None:
    owned = ownership(read_model(exported.data), exported.card)
    sizes = {branch.name: branch.cost.parameters for branch in owned.branches}
    if exported.build is not nhl:
        head = exported.network.get_classifier()
        assert sizes == dict.fromkeys(TREE.classes, head.in_features + 1)
        return
    assert owned.trunk.cost.parameters == sum(p.numel() for p in exported.network.trunk.parameters())
    assert sizes.keys() == TREE.by_name.keys()

    def check(node: Any, module: Any) -> None:
        own = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("children_by_name"))
        assert sizes[node.name] == own
        for child in node.children:
            check(child, module.children_by_name[child.name])

    for root in TREE.roots:
        check(root, exported.network.nest[root.name])
