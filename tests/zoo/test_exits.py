from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from expertc.errors import InvalidArtifactError, UsageError
from expertc.exits import Exit
from expertc.taxonomy import Taxonomy
from expertc.zoo import ExitNet, import_timm, rehearse
from expertc.zoo.trees import three_levels, two_levels

timm = import_timm()

PUBLISHED = {
    "hbn_alexnet": ["exit1.fine"],
    "b_alexnet": ["exit1.fine", "exit2.fine", "exit3.fine"],
    "sem_hbn": ["exit1.coarse", "exit2.coarse", "exit3.fine"],
    "gran_hbn": [f"exit{u}.{kind}" for u in (1, 2, 3) for kind in ("fine", "coarse")],
    "ag_hbn": ["semantic", *(f"exit{u}.{kind}" for u in (1, 2, 3) for kind in ("fine", "coarse"))],
}


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def made(name: str, shape: Any = (3, 2), **arguments: Any) -> ExitNet:
    torch.manual_seed(1)
    network: ExitNet = timm.create_model(name, taxonomy=two_levels(shape), **arguments).eval()
    return network


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_published_networks_answer(name: str) -> None:
    network, x = made(name), images()
    with torch.inference_mode():
        found = dict(zip(network.names, network.plain(x), strict=True))
        assert torch.equal(network(x), found[next(n for n in reversed(PUBLISHED[name]) if n.endswith("fine"))])
    assert list(found) == PUBLISHED[name]
    width = {"fine": 5, "coarse": 2, "semantic": 2}
    assert {n: tuple(t.shape) for n, t in found.items()} == {n: (3, width[n.rpartition(".")[2]]) for n in found}
    about = network.about().placed(network.taxonomy)
    coarse = any("coarse" in n for n in found)
    assert set(about.tensors) == set(found)
    assert about.categories == (("group-0", "group-1") if coarse else ())
    assert about.of == ((0, 0, 0, 1, 1) if coarse else ())
    assert about.thresholds == {"hbn_alexnet": (), "ag_hbn": (0.5, 0.3)}.get(name, (0.5, 0.5))


def test_the_exits_by_torch_alone() -> None:
    """What PAPERS' table of layers says, layer by layer, from the network's weights in their order."""
    network, x = made("ag_hbn"), images()
    F = torch.nn.functional
    weights = iter([m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)])

    def conv(x: torch.Tensor, stride: int = 1, pool: bool = False) -> torch.Tensor:
        layer = next(weights)
        x = F.conv2d(x, layer.weight, layer.bias, stride, 1)
        return F.relu(F.max_pool2d(x, 2) if pool else x)

    def linear(x: torch.Tensor, relu: bool = True) -> torch.Tensor:
        layer = next(weights)
        y = F.linear(x, layer.weight, layer.bias)
        return F.relu(y) if relu else y

    with torch.inference_mode():
        one = conv(x, 2, pool=True)
        two = conv(conv(one, pool=True))
        three = conv(conv(two), pool=True)
        necks = [linear(conv(conv(one, pool=True), pool=True).flatten(1))]
        heads = [linear(necks[0], False), linear(necks[0], False)]
        necks.append(linear(conv(two, 2, pool=True).flatten(1)))
        heads += [linear(necks[1], False), linear(necks[1], False)]
        last = linear(linear(three.flatten(1)))
        heads += [linear(last, False), linear(last, False)]
        heads.insert(0, linear(necks[0], False))
        assert next(weights, None) is None
        for own, theirs in zip(network.plain(x), heads, strict=True):
            torch.testing.assert_close(own, theirs)


def test_weights_keep_their_names_without_an_exit() -> None:
    plain, whole = made("hbn_alexnet").state_dict(), made("ag_hbn").state_dict()
    assert plain.keys() < made("b_alexnet").state_dict().keys() < made("gran_hbn").state_dict().keys() < whole.keys()


def test_exits_on_a_backbone() -> None:
    """The last exit is the backbone's own; an early one reads a feature map as timm gives it."""
    network, x = made("exits", backbone="resnet18", at=[2], width=16, coarse=[True, False]), images(64)
    backbone = timm.create_model("resnet18", num_classes=5).eval()
    plain = {name.replace(".", "_"): tensor for name, tensor in backbone.state_dict().items()}
    state = {own: plain[origin.replace(".", "_")] for own, origin in network.origins().items()}
    state |= {"branches.1.fine.weight": backbone.fc.weight, "branches.1.fine.bias": backbone.fc.bias}
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("branches.0.") for name in missing.missing_keys)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), backbone(x))
        maps = timm.create_model("resnet18", features_only=True, out_indices=(2,)).eval()
        maps.load_state_dict(backbone.state_dict(), strict=False)
        branch = network.branches["0"]
        torch.testing.assert_close(network.plain(x)[1], branch.coarse(branch.neck(maps(x)[0])))
    assert network.about().exits == (Exit("exit1.fine", "exit1.coarse"), Exit("exit2.fine", None))


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "convnext_atto", "densenet121", "regnetx_002"])
def test_any_row_of_stages(backbone: str) -> None:
    tree = two_levels((2, 2))
    rehearse("exits", tree, {"backbone": backbone, "at": [0, 2], "semantic": True}, [64])


def test_the_tree_matters_only_where_an_answer_is_coarse() -> None:
    flat, deep = Taxonomy.flat(["a", "b"]), three_levels([[1, 1], [2]])
    for tree in (flat, deep):
        assert made_with(tree, "b_alexnet").num_classes == len(tree)
        for name in ("sem_hbn", "gran_hbn", "ag_hbn"):
            with pytest.raises(UsageError, match="two levels") as caught:
                made_with(tree, name)
            assert "levels" in caught.value.hint
    assert made_with(deep.lowest(2), "gran_hbn").categories == ("group-0", "group-1", "group-2")


def made_with(tree: Taxonomy, name: str) -> ExitNet:
    with torch.device("meta"):
        network: ExitNet = timm.create_model(name, taxonomy=tree)
    return network


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"backbone": "vit_tiny_patch16_224"}, UsageError, "row of stages"),
        ({"backbone": "nothing"}, InvalidArtifactError, "not allowed"),
        ({"at": [2, 1]}, InvalidArtifactError, "rising"),
        ({"at": [4]}, InvalidArtifactError, "before the last, number 4"),
        ({"at": [-1]}, InvalidArtifactError, "rising"),
        ({"fine": [True, True]}, InvalidArtifactError, "3 exits"),
        ({"fine": [True, True, False]}, InvalidArtifactError, "no fine logits"),
        ({"coarse": [True, True, False], "semantic": True}, InvalidArtifactError, "semantic"),
        ({"thresholds": [1.0]}, InvalidArtifactError, "thresholds"),
        ({"thresholds": [1.0, float("nan")]}, InvalidArtifactError, "thresholds"),
        ({"width": -1}, InvalidArtifactError, "cannot be built"),
        ({"pretrained_backbone": True}, InvalidArtifactError, "not allowed"),
    ],
)
def test_exits_that_make_no_sense(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        rehearse("exits", two_levels((2, 2)), arguments, [64])
    assert caught.value.hint  # type: ignore[attr-defined]


def test_the_published_tree() -> None:
    network = timm.create_model("gran_hbn", num_classes=100)
    sizes = np.unique([len(root.leaves) for root in network.taxonomy.roots], return_counts=True)
    assert [list(map(int, found)) for found in sizes] == [[5], [20]]
    assert len(timm.create_model("gran_hbn", num_classes=7).categories) == 2
