from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertc.errors import UsageError
from expertc.taxonomy import Node, Taxonomy
from expertc.zoo import CifarResNet, HierNet, import_timm
from expertc.zoo.cifar import BasicBlock
from expertc.zoo.hiernet import places
from expertc.zoo.parts import IMAGE
from expertc.zoo.stages import make_stages

timm = import_timm()


def tree(shape: Any) -> Taxonomy:
    """Lists are categories, numbers classes with that index; the names are made to be awkward."""
    awkward = iter(["pop", "a.b", "top", "body", "50%", "keys", *(f"node-{i}" for i in range(99))])

    def grow(item: Any) -> Node:
        return (
            Node(f"class-{item}", index=item) if isinstance(item, int) else Node(next(awkward), tuple(map(grow, item)))
        )

    return Taxonomy("tree", tuple(map(grow, shape)))


SHAPES: dict[str, Any] = {
    "two levels, mixed order": [[3, 0], [5, 1, 4], [2, 6]],
    "a class beside groups": [[3, 0], 5, [1, 4], 2],
    "three levels, uneven": [[[3, 0], [7, 1]], [5, [4, 2]], 6],
    "categories of one child": [[[3, 0]], [[5]], [1, [[2, 4]]]],
    "flat": [1, 0, 2],
    "one at the top": [[[1, 0], [2, 3]]],
}


def lively(network: Any) -> Any:
    """Norms that do something, in eval mode."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
    return network.eval()


def small(shape: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return lively(timm.create_model("hiernet", taxonomy=tree(shape), **arguments))


def by_hand(network: HierNet, x: torch.Tensor, onehot: bool = False) -> np.ndarray:
    """The joint distribution in numpy from the linear layers' logits, walking the taxonomy itself."""
    logits: dict[str, np.ndarray] = {}
    for place in network.places:
        network.choice(place).head.linear.register_forward_hook(
            lambda _, __, made, name=place.name: logits.update({name: made.double().numpy()})
        )
    network(x)
    made = np.zeros((len(x), len(network.taxonomy)))

    def walk(nodes: Any, name: str, above: np.ndarray) -> None:
        if len(nodes) == 1 and nodes[0].children:
            walk(nodes[0].children, name, above)
            return
        own = np.exp(logits[name]) / np.exp(logits[name]).sum(1, keepdims=True)
        if onehot and any(len(node.leaves) > 1 for node in nodes):
            own = np.eye(own.shape[1])[own.argmax(1)]
        for at, node in enumerate(nodes):
            share = above * own[:, at]
            if len(node.leaves) == 1:
                made[:, node.leaves[0]] = share
            else:
                walk(node.children, node.name, share)

    walk(network.taxonomy.roots, "", np.ones(len(x)))
    return made


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_slow_is_the_product_and_fast_the_likeliest_way(shape: Any) -> None:
    network = small(shape, split=[1, 2], add=[1, 0])
    x = torch.randn(6, 3, 16, 16)
    with torch.inference_mode():
        slow, fast, expected = network(x).exp(), network.routed(x).exp(), by_hand(network, x)
        one = by_hand(network, x, onehot=True)
    assert slow.shape == (6, len(network.taxonomy))
    np.testing.assert_allclose(slow.numpy(), expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(expected.sum(1), 1)
    np.testing.assert_allclose(fast.numpy(), one, rtol=1e-3, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the image does not matter: the comparison says nothing"


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.just(0), lambda below: st.lists(below, min_size=1, max_size=3), max_leaves=12))
def test_every_class_has_one_place_in_any_tree(shape: Any) -> None:
    number = iter(range(99))

    def numbered(item: Any) -> Any:
        return next(number) if item == 0 else [numbered(one) for one in item]

    taxonomy = tree([numbered(shape)])
    found = list(places(taxonomy))
    children = [child for place in found for child in place.children]
    assert sorted(child for child in children if isinstance(child, int)) == list(range(len(taxonomy)))
    assert sorted(child for child in children if isinstance(child, str)) == sorted(p.name for p in found[1:])
    assert len({place.path for place in found}) == len(found)
    assert all(len(place.children) > 1 for place in found) or len(taxonomy) == 1
    for place in found[1:]:
        assert place.above is not None
        assert next(p for p in found if p.name == place.above[0]).children[place.above[1]] == place.name


