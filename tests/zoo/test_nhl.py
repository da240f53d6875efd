from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertc.taxonomy import Node, Taxonomy
from expertc.zoo import NHL, import_timm
from expertc.zoo.blocks import Bottleneck

timm = import_timm()

TINY = {
    "backbone": "resnet18",
    "backbone_args": {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)},
    "widths": (4, 3, 2),
    "strides": (1, 1, 2),
}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tree(sizes: list[list[int]]) -> Taxonomy:
    """One root per list, one level-2 node per number, that many classes in it."""
    number = iter(range(10_000))
    roots = []
    for a, groups in enumerate(sizes):
        nodes = []
        for b, classes in enumerate(groups):
            leaves = tuple(Node(f"class-{a}-{b}-{c}", index=next(number)) for c in range(classes))
            nodes.append(Node(f"group-{a}-{b}", leaves))
        roots.append(Node(f"root-{a}", tuple(nodes)))
    return Taxonomy("published", tuple(roots))


def published() -> Taxonomy:
    """The tree of PAPERS 3a: 4 / 34 / 100 nodes; the first root, of 15 groups and 20 classes, is the expert's."""
    # 19 groups and 80 classes over three roots, as even as they come.
    rest = [[5, 5, 5, 4, 4, 4], [5, 5, 4, 4, 4, 4], [4, 4, 4, 4, 4, 4, 3]]
    return tree([[2] * 5 + [1] * 10, *rest])


def test_published_tree_has_the_published_node_counts() -> None:
    taxonomy = published()
    at = [len(taxonomy.path(node.name)) for node in taxonomy.nodes()]
    assert [at.count(level) for level in (1, 2, 3)] == [4, 34, 100]
    assert [len(root.children) for root in taxonomy.roots] == [15, 6, 6, 7]
    assert len(taxonomy.roots[0].leaves) == 20


def test_resnet50_nhl_has_the_published_parameters() -> None:
    taxonomy = published()
    with torch.device("meta"):
        full = timm.create_model("nhl_resnet50", taxonomy=taxonomy)
        expert = timm.create_model("nhl_resnet50", taxonomy=taxonomy.restrict(taxonomy.roots[0].leaves))
    assert parameters(full.trunk) == 8_543_296
    assert parameters(full) == 24_955_556
    assert parameters(expert) == 13_790_548


@pytest.mark.parametrize(
    ("block", "published_count"),
    [((1024, 128, 512, 1), 870_912), ((512, 64, 256, 1), 218_368), ((256, 32, 128, 2), 54_912)],
)
def test_published_blocks(block: tuple[int, int, int, int], published_count: int) -> None:
    assert parameters(Bottleneck(*block)) == published_count


@settings(max_examples=20, deadline=None)
@given(*[st.integers(1, 40)] * 3, st.integers(1, 3))
def test_block_parameters_follow_the_formula(cin: int, w: int, out: int, stride: int) -> None:
    expected = cin * w + 9 * w * w + w * out + 2 * (2 * w + out) + cin * out + 2 * out
    assert parameters(Bottleneck(cin, w, out, stride)) == expected


@pytest.mark.parametrize("stride", [1, 2])
def test_block_computes_what_timms_projected_bottleneck_does(stride: int) -> None:
    torch.manual_seed(0)
    ours = Bottleneck(6, 4, 16, stride).eval()
    projection = torch.nn.Sequential(torch.nn.Conv2d(6, 16, 1, stride, bias=False), torch.nn.BatchNorm2d(16))
    theirs = timm.models.resnet.Bottleneck(6, 4, stride, projection).eval()
    for buffer in ours.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    renamed = {
        name.replace("shortcut_bn.", "downsample.1.").replace("shortcut.", "downsample.0."): value
        for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    x = torch.randn(2, 6, 7, 9)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def tiny(taxonomy: Taxonomy) -> NHL:
    network: NHL = timm.create_model("nhl", taxonomy=taxonomy, **TINY)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def full() -> NHL:
    torch.manual_seed(1)
    return tiny(tree([[2, 1], [1, 3], [3]]))


@pytest.mark.parametrize("kept", [[0], [6, 1], [0, 2, 4, 9], list(range(10))])
def test_a_restricted_taxonomy_is_the_sub_network(full: NHL, kept: list[int]) -> None:
    taxonomy = full.taxonomy
    expert: NHL = timm.create_model("nhl", taxonomy=taxonomy.restrict(kept), **TINY).eval()
    weights = full.state_dict()
    expert.load_state_dict({name: weights[name] for name in expert.state_dict()})
    x = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        everything, some = full(x), expert(x)
    assert some.shape == (2, len(kept))
    assert torch.equal(some, everything[:, sorted(kept)])
    assert everything.std(0).min() > 0, "the logits do not depend on the image: the comparison says nothing"


def test_logits_stand_in_the_order_of_the_indices() -> None:
    roots = (Node("b", (Node("b1", index=2), Node("b0", index=0))), Node("a", index=1))
    network = tiny(Taxonomy("mixed", roots))
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        trunk = network.forward_features(x)
        group, high = network.nest["b"], network.nest["a"]
        below = group.block(trunk)
        by_class = {node.index: node(below) for node in group.children_by_name.values()} | {1: high(trunk)}
        logits = network(x)
    assert [torch.equal(logits[:, i : i + 1], by_class[i]) for i in range(3)] == [True] * 3


def test_a_tree_may_be_deeper_than_the_widths_and_a_class_may_hang_high() -> None:
    deep = Node("a", (Node("b", (Node("c", (Node("d", (Node("e", index=0),)),)),)),))
    network = timm.create_model("nhl", taxonomy=Taxonomy("deep", (deep, Node("high", index=1))), **TINY).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["pop", "training", "forward", "a.b", "a%2Eb", "a_b", "[/]", "naïve é 日本", "0", "%"])
def test_any_class_name_makes_a_module(name: str) -> None:
    others = ["a.b", "a%2Eb", "a_b", "pop%"]
    labels = [name, *(other for other in others if other != name)]
    network = timm.create_model("nhl", taxonomy=Taxonomy.flat(labels), **TINY).eval()
    assert len(network.nest) == len(labels)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, len(labels))


def test_timm_lists_and_creates_them() -> None:
    assert timm.list_models("nhl*") == ["nhl", "nhl_convnextv2_tiny", "nhl_efficientnet_lite0", "nhl_resnet50"]
    network = timm.create_model("nhl_efficientnet_lite0", taxonomy=Taxonomy.flat(["a", "b"]), drop_rate=0.1)
    assert isinstance(network, NHL)
    assert network.num_features == 112
    # Kept: what timm counts up to blocks.4, and not what lies behind it.
    whole = timm.create_model("efficientnet_lite0")
    front = (whole.conv_stem, whole.bn1, *whole.blocks[:5])
    assert parameters(network.trunk) == sum(map(parameters, front))
    assert timm.create_model("nhl", num_classes=3, **TINY).num_classes == 3


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="pretrained"):
        timm.create_model("nhl_efficientnet_lite0", pretrained=True, num_classes=2)
    with pytest.raises(ValueError, match="num_classes is 3, but the taxonomy has 2"):
        timm.create_model("nhl_efficientnet_lite0", num_classes=3, taxonomy=Taxonomy.flat(["a", "b"]))
    with pytest.raises(ValueError, match="as long as"):
        timm.create_model("nhl", num_classes=2, **(TINY | {"strides": (1,)}))