def test_the_parts_are_the_whole_network() -> None:
    network = small(SHAPES["three levels, uneven"], split=[1, 2], add=[1, 0])
    parts = list(network.parts())
    assert {id(p) for part in parts for p in part.module.parameters()} == {id(p) for p in network.parameters()}
    x = torch.randn(2, 3, 16, 16)
    made = {IMAGE: x}
    with torch.inference_mode():
        for part in parts:
            made[part.name] = part.module(*(made[name] for name in part.reads))
        for place in network.places:
            assert torch.equal(made[f"{place.path}.head"], network.decisions(x)[place.name])


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}), ("vgg11_bn", {"mlp_ratio": 0.01}),
     ("efficientnet_lite0", {}), ("cifar_resnet20", {}), ("cifar_elu_resnet20", {})],
)  # fmt: skip
def test_one_stretch_after_another_is_the_backbone(name: str, options: dict[str, Any]) -> None:
    """timm's own feature networks say what each stage gives."""
    torch.manual_seed(0)  # of eight channels all may be dead
    stages = make_stages(name, options=options)
    theirs = timm.create_model(name, features_only=True, out_indices=(-1,), **options).eval()
    whole = stages.stretch(0, len(stages))
    given = {key.replace(".", "_"): tensor for key, tensor in whole.state_dict().items()}
    theirs.load_state_dict({key: given[key.replace(".", "_")] for key in theirs.state_dict()})
    assert len(given) == len(theirs.state_dict())
    middle = len(stages) // 2
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        half = stages.stretch(0, middle).eval()(x)
        end = stages.stretch(middle, len(stages)).eval()(half)
        torch.testing.assert_close(end, theirs(x)[0])
    assert (half.shape[1], end.shape[1]) == (stages.channels[middle], stages.channels[-1])
    assert end.std() > 0


def test_a_backbone_that_is_no_row_of_stages() -> None:
    with pytest.raises(UsageError, match="vit_tiny_patch16_224"):
        make_stages("vit_tiny_patch16_224")


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_computes_what_timms_does(stride: int) -> None:
    torch.manual_seed(0)
    cout = 4 * stride
    ours = lively(BasicBlock(4, cout, stride))
    projection = torch.nn.Sequential(torch.nn.Conv2d(4, cout, 1, stride, bias=False), torch.nn.BatchNorm2d(cout))
    theirs = timm.models.resnet.BasicBlock(4, cout, stride, projection if stride > 1 else None).eval()
    theirs.load_state_dict({k.replace("shortcut", "downsample"): v for k, v in ours.state_dict().items()})
    x = torch.randn(2, 4, 7, 9)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))
        elu = lively(BasicBlock(4, cout, stride, elu=True))
        first = torch.nn.functional.elu(elu.conv1(x))
        torch.testing.assert_close(elu(x), elu.bn2(elu.conv2(first)) + elu.shortcut(x))
        assert elu(x).min() < -1, "an activation behind the addition"


def test_elu_stands_before_the_pooling_of_leaves_alone() -> None:
    network = timm.create_model("hiernet_elu_resnet20", num_classes=28)
    ends = {name: [type(m).__name__ for m in choice.body][-1] for name, choice in network.groups.items()}
    assert set(ends.values()) == {"ELU"}
    assert [type(m).__name__ for m in network.top.head.body] == ["BasicBlock"] * 2
    backbone = lively(timm.create_model("cifar_elu_resnet20", num_classes=2))
    assert isinstance(backbone, CifarResNet)
    with torch.inference_mode():
        assert backbone.forward_features(torch.randn(2, 3, 32, 32)).min() >= -1


def test_parts_begin_alike_and_share_nothing() -> None:
    network = timm.create_model("hiernet", taxonomy=tree(SHAPES["two levels, mixed order"]))
    first, second = (network.groups[name].body for name in list(network.groups)[:2])
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize(
    ("backbone", "split", "add"),
    [("cifar_resnet20", 5, 2), ("vgg16", 3, 2), ("resnet50", 3, 2), ("cifar_resnet44", 5, 2)],
)
def test_where_the_parts_end_unless_it_is_said(backbone: str, split: int, add: int) -> None:
    with torch.device("meta"):
        given, told = (
            timm.create_model("hiernet", taxonomy=tree(SHAPES["two levels, mixed order"]), backbone=backbone, **options)
            for options in ({}, {"split": split, "add": add})
        )
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (given, told)]
    assert shapes[0] == shapes[1]


def test_wrong_arguments_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"split": 8, "add": 2}, {"split": 10}, {"split": [3, 2]}, {"split": []}]
    wrong += [{"add": -1}, {"split": [5, 8], "add": 2}]
    for arguments in wrong:
        with pytest.raises(ValueError, match="split"):
            timm.create_model("hiernet", num_classes=30, **arguments)
    with pytest.raises(ValueError, match="pretrained"):
        timm.create_model("hiernet", num_classes=30, pretrained=True)
    with pytest.raises(ValueError, match="n is 0"):
        timm.create_model("cifar_resnet20", num_classes=30, n=0)
